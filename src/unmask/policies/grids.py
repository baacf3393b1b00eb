"""The settings over which each rule is tuned: a heuristic's frontier is its best over its whole grid."""

from __future__ import annotations

from unmask.errors import UnmaskError, nearest

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
COUNTS = (1, 2, 4, 8)

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "confidence_threshold": {"threshold": THRESHOLDS},
    "entropy_bound": {"gamma": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
    "factor": {"factor": (0.25, 0.5, 1.0, 2.0)},
    "margin_threshold": {"threshold": THRESHOLDS},
    "margin_top_k": {"k": COUNTS},
    "random_order": {"k": COUNTS},
    "top_k_confidence": {"k": COUNTS},
}


def grid(type_name: str) -> list[str]:
    """A rule with each of its settings, as `unmask.load_policy` reads it.

    Raises:
        UnmaskError: a rule without a grid.
    """
    if type_name not in GRIDS:
        raise UnmaskError(f"No grid of settings for {type_name!r}: {nearest(type_name, GRIDS)}")
    return [f"{type_name}:{key}={value}" for key, values in GRIDS[type_name].items() for value in values]
