"""A number of steps instead of a number of positions: the schedules of LLaDA's and Dream's released code."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Rule, rule
from unmask.policies.ranking import AlgTemp, Order, drawn_positions, sureness, topk_positions


@rule
class StepCount(Rule):
    """Reveal the surest selectable positions, as many a step as make a block take `steps` steps.

    A wrapper that holds positions back makes it take more.

    Args:
        steps: of each block, at least 1 (of the whole region in full diffusion).
        schedule: ``even``: what is left by the steps that are left, rounded up, as LLaDA's ``get_num_transfer_tokens``
            deals out counts that do not divide (arXiv 2502.09992; the released code); ``linear``: Dream's
            ``maskgit_plus``, ``topk_margin`` and ``entropy``, which at time t = 1, ..., eps reveal the share 1 - s / t
            of what is left, rounded down, s the next time, and all in the last step (arXiv 2508.15487; the released
            code).
        order: what makes a position sure: high ``confidence``, high ``margin``, low ``entropy``, or ``random``.
        alg_temp: above 0, draw positions by softmax(score / alg_temp), as Dream's released code can.
        eps: last time of the linear schedule.
    """

    type_name: ClassVar[str] = "step_count"
    label: ClassVar[str] = "step count"
    steps: Annotated[int, Ge(1)]
    schedule: Literal["even", "linear"] = "even"
    order: Order | Literal["random"] = "confidence"
    alg_temp: AlgTemp = 0.0
    eps: Annotated[float, Gt(0), Lt(1)] = 1e-3

    @property
    def stochastic(self) -> bool:
        return self.order == "random" or self.alg_temp > 0

    @property
    def may_idle(self) -> bool:
        return self.schedule == "linear"  # which rounds down

    @property
    def block_steps(self) -> int | None:
        return self.steps if self.schedule == "linear" else None

    @property
    def needs(self) -> Needs:
        return Needs(top_k=2 if self.order == "margin" else 1, entropy=self.order == "entropy", block_step=True)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        may = observation.selectable
        count, noise = self._count(observation), observation.noise
        if self.order == "random":
            return topk_positions(noise, may, count, exact=True)
        return drawn_positions(sureness(observation, self.order), may, count, self.alg_temp, noise)

    def _count(self, observation: Observation) -> Int[Tensor, " b"]:
        assert observation.block_step is not None  # the loop gives what is needed
        left, step = observation.selectable.sum(dim=1), observation.block_step
        if self.schedule == "even":
            return left.add((self.steps - step).clamp(min=1) - 1) // (self.steps - step).clamp(min=1)
        return (left * linear_share(step, self.steps, self.eps)).long()


def linear_share(step: Int[Tensor, " b"], steps: int, eps: float) -> Float[Tensor, " b"]:
    """The share of the masked positions that Dream reveals at a step: 1 - s / t, t falling evenly from 1 to eps, s the
    next one; all in the last step."""
    fall = (1 - eps) / steps
    time = 1 - fall * step
    return (fall / time).masked_fill(step >= steps - 1, 1.0)
