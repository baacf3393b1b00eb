"""Random-K: the order of the training objective (arXiv 2502.09992, algorithm 4)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import topk_positions


@rule
class RandomOrder(Rule):
    """Reveal k selectable positions drawn without replacement.

    Args:
        k: positions a step, at least 1.
    """

    type_name: ClassVar[str] = "random_order"
    label: ClassVar[str] = "random"
    grid: ClassVar[Grid] = {"k": (1, 2, 4, 8)}
    k: Annotated[int, Ge(1)] = 1

    def distinct_within(self, block_length: int) -> bool:
        return self.k <= block_length

    @property
    def stochastic(self) -> bool:
        return True

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        return topk_positions(observation.noise, observation.selectable, self.k, exact=True)
