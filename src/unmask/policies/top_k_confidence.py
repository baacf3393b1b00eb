"""High-confidence top-K, LLaDA's "low-confidence remasking" (arXiv 2502.09992, section 2.4)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import topk_positions


@rule
class TopKConfidence(Rule):
    """Reveal the k most confident selectable positions.

    Args:
        k: positions a step, at least 1.
    """

    type_name: ClassVar[str] = "top_k_confidence"
    label: ClassVar[str] = "top-k"
    grid: ClassVar[Grid] = {"k": (1, 2, 4, 8)}
    k: Annotated[int, Ge(1)] = 1

    def distinct_within(self, block_length: int) -> bool:
        return self.k <= block_length

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        return topk_positions(observation.confidence[..., 0], observation.selectable, self.k)
