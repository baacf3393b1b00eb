"""Notice a training that has stopped learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AT_ONCE = (
    "Collapsed: for {n} iterations every roll-out has revealed each block in one step. "
    "Lower alpha or lr, or raise kl_weight, the penalty for leaving the initial policy."
)
BUDGET = (
    "Collapsed: for {n} iterations every roll-out has spent its whole step budget. "
    "Lower lr, raise alpha, or start from a clone (clone.rule)."
)
WRONG = (
    "No signal: for {n} iterations no step was taken, and no roll-out is right. "
    "Start from a clone (clone.rule), add experts, or use shorter blocks or an easier task."
)
EQUAL = (
    "No signal: for {n} iterations no step was taken, and all roll-outs of a prompt earn the same. "
    "There is nothing left to learn at this alpha; to explore more, raise entropy_weight or start from another policy."
)
LITTLE = (
    "Little signal: for {n} iterations no step was taken, as too few groups had roll-outs that earn differently. "
    "Lower min_signal, add experts, or start from a clone (clone.rule)."
)


class CollapseDetector:
    """Counts iterations in a row in which nothing can be learnt.

    Args:
        patience: how many are too many; 0 never triggers.
        fewest: steps that a roll-out can take: its number of blocks.
        most: steps that a roll-out can take: its budget.

    Attributes:
        counts: by kind of collapse, for a checkpoint.
    """

    def __init__(self, patience: int, fewest: int, most: int) -> None:
        self.patience = patience
        self.fewest, self.most = fewest, most
        self.counts = {"at once": 0, "budget": 0, "still": 0}

    @property
    def triggered(self) -> bool:
        """It has lasted: a run that is resumed there would only stop again."""
        return self.patience > 0 and max(self.counts.values()) >= self.patience

    def update(self, metrics: Mapping[str, Any]) -> str | None:
        """What is wrong and what to try, once it has lasted."""
        stands = WRONG if metrics["correct"] == 0 else EQUAL if metrics["signal"] == 0 else LITTLE
        found = {
            "at once": (metrics["nfe_max"] <= self.fewest, AT_ONCE),
            "budget": (metrics["nfe_min"] >= self.most, BUDGET),
            "still": (not metrics["updated"], stands),
        }
        sentences = []
        for kind, (holds, sentence) in found.items():
            self.counts[kind] = self.counts[kind] + 1 if holds else 0
            if self.patience and self.counts[kind] >= self.patience:
                sentences.append(sentence.format(n=self.counts[kind]))
        return sentences[0] if sentences else None
