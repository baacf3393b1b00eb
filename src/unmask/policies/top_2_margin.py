"""Top-2 probability margin (arXiv 2502.06768, "Train for the Worst, Plan for the Best"; Dream's `topk_margin`)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import AlgTemp, drawn_positions, margin, topk_positions


@rule
class MarginTopK(Rule):
    """Reveal the k selectable positions with the surest margin.

    Args:
        k: positions a step, at least 1.
        alg_temp: above 0, draw them by softmax(margin / alg_temp) instead, as Dream's released code can.
    """

    type_name: ClassVar[str] = "margin_top_k"
    label: ClassVar[str] = "margin top-k"
    grid: ClassVar[Grid] = {"k": (1, 2, 4, 8)}
    k: Annotated[int, Ge(1)] = 1
    alg_temp: AlgTemp = 0.0

    @property
    def stochastic(self) -> bool:
        return self.alg_temp > 0

    def distinct_within(self, block_length: int) -> bool:
        return self.k <= block_length

    @property
    def needs(self) -> Needs:
        return Needs(top_k=2)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        score, may = margin(observation), observation.selectable
        return drawn_positions(score, may, self.k, self.alg_temp, observation.noise)


@rule
class MarginThreshold(Rule):
    """Reveal every selectable position with a margin above the threshold, and always the one with the surest.

    Args:
        threshold: in [0, 1].
    """

    type_name: ClassVar[str] = "margin_threshold"
    label: ClassVar[str] = "margin"
    grid: ClassVar[Grid] = {"threshold": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)}
    threshold: Annotated[float, Ge(0), Le(1)] = 0.8

    @property
    def needs(self) -> Needs:
        return Needs(top_k=2)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        ahead, may = margin(observation), observation.selectable
        return ((ahead > self.threshold) & may) | topk_positions(ahead, may, 1)
