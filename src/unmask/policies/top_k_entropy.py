"""Lowest-entropy top-K, Dream's `entropy` (arXiv 2508.15487; the released code)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import AlgTemp, drawn_positions


@rule
class EntropyTopK(Rule):
    """Reveal the k selectable positions whose distributions have the lowest entropy.

    Args:
        k: positions a step, at least 1.
        alg_temp: above 0, draw them by softmax(-entropy / alg_temp) instead, as Dream's released code can.
    """

    type_name: ClassVar[str] = "entropy_top_k"
    label: ClassVar[str] = "entropy top-k"
    grid: ClassVar[Grid] = {"k": (1, 2, 4, 8)}
    k: Annotated[int, Ge(1)] = 1
    alg_temp: AlgTemp = 0.0

    @property
    def stochastic(self) -> bool:
        return self.alg_temp > 0

    @property
    def needs(self) -> Needs:
        return Needs(entropy=True)

    def distinct_within(self, block_length: int) -> bool:
        return self.k <= block_length

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        assert observation.entropy is not None  # the loop gives what is needed
        return drawn_positions(-observation.entropy, observation.selectable, self.k, self.alg_temp, observation.noise)
