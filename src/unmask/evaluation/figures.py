"""Static figures for papers, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.summaries import Summary, frontier
from unmask.evaluation.tables import blocks
from unmask.pareto import Point, accuracy_at
from unmask.policies.calibration import Calibration

LEARNED: dict[str, tuple[str, str, int]] = {
    "policy": ("#ad3217", "*", 170),
    "clone": ("#d07000", "P", 60),
    "replay": ("#8c1d4f", "X", 50),
}
RULES = (
    "#0072b2",
    "#00755a",
    "#9c4089",
    "#8a6400",
    "#4a4fb0",
    "#5b5b5b",
    "#1786a3",
    "#5c7a00",
    "#7a3e1d",
    "#3d2b8e",
    "#b0568a",
)
MARKERS = "os^Dv<>ph"
LEGEND = 2.4  # inches
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "unmask"}
TICKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
NAMES = {"policy": "learned policy", "clone": "cloned, before GRPO", "replay": "replay of its pace"}


def plot(summaries: Sequence[Summary], path: str | Path, title: str) -> list[Path]:
    """Draw accuracy against NFE as PNG and SVG: rules in full diffusion and in blocks side by side, learned policies in
    both. Each rule's frontier is a line, its other entries are faint; bars are 95% intervals.

    Args:
        path: where to write; the suffix is replaced by .png and .svg.

    Raises:
        UnmaskError: matplotlib is not installed.
    """
    plt = _pyplot()
    learned = [s for s in summaries if s.entry.kind != "rule"]
    rules = [s for s in summaries if s.entry.kind == "rule"]
    full = [s for s in rules if blocks(s.entry) == "full"]
    semi = [s for s in rules if blocks(s.entry) != "full"]
    panels = [(name, shown) for name, shown in (("full diffusion", full), ("blocks", semi)) if shown]
    labels = list(dict.fromkeys(s.entry.label for s in [*rules, *learned]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, max(len(panels), 1), figsize=(5 * max(len(panels), 1) + LEGEND, 4.4), sharey=True, squeeze=False
        )
        for axis, (name, shown) in zip(axes[0], panels or [("", [])], strict=True):
            for label in labels:
                _family(axis, [s for s in [*shown, *learned] if s.entry.label == label], label, labels.index(label))
            axis.set_title(f"rules in {name}" if name else "", loc="left", fontsize=10)
            axis.set_xlabel(_axis(summaries))
            axis.set_ylim(0, 103)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.25)
        axes[0][0].set_ylabel("accuracy, %")
        handles: dict[str, Any] = {}
        for axis in axes[0]:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.tight_layout(rect=(0, 0, 1 - LEGEND / figure.get_figwidth(), 1))
        figure.legend(
            list(handles.values()), list(handles), loc="center left", frameon=False, fontsize=9,
            bbox_to_anchor=(1 - LEGEND / figure.get_figwidth(), 0.5),
        )  # fmt: skip
        return _saved(figure, path)


def curve(summaries: Sequence[Summary], path: str | Path, title: str) -> list[Path]:
    """Draw a policy of every speed above the rules: one axis, log NFE, rules in any blocks, as PNG and SVG.

    The line under the rules' cells is what a mixture of any two of them reaches.

    Args:
        path: where to write; the suffix is replaced by .png and .svg.

    Raises:
        UnmaskError: matplotlib is not installed.
    """
    plt = _pyplot()
    own = sorted((s for s in summaries if s.entry.kind == "policy"), key=lambda s: s.nfe.mean)
    rules = [s for s in summaries if s.entry.kind == "rule"]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 4.4))
        x, y = [s.nfe.mean for s in rules], [100 * s.accuracy.mean for s in rules]
        axis.scatter(
            x, y, s=18, color="#8a8a8a", label="rules at their best settings, any blocks", zorder=2, linewidths=0
        )
        points = [Point(s.nfe.mean, s.accuracy.mean) for s in rules]
        if points:
            slow = max(x)
            grid = [min(x) * (slow / min(x)) ** (i / 200) for i in range(201)]
            best = [100 * accuracy_at(points, nfe * (1 + 1e-9), hull=True) for nfe in grid]
            axis.plot(grid, best, color="#0072b2", linewidth=1.4, label="best mixture of two rules", zorder=2)
        colour = LEARNED["policy"][0]
        x, y = [s.nfe.mean for s in own], [100 * s.accuracy.mean for s in own]
        error = [
            [100 * (s.accuracy.mean - s.accuracy.low) for s in own],
            [100 * (s.accuracy.high - s.accuracy.mean) for s in own],
        ]
        name = "one policy at every speed"
        axis.errorbar(x, y, yerr=error, color=colour, marker="*", markersize=11, linewidth=1.8, label=name, zorder=3)
        for s in own[:1] + own[-1:] if len(own) > 1 else own:
            place = (s.nfe.mean, 100 * s.accuracy.mean)
            axis.annotate(
                f"speed {s.entry.decode.speed:g}", place, xytext=(8, -12), textcoords="offset points", fontsize=9
            )
        axis.set_xscale("log")
        every = [s.nfe.mean for s in [*own, *rules]]
        ticks = [n for n in TICKS if min(every) / 1.3 <= n <= max(every) * 1.3]
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.set_xlabel(_axis(summaries))
        axis.set_ylabel("accuracy, %")
        axis.set_ylim(0, 103)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=9, loc="lower right")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.tight_layout()
        return _saved(figure, path)


def _axis(summaries: Sequence[Summary]) -> str:
    if any(s.cost == "positions" for s in summaries):
        return "positions computed per prompt, as passes over all of it"
    return "NFE (dLLM forward passes per prompt)"


def plot_speeds(table: Calibration, path: str | Path) -> list[Path]:
    """Draw what each speed of a policy was measured to do, as PNG and SVG: accuracy against NFE, with 95% intervals.

    Args:
        path: where to write; the suffix is replaced by .png and .svg.

    Raises:
        UnmaskError: matplotlib is not installed.
    """
    plt = _pyplot()
    nfe, accuracy = [row.nfe for row in table.rows], [100 * row.accuracy for row in table.rows]
    colour = LEARNED["policy"][0]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 4.0))
        low, high = ([100 * getattr(row, end) for row in table.rows] for end in ("low", "high"))
        axis.fill_between(nfe, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(nfe, accuracy, color=colour, marker="o", markersize=4, linewidth=1.2)
        for row, place, side in ((table.rows[0], (0, 8), "center"), (table.rows[-1], (-8, -4), "right")):
            at = (row.nfe, 100 * row.accuracy)
            axis.annotate(f"speed {row.speed:g}", at, place, textcoords="offset points", ha=side)
        axis.set_xlabel("forward passes per prompt (NFE)")
        axis.set_ylabel(f"{table.judged}, %")
        axis.set_ylim(0, 108)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.25)
        axis.set_title(f"{table.task} with {table.model}, {table.prompts} prompts", loc="left", fontsize=11)
        figure.tight_layout()
        return _saved(figure, path)


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise UnmaskError("Plots need matplotlib: pip install 'unmask[plot]'.") from None
    return plt


def _saved(figure: Any, path: str | Path) -> list[Path]:
    """The figure as PNG and SVG; it is closed."""
    paths = [Path(path).with_suffix(suffix) for suffix in (".png", ".svg")]
    for target in paths:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    _pyplot().close(figure)
    return paths


def _family(axis: Any, members: Sequence[Summary], label: str, index: int) -> None:
    """A rule's entries in one panel."""
    if not members:
        return
    kind = members[0].entry.kind
    colour, marker, size = LEARNED.get(kind, (RULES[index % len(RULES)], MARKERS[index % len(MARKERS)], 30))
    best = frontier(members)
    axis.plot([s.nfe.mean for s in best], [100 * s.accuracy.mean for s in best], color=colour, linewidth=1.2, zorder=2)
    shown = list(members) if kind != "rule" else best
    for group, alpha in ((shown, 1.0), ([s for s in members if s not in shown], 0.25)):
        x, y = [s.nfe.mean for s in group], [100 * s.accuracy.mean for s in group]
        error = [
            [100 * (s.accuracy.mean - s.accuracy.low) for s in group],
            [100 * (s.accuracy.high - s.accuracy.mean) for s in group],
        ]
        axis.errorbar(x, y, yerr=error, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5 * alpha)
        name = NAMES.get(kind, label) if alpha == 1 else None
        axis.scatter(x, y, s=size, marker=marker, color=colour, alpha=alpha, label=name, zorder=3, linewidths=0)
