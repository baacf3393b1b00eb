"""What a person reads: the table in the terminal and the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from unmask.errors import UnmaskError
from unmask.evaluation.cells import Cell
from unmask.evaluation.summaries import Summary, frontier
from unmask.policies.auto import defaults
from unmask.policies.grids import GRIDS

COLOURS = {
    "policy": "#d1495b",
    "cloned": "#edae49",
    "threshold": "#00798c",
    "threshold, EOS suppressed": "#30638e",
    "top-k": "#5c8001",
    "random": "#8d8d8d",
}
MARKERS = {
    "policy": "*",
    "cloned": "P",
    "threshold": "o",
    "threshold, EOS suppressed": "s",
    "top-k": "^",
    "random": "x",
}


def setting(cell: Cell) -> str:
    """The cell's settings in a few words, those that are never tuned only where they are not the rule's own; of a
    learned policy its name."""
    if "name" in cell.policy:
        return str(cell.policy["name"])
    usual = defaults(cell.policy["type"])
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


def plot(summaries: Sequence[Summary], path: str | Path, title: str) -> list[Path]:
    """Draw accuracy against NFE, full diffusion and blocks side by side, as PNG and SVG.

    Args:
        path: where to write; the suffix is replaced by .png and .svg.

    Raises:
        UnmaskError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise UnmaskError("Plots need matplotlib: pip install 'unmask[plot]'.") from None

    learned = [s for s in summaries if s.cell.label in ("policy", "cloned")]
    full = [s for s in summaries if blocks(s.cell) == "full" and s not in learned]
    semi = [s for s in summaries if blocks(s.cell) != "full" and s not in learned]
    with plt.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "unmask"}
    ):
        panels = [("full diffusion", full), ("best of all block lengths", semi)]
        panels = [panel for panel in panels if panel[1] or (not semi and not full)]
        figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.5), sharey=True, squeeze=False)
        for axis, (name, cells) in zip(axes[0], panels, strict=True):
            for label in dict.fromkeys(s.cell.label for s in cells):
                family = [s for s in cells if s.cell.label == label]
                _scatter(axis, family, label, faint=name.startswith("best"))
                if name.startswith("best"):
                    _scatter(axis, frontier(family), label, line=True)
            for s in learned:
                _scatter(axis, [s], s.cell.label, size=190 if s.cell.label == "policy" else 70)
            axis.set_title(f"heuristics: {name}", loc="left", fontsize=10)
            axis.set_xlabel("NFE (dLLM forward passes a prompt)")
            axis.set_ylim(0, 102)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.25)
        axes[0][0].set_ylabel("accuracy, %")
        handles: dict[str, Any] = {}
        for axis in axes[0]:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(list(handles.values()), list(handles), loc="lower center", ncols=3, frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.tight_layout(rect=(0, 0.1, 1, 1))
        paths = [Path(path).with_suffix(suffix) for suffix in (".png", ".svg")]
        for target in paths:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
        plt.close(figure)
    return paths


def _scatter(axis, cells, label, *, faint=False, line=False, size=34) -> None:  # type: ignore[no-untyped-def]
    colour, marker = COLOURS.get(label, "#7b5ea7"), MARKERS.get(label, "D")
    x = [s.nfe.mean for s in cells]
    y = [100 * s.accuracy.mean for s in cells]
    if line:
        axis.plot(x, y, color=colour, linewidth=1.2, alpha=0.9)
        return
    error = [
        [100 * (s.accuracy.mean - s.accuracy.low) for s in cells],
        [100 * (s.accuracy.high - s.accuracy.mean) for s in cells],
    ]
    alpha = 0.35 if faint else 1.0
    axis.errorbar(x, y, yerr=error, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5 * alpha)
    where = "full diffusion" if blocks(cells[0].cell) == "full" else f"blocks of {blocks(cells[0].cell)}"
    name = {"cloned": "cloned, before GRPO", "policy": f"learned policy ({where})"}.get(label, label)
    axis.scatter(x, y, s=size, marker=marker, color=colour, alpha=alpha, label=name, zorder=3)
