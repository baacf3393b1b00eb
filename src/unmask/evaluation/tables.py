"""What a person reads in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from unmask.evaluation.bounds import Bound
from unmask.evaluation.entries import Entry, is_full
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary
from unmask.policies.registry import class_of, tuned_rules


def setting(entry: Entry) -> str:
    """The entry's settings in a few words, those that are never tuned only where they are not the rule's own; of a
    learned policy its name."""
    if "name" in entry.policy:
        speed = entry.decode.speed
        return str(entry.policy["name"]) + ("" if speed is None else f" at speed {speed:.2f}")
    type_name, rules = entry.policy["type"], tuned_rules()
    usual = class_of(type_name).defaults()
    tuned = rules[type_name].grid if type_name in rules else entry.policy
    shown = {
        key: value
        for key, value in entry.policy.items()
        if key != "type" and (key in tuned or key not in usual or value != usual[key])
    }
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


def blocks(entry: Entry) -> str:
    """``full``, the block length, or ``adaptive``."""
    return "full" if is_full(entry.decode) else str(entry.decode.block_length).partition(":")[0]


def table(summaries: Sequence[Summary], title: str, bounds: Sequence[Bound] = ()) -> Table:
    """Accuracy and NFE of entries with their 95% intervals; below them what oracles reach."""
    grid = Table(title=title, title_justify="left", header_style="bold")
    for name, justify in (("rule", "left"), ("blocks", "right"), ("setting", "left"), ("accuracy %", "right")):
        grid.add_column(name, justify="right" if justify == "right" else "left")
    grid.add_column("95% interval", justify="right")
    grid.add_column("NFE" if all(s.cost == "passes" for s in summaries) else "whole passes", justify="right")
    kept = any(s.positions is not None and s.partial for s in summaries)
    if kept:
        grid.add_column("positions", justify="right")
    told = any(s.correlation is not None for s in summaries)
    if told:
        grid.add_column("nats", justify="right")
    for s in summaries:
        learned = s.entry.kind == "policy"
        grid.add_row(
            s.entry.label,
            blocks(s.entry),
            setting(s.entry),
            f"{100 * s.accuracy.mean:.1f}",
            _interval(s.accuracy),
            f"{s.nfe.mean:.1f}",
            *([f"{s.positions or math.nan:,.0f}"] if kept else []),
            *(["" if s.correlation is None else f"{s.correlation:.2f}"] if told else []),
            style="bold red" if learned else None,
        )
    if bounds:
        grid.add_section()
    for one in bounds:
        nfe = "" if math.isnan(one.nfe.mean) else f"{one.nfe.mean:.1f}"
        reached = (f"{100 * one.accuracy.mean:.1f}", _interval(one.accuracy), nfe)
        grid.add_row("oracle", "full", one.name, *reached, style="dim")
    return grid


def _interval(accuracy: Interval) -> str:
    return "" if math.isnan(accuracy.low) else f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"
