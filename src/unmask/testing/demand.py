"""How a check fails: one sentence that names what was checked, the property, and what to change."""

from __future__ import annotations

from unmask.errors import UnmaskError


def demand(holds: bool, what: str, sentence: str) -> None:
    """
    Args:
        what: names what is checked.
        sentence: what it does not do, and what to change.

    Raises:
        UnmaskError: the property does not hold.
    """
    if not holds:
        raise UnmaskError(f"{what} {sentence}.")
