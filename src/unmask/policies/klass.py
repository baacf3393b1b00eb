"""KLASS: confident and stable (arXiv 2511.05664, "KL-Guided Fast Inference in Masked Diffusion Models")."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import topk_positions


@rule
class KLASS(Rule):
    """Reveal every selectable position that is confident and whose distribution has stopped changing.

    Stable means KL(now || one step before) < kl for each of the last `history` steps, wherever the block was: the
    history is kept for every masked position of the region, row by row, so the head runs there too. If no position is
    ready, the most confident one is revealed. The released code for LLaDA also waits one step in each new block; the
    rule as described, and this one, does not.

    Args:
        threshold: confidence has to exceed it; the paper's runs have 0.6 to 0.9, by task.
        kl: in nats, > 0; the paper's runs have 0.001 to 0.015.
        history: steps, at least 1.
    """

    type_name: ClassVar[str] = "klass"
    label: ClassVar[str] = "KLASS"
    grid: ClassVar[Grid] = {"threshold": (0.5, 0.7, 0.9), "kl": (0.001, 0.01, 0.1)}
    threshold: Annotated[float, Ge(0), Le(1)] = 0.9
    kl: Annotated[float, Gt(0)] = 0.01
    history: Annotated[int, Ge(1)] = 2

    @property
    def needs(self) -> Needs:
        return Needs(positions="masked", kl_history=self.history)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        assert observation.kl is not None  # the loop gives what is needed
        confidence, may = observation.confidence[..., 0], observation.selectable
        ready = (observation.kl < self.kl).all(dim=-1) & (confidence > self.threshold) & may
        return ready | (topk_positions(confidence, may, 1) & ~ready.any(dim=1, keepdim=True))
