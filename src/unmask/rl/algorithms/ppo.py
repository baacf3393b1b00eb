"""PPO with a small value head (arXiv 1707.06347; generalised advantages: arXiv 1506.02438), over decoding steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from unmask.observation import Observation
from unmask.rl.algorithms.base import Algorithm, AlgorithmSettings, Batch, Credit, Scored, weights_of_steps
from unmask.rl.algorithms.grpo import clipped_loss, clipped_share
from unmask.rl.processes import Processes


class PPOSettings(AlgorithmSettings):
    """Of PPO."""

    min_signal: Annotated[
        float, Ge(0), Le(1), Field(description="Share of groups with signal below which no step is taken.")
    ] = 0.0
    clip: Annotated[float, Gt(0), Field(description="Clip of the likelihood ratio (eps).")] = 0.2
    gae_lambda: Annotated[
        float, Ge(0), Le(1), Field(description="1: the whole return; 0: what the value head says of the next step.")
    ] = 0.95
    value_weight: Annotated[float, Ge(0), Field(description="Weight of the value head's squared error.")] = 0.5
    value_lr: Annotated[
        float, Gt(0), Field(description="Peak learning rate of the value head, which starts from nothing.")
    ] = 1e-3
    value_width: Annotated[int, Ge(1), Field(description="Hidden width of the value head.")] = 64


class PPO(Algorithm):
    """A value head says what each state is worth; a step's advantage is what came over that. Groups are not needed."""

    name = "ppo"
    Settings: ClassVar[type[AlgorithmSettings]] = PPOSettings
    settings: PPOSettings

    def __init__(self, settings: PPOSettings) -> None:
        super().__init__(settings)
        self.value = ValueHead(settings.value_width)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"value": self.value}

    def learning_rates(self) -> Mapping[str, float]:
        return {"value": self.settings.value_lr}

    def signal(self, reward: Float[Tensor, "p m"]) -> int:
        """Every prompt teaches the value head, and the policy beside it."""
        return len(reward)

    def credit(self, batch: Batch, processes: Processes) -> Credit:
        steps = batch.steps
        with torch.no_grad():
            value = self.value(steps.observation)
        step = (steps.observation.step_fraction * steps.picks.shape[1]).round().long()
        advantage = generalised_advantages(batch.reward.flatten(), value, steps.rollout, step, self.settings.gae_lambda)
        total, squares, count = processes.total(
            advantage.double().sum().item(), advantage.double().square().sum().item(), len(advantage)
        )
        mean = total / count
        scale = max(squares / count - mean * mean, 0.0) ** 0.5 or 1.0
        weight = weights_of_steps(batch, processes, "step")
        return Credit(
            (advantage - mean) / scale, weight, torch.ones_like(advantage, dtype=torch.bool), advantage + value, value
        )

    def loss(self, scored: Scored) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        credit, settings = scored.credit, self.settings
        assert credit.target is not None
        loss = clipped_loss(scored.log_prob, scored.old_log_prob, credit.advantage, credit.weight, settings.clip)
        error = (self.value(scored.observation) - credit.target).square()
        logged = {"clip_share": clipped_share(scored, settings.clip), "value_error": error.detach()}
        return loss + settings.value_weight * (credit.weight * error).sum(), logged


class ValueHead(nn.Module):
    """What a state is worth, from six numbers: step, shares masked and selectable, confidences where selectable."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, observation: Observation) -> Float[Tensor, " s"]:
        """One number per row."""
        confidence, may = observation.confidence[..., 0], observation.selectable
        count = may.sum(dim=1).clamp(min=1)
        features = [
            observation.step_fraction,
            observation.masked.float().mean(dim=1),
            may.float().mean(dim=1),
            torch.where(may, confidence, 0.0).sum(dim=1) / count,
            torch.where(may, confidence, 1.0).amin(dim=1),
            torch.where(may, confidence, 0.0).amax(dim=1),
        ]
        return self.layers(torch.stack(features, dim=1))[:, 0]


def generalised_advantages(
    reward: Float[Tensor, " r"],
    value: Float[Tensor, " s"],
    rollout: Int[Tensor, " s"],
    step: Int[Tensor, " s"],
    gae_lambda: float,
) -> Float[Tensor, " s"]:
    """GAE without discount: A_t = d_t + lambda A_(t+1), d_t = V_(t+1) - V_t; the last step has reward - V_t.

    Args:
        reward: of each roll-out, given at its end.
        value: V_t of each step's state.
        rollout: of each step, in any order.
        step: its number; each roll-out has steps 0 to its last.
    """
    length = int(step.max()) + 1
    values = value.new_zeros(len(reward), length).index_put((rollout, step), value)
    last = torch.zeros_like(reward, dtype=torch.long).scatter_reduce(0, rollout, step, "amax")
    advantage, following = torch.zeros_like(values), torch.zeros_like(reward)
    for t in reversed(range(length)):
        after = reward if t == length - 1 else torch.where(last == t, reward, values[:, t + 1])
        following = (after - values[:, t] + gae_lambda * following).masked_fill(last < t, 0.0)
        advantage[:, t] = following
    return advantage[rollout, step]


ALGORITHM = PPO
