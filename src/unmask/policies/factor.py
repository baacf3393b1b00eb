"""Fast-dLLM's factor rule (arXiv 2505.22618, section 3.3, "factor-based parallel decoding")."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import ranking


@rule
class Factor(Rule):
    """Reveal the n most confident selectable positions, n the largest with (n + 1) (1 - c_n) < factor, at least one.

    c_n is the n-th largest confidence: the more positions at once, the surer each has to be.

    Args:
        factor: f > 0; the released code's default is 1.
        released: as the released code does, reveal the first position that fails, too, if it is the last one left in
            the block; and let (n + 1) (1 - c_n) = factor pass.
    """

    type_name: ClassVar[str] = "factor"
    grid: ClassVar[Grid] = {"factor": (0.25, 0.5, 1.0, 2.0, 3.0, 5.0)}
    factor: Annotated[float, Gt(0)] = 1.0
    released: bool = False

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        confidence, may = observation.confidence[..., 0], observation.selectable
        order, rank = ranking(confidence, may)
        n = torch.arange(1, may.shape[1] + 1, device=may.device)
        left = (n + 1) * (1 - confidence.gather(1, order))
        passes = left <= self.factor if self.released else left < self.factor
        count = passes.long().cumprod(dim=1).sum(dim=1, keepdim=True).clamp(min=1)
        if self.released:
            count += count == may.sum(dim=1, keepdim=True) - 1
        return rank < count
