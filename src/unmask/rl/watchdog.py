"""Notice a training that has stopped learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Watchdog:
    """Counts iterations in a row in which nothing can be learnt.

    Args:
        patience: how many are too many; 0 never barks.
        gen_length: the step budget.

    Attributes:
        counts: by kind of collapse, for a checkpoint.
    """

    def __init__(self, patience: int, gen_length: int) -> None:
        self.patience = patience
        self.gen_length = gen_length
        self.counts = dict.fromkeys(_SAYS, 0)

    def see(self, metrics: Mapping[str, Any]) -> str | None:
        """What is wrong and what to try, once it has lasted."""
        found = {
            "at once": metrics["nfe_max"] <= 1,
            "budget": metrics["nfe_min"] >= self.gen_length,
            "wrong": metrics["signal"] == 0 and metrics["correct"] == 0,
            "silent": metrics["signal"] == 0 and metrics["correct"] > 0,
        }
        for kind, holds in found.items():
            self.counts[kind] = self.counts[kind] + 1 if holds else 0
            if self.patience and self.counts[kind] >= self.patience:
                return _SAYS[kind].format(n=self.counts[kind])
        return None


_SAYS = {
    "at once": (
        "Collapsed: for {n} iterations every roll-out has revealed everything in one step. "
        "Lower alpha or lr, or hold on to the start with kl_weight."
    ),
    "budget": (
        "Collapsed: for {n} iterations every roll-out has spent its whole step budget. "
        "Lower lr, raise alpha, or start from a clone (clone_from)."
    ),
    "wrong": (
        "No signal: for {n} iterations no roll-out has been right, so that there is nothing to learn from. "
        "Start from a clone (clone_from), add experts, or use shorter blocks or an easier task."
    ),
    "silent": (
        "No signal: for {n} iterations all roll-outs of a prompt have earned the same. "
        "There is nothing left to learn at this alpha; to explore more, start from another policy or a higher alpha."
    ),
}
