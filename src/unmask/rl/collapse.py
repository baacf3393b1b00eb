"""Notice a training that has stopped learning."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

FALL = 0.1  # of the best reward at a speed; a validation of 256 prompts errs by some 4%
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


def fallen_speeds(metrics: Mapping[str, Any], best_at: MutableMapping[str, float]) -> str | None:
    """What is wrong at some speeds of a policy that may be fine at the others, and what to try.

    Neighbours pull: at a speed where the policy no longer explores, it may be drawn to a faster neighbour's way,
    although that earns less there.

    Args:
        metrics: of a validation, with ``reward@0.50`` and so on.
        best_at: the highest reward at each speed so far, which is kept up to date.
    """
    fallen = []
    for name, reward in metrics.items():
        if not name.startswith("reward@"):
            continue
        speed = name.removeprefix("reward@")
        best = best_at[speed] = max(best_at.get(speed, reward), reward)
        if reward < (1 - FALL) * best:
            fallen.append(f"{speed} (from {best:.3f} to {reward:.3f})")
    if not fallen:
        return None
    return (
        f"The validation reward has fallen at speed {', '.join(fallen)}. If it stays there, lower lr, or raise "
        "entropy_weight or kl_weight; best/ keeps the policy that was best over all speeds."
    )
