"""The settings over which each rule is tuned: a heuristic's frontier is its best over its whole grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from unmask.errors import UnmaskError, nearest

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
COUNTS = (1, 2, 4, 8)

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "confidence_threshold": {"threshold": THRESHOLDS},
    "entropy_bound": {"gamma": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
    "factor": {"factor": (0.25, 0.5, 1.0, 2.0)},
    "klass": {"threshold": (0.5, 0.7, 0.9), "kl": (0.001, 0.01, 0.1)},
    "margin_threshold": {"threshold": THRESHOLDS},
    "margin_top_k": {"k": COUNTS},
    "random_order": {"k": COUNTS},
    "rising_threshold": {"start": (0.3, 0.5, 0.7), "end": (0.7, 0.9, 0.99)},
    "top_k_confidence": {"k": COUNTS},
}


def grid(type_name: str) -> list[str]:
    """A rule with each of its settings, as `unmask.load_policy` reads it.

    Raises:
        UnmaskError: a rule without a grid.
    """
    if type_name not in GRIDS:
        raise UnmaskError(f"No grid of settings for {type_name!r}: {nearest(type_name, GRIDS)}")
    return combinations(type_name, GRIDS[type_name])


def combinations(type_name: str, settings: Mapping[str, Sequence[Any]]) -> list[str]:
    """A rule with every combination of settings, as `unmask.load_policy` reads it; none are its defaults."""
    pairs = [[f"{key}={_spelt(value)}" for value in values] for key, values in settings.items()]
    return [f"{type_name}:{','.join(one)}" if one else type_name for one in itertools.product(*pairs)]


def _spelt(value: Any) -> str:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list | tuple) else str(value)
