"""High-confidence top-K, LLaDA's "low-confidence remasking" (arXiv 2502.09992, section 2.4); Dream's `maskgit_plus`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import AlgTemp, drawn_positions


@rule
class TopKConfidence(Rule):
    """Reveal the k most confident selectable positions.

    Args:
        k: positions a step, at least 1.
        alg_temp: above 0, draw them by softmax(confidence / alg_temp) instead, as Dream's released code can.
    """

    type_name: ClassVar[str] = "top_k_confidence"
    label: ClassVar[str] = "top-k"
    grid: ClassVar[Grid] = {"k": (1, 2, 4, 8)}
    k: Annotated[int, Ge(1)] = 1
    alg_temp: AlgTemp = 0.0

    @property
    def stochastic(self) -> bool:
        return self.alg_temp > 0

    def distinct_within(self, block_length: int) -> bool:
        return self.k <= block_length

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        score, may = observation.confidence[..., 0], observation.selectable
        return drawn_positions(score, may, self.k, self.alg_temp, observation.noise)
