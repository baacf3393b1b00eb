"""Static figures for papers, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.summaries import Summary, frontier
from unmask.evaluation.tables import blocks

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
NAMES = {"policy": "learned policy", "clone": "cloned, before GRPO", "replay": "replay of its pace"}


def plot(summaries: Sequence[Summary], path: str | Path, title: str) -> list[Path]:
    """Draw accuracy against NFE as PNG and SVG: rules in full diffusion and in blocks side by side, learned policies in
    both. Each rule's frontier is a line, its other entries are faint; bars are 95% intervals.

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

    learned = [s for s in summaries if s.entry.kind != "rule"]
    rules = [s for s in summaries if s.entry.kind == "rule"]
    full = [s for s in rules if blocks(s.entry) == "full"]
    semi = [s for s in rules if blocks(s.entry) != "full"]
    panels = [(name, shown) for name, shown in (("full diffusion", full), ("blocks", semi)) if shown]
    labels = list(dict.fromkeys(s.entry.label for s in [*rules, *learned]))
    with plt.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "unmask"}
    ):
        figure, axes = plt.subplots(
            1, max(len(panels), 1), figsize=(5 * max(len(panels), 1) + LEGEND, 4.4), sharey=True, squeeze=False
        )
        for axis, (name, shown) in zip(axes[0], panels or [("", [])], strict=True):
            for label in labels:
                _family(axis, [s for s in [*shown, *learned] if s.entry.label == label], label, labels.index(label))
            axis.set_title(f"rules in {name}" if name else "", loc="left", fontsize=10)
            axis.set_xlabel("NFE (dLLM forward passes per prompt)")
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
        paths = [Path(path).with_suffix(suffix) for suffix in (".png", ".svg")]
        for target in paths:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
        plt.close(figure)
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
