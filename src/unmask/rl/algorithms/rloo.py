"""RLOO: REINFORCE with the mean of the other roll-outs as its baseline (arXiv 2402.14740), over decoding steps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from unmask.rl.algorithms.base import Algorithm, AlgorithmSettings, Batch, Credit, Scored
from unmask.rl.processes import Processes


class RLOOSettings(AlgorithmSettings):
    """Of RLOO."""

    group_size: Annotated[int, Ge(2), Field(description="Roll-outs per prompt, G.")] = 8
    inner_iterations: Annotated[
        Literal[1], Field(description="Optimiser steps per batch of roll-outs: one, as it is on-policy.")
    ] = 1


class RLOO(Algorithm):
    """The gradient of sum_t A log pi(u_t), with A the reward minus the mean of the prompt's other roll-outs."""

    name = "rloo"
    Settings: ClassVar[type[AlgorithmSettings]] = RLOOSettings

    def credit(self, batch: Batch, processes: Processes) -> Credit:
        advantage = leave_one_out(batch.reward).flatten()[batch.steps.rollout]
        # The likelihood of a roll-out is the product of its steps': their sum counts, not their mean.
        weight = advantage.new_full(advantage.shape, 1 / processes.total(batch.reward.numel())[0])
        return Credit(advantage, weight, advantage != 0)

    def loss(self, scored: Scored) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        credit = scored.credit
        return -(credit.weight * credit.advantage * scored.log_prob).sum(), {}


def leave_one_out(reward: Float[Tensor, "p g"]) -> Float[Tensor, "p g"]:
    """Each reward minus the mean of the other g - 1 of its group."""
    others = (reward.sum(dim=1, keepdim=True) - reward) / (reward.shape[1] - 1)
    same = (reward == reward[:, :1]).all(dim=1, keepdim=True)
    return (reward - others).masked_fill(same, 0.0)  # the mean of equal numbers is off by a rounding


ALGORITHM = RLOO
