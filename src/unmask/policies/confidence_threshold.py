"""Fast-dLLM's confidence threshold (arXiv 2505.22618, section 3.3; the baseline of arXiv 2512.09106)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import topk_positions


@rule
class ConfidenceThreshold(Rule):
    """Reveal every selectable position with confidence above the threshold, and always the most confident one.

    The fall-back is decided for each row on its own.

    Args:
        threshold: lambda, in [0, 1].
    """

    type_name: ClassVar[str] = "confidence_threshold"
    label: ClassVar[str] = "threshold"
    grid: ClassVar[Grid] = {"threshold": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)}
    eos_suppressed_variant: ClassVar[bool] = True
    threshold: Annotated[float, Ge(0), Le(1)] = 0.9

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        confidence = observation.confidence[..., 0]
        sure = (confidence > self.threshold) & observation.selectable
        return sure | topk_positions(confidence, observation.selectable, 1)
