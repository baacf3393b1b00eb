"""What a person reads in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from unmask.evaluation.cells import Cell
from unmask.evaluation.summaries import Summary
from unmask.policies.grids import GRIDS
from unmask.policies.registry import class_of


def setting(cell: Cell) -> str:
    """The cell's settings in a few words, those that are never tuned only where they are not the rule's own; of a
    learned policy its name."""
    if "name" in cell.policy:
        return str(cell.policy["name"])
    usual = class_of(cell.policy["type"]).defaults()
    tuned = GRIDS.get(cell.policy["type"], cell.policy)
    shown = {
        key: value
        for key, value in cell.policy.items()
        if key != "type" and (key in tuned or key not in usual or value != usual[key])
    }
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


def blocks(cell: Cell) -> str:
    """``full``, the block length, or ``adaptive``."""
    return "full" if cell.block_length == cell.gen_length else str(cell.block_length).partition(":")[0]


def table(summaries: Sequence[Summary], title: str) -> Table:
    """Accuracy and NFE of cells with their 95% intervals."""
    grid = Table(title=title, title_justify="left", header_style="bold")
    for name, justify in (("rule", "left"), ("blocks", "right"), ("setting", "left"), ("accuracy %", "right")):
        grid.add_column(name, justify="right" if justify == "right" else "left")
    grid.add_column("95% interval", justify="right")
    grid.add_column("NFE", justify="right")
    for s in summaries:
        learned = s.cell.label == "policy"
        grid.add_row(
            s.cell.label,
            blocks(s.cell),
            setting(s.cell),
            f"{100 * s.accuracy.mean:.1f}",
            "" if math.isnan(s.accuracy.low) else f"{100 * s.accuracy.low:.1f} to {100 * s.accuracy.high:.1f}",
            f"{s.nfe.mean:.1f}",
            style="bold red" if learned else None,
        )
    return grid
