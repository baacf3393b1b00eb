"""A confidence threshold that keeps apart what would write the same: a control for policies that see overlap.

Two positions that may take the same token often exclude each other: shuffled items, a word with two possible places.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Rule, rule
from unmask.policies.ranking import overlap, ranking, topk_positions

SEEN = 4  # likeliest tokens of each position


@rule
class Exclusive(Rule):
    """Reveal positions above the threshold, most confident first, without those that overlap with one chosen before.

    The overlap of two positions is the probability that both write the same token, each by its own distribution. The
    most confident position is revealed in any case.

    Args:
        threshold: of the confidence, in [0, 1].
        overlap: at most that of two positions revealed together, in [0, 1].
    """

    type_name: ClassVar[str] = "exclusive"
    threshold: Annotated[float, Ge(0), Le(1)] = 0.5
    overlap: Annotated[float, Ge(0), Le(1)] = 0.1

    @property
    def needs(self) -> Needs:
        return Needs(top_k=SEEN, tokens=True)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        assert observation.tokens is not None  # the loop gives what is needed
        confidence, may = observation.confidence[..., 0], observation.selectable
        shared = overlap(observation.confidence, observation.tokens, may) > self.overlap
        wanted = ((confidence > self.threshold) & may) | topk_positions(confidence, may, 1)
        order, _ = ranking(confidence, wanted)
        chosen, rows = torch.zeros_like(may), torch.arange(len(may), device=may.device)
        for place in order.unbind(dim=1):
            free = ~(shared[rows, place] & chosen).any(dim=1)
            chosen[rows, place] = wanted[rows, place] & free
        return chosen
