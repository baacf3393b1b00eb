"""KLASS: confident and stable (arXiv 2511.05664, "KL-Guided Fast Inference in Masked Diffusion Models")."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

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
    ready, the most confident one is revealed.

    Args:
        threshold: confidence has to exceed it; the paper's runs have 0.6 to 0.9, by task.
        kl: in nats, > 0; the paper's runs have 0.001 to 0.015.
        history: steps, at least 1.
        wait: as the released code for LLaDA does, take no position for stable in the first history - 1 steps of a
            block.
        strategy: which of the positions that are ready: ``all``, or one of them, as the released code's
            ``unmask_strategy`` (``max_conf``, ``min_kl``, ``random``).
    """

    type_name: ClassVar[str] = "klass"
    label: ClassVar[str] = "KLASS"
    grid: ClassVar[Grid] = {"threshold": (0.5, 0.7, 0.9), "kl": (0.001, 0.01, 0.1)}
    threshold: Annotated[float, Ge(0), Le(1)] = 0.9
    kl: Annotated[float, Gt(0)] = 0.01
    history: Annotated[int, Ge(1)] = 2
    wait: bool = False
    strategy: Literal["all", "max_conf", "min_kl", "random"] = "all"

    @property
    def stochastic(self) -> bool:
        return self.strategy == "random"

    @property
    def needs(self) -> Needs:
        return Needs(positions="masked", kl_history=self.history, block_step=self.wait)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        assert observation.kl is not None  # the loop gives what is needed
        confidence, may = observation.confidence[..., 0], observation.selectable
        ready = (observation.kl < self.kl).all(dim=-1) & (confidence > self.threshold) & may
        if self.wait:
            assert observation.block_step is not None
            ready &= (observation.block_step >= self.history - 1)[:, None]
        if self.strategy == "max_conf":
            ready = topk_positions(confidence, ready, 1)
        elif self.strategy == "min_kl":
            ready = topk_positions(-observation.kl[..., 0], ready, 1)
        elif self.strategy == "random":
            ready = topk_positions(observation.noise, ready, 1, exact=True)
        return ready | (topk_positions(confidence, may, 1) & ~ready.any(dim=1, keepdim=True))
