"""A confidence threshold that rises along the region: a control for learned policies, which may learn just that.

The field has thresholds that change with the step or the share of masks (arXiv 2601.17917, for one), but no settled
rule over positions; this is the plainest one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import topk_positions


@rule
class RisingThreshold(Rule):
    """Reveal every selectable position whose confidence exceeds its own threshold, or else the most confident one.

    The threshold of region position i of l is start + (end - start) i / (l - 1): early text is let go sooner, and late
    text, such as an answer, has to wait.

    Args:
        start: threshold of the region's first position, in [0, 1].
        end: of its last, in [0, 1].
    """

    type_name: ClassVar[str] = "rising_threshold"
    label: ClassVar[str] = "rising threshold"
    grid: ClassVar[Grid] = {"start": (0.3, 0.5, 0.7), "end": (0.7, 0.9, 0.99)}
    start: Annotated[float, Ge(0), Le(1)] = 0.6
    end: Annotated[float, Ge(0), Le(1)] = 0.95

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        confidence, may = observation.confidence[..., 0], observation.selectable
        threshold = torch.linspace(self.start, self.end, may.shape[1], device=may.device)
        sure = (confidence > threshold) & may
        return sure | (topk_positions(confidence, may, 1) & ~sure.any(dim=1, keepdim=True))
