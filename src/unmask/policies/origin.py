"""The reverse process as it was trained, Dream's `origin` (arXiv 2508.15487; the released code)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt
from jaxtyping import Bool
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Rule, rule
from unmask.policies.step_count import linear_share


@rule
class Origin(Rule):
    """Reveal each selectable position with probability 1 - s / t at time t, s the next one; all in the last step.

    A step may reveal nothing, and costs a forward pass all the same.

    Args:
        steps: of each block, at least 1 (of the whole region in full diffusion).
        eps: last time; the first is 1, and they are evenly spaced.
    """

    type_name: ClassVar[str] = "origin"
    steps: Annotated[int, Ge(1)]
    eps: Annotated[float, Gt(0), Lt(1)] = 1e-3

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def may_idle(self) -> bool:
        return self.steps > 1

    @property
    def block_steps(self) -> int:
        return self.steps

    @property
    def needs(self) -> Needs:
        return Needs(block_step=True)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        assert observation.block_step is not None  # the loop gives what is needed
        share = linear_share(observation.block_step, self.steps, self.eps)
        return observation.selectable & (observation.noise < share[:, None])
