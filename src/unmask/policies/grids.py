"""Rules with each of their settings: a heuristic's frontier is its best over its whole grid."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.policies.base import Grid
from unmask.policies.registry import tuned_rules
from unmask.settings import spell_items


def grid(type_name: str) -> list[str]:
    """A rule with each of its settings, as `unmask.load_policy` reads it.

    Raises:
        UnmaskError: a rule without a grid.
    """
    rules = tuned_rules()
    if type_name not in rules:
        raise UnmaskError(f"No grid of settings for {type_name!r}: {nearest(type_name, rules)}")
    return combinations(type_name, rules[type_name].grid)


def combinations(type_name: str, settings: Grid) -> list[str]:
    """A rule with every combination of settings, as `unmask.load_policy` reads it; none are its defaults."""
    pairs = [[f"{key}={_spelt(value)}" for value in values] for key, values in settings.items()]
    return [f"{type_name}:{','.join(one)}" if one else type_name for one in itertools.product(*pairs)]


def spelt(config: Mapping[str, Any]) -> str | None:
    """A rule's config in one word, as `unmask.load_policy` reads it; None for what has none, such as a wrapper's."""
    settings = {key: value for key, value in config.items() if key != "type" and value is not None}
    if any(isinstance(value, Mapping) for value in settings.values()):
        return None
    return combinations(config["type"], {key: (value,) for key, value in settings.items()})[0]


def _spelt(value: Any) -> str:
    return spell_items(value) if isinstance(value, list | tuple) else str(value)
