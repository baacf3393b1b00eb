"""GRPO over decoding steps (arXiv 2512.09106, section 3; GRPO: arXiv 2402.03300).

Deviations from the textbook, as in the paper: the "token" is a decoding step with its joint likelihood; advantages are
not divided by the standard deviation; no KL term. Each is an option here. By default advantages are divided by their
root mean square, an average over iterations, so that a step is as large at every weight of speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from unmask.rl.algorithms.base import (
    Algorithm,
    AlgorithmSettings,
    AnyExpert,
    Batch,
    Credit,
    Expert,
    Scored,
    has_signal,
    weights_of_steps,
)
from unmask.rl.processes import Processes

Scaling = Literal["none", "group", "batch", "ema"]
Normalisation = Literal["rollout", "step"]
KEPT, LEAST_SCALE = 0.9, 0.05  # of the moving average, per iteration; of the mean reward, at first


class GRPOSettings(AlgorithmSettings):
    """Of GRPO."""

    group_size: Annotated[int, Ge(2), Field(description="Roll-outs per prompt, G (paper: 8).")] = 8
    experts: Annotated[
        tuple[AnyExpert, ...],
        Field(description="Expert steering: policies that join each group, such as confidence_threshold @ 8."),
    ] = ()
    other_speeds: Annotated[
        int,
        Ge(0),
        Field(description="Roll-outs per group of the policy itself at another speed, taken as an expert's."),
    ] = 0
    leaps: Annotated[
        int,
        Ge(0),
        Field(
            description="Roll-outs per group cut at a random step, which reveals all: no pass of the dLLM; for full "
            "diffusion."
        ),
    ] = 0
    bold: Annotated[
        int,
        Ge(0),
        Field(description="Roll-outs per group in which some steps reveal any number of positions together."),
    ] = 0
    normalisation: Annotated[Normalisation, Field(description="Mean over a roll-out's steps first, or over all.")] = (
        "rollout"
    )
    scale_advantages: Annotated[
        Scaling,
        Field(
            description="Divide by the deviation of each group, of the batch, or (ema) by a moving average over "
            "iterations (paper: none)."
        ),
    ] = "ema"
    clip: Annotated[float, Gt(0), Field(description="Clip of the likelihood ratio (eps).")] = 0.5


class GRPO(Algorithm):
    """Each roll-out against the mean of its group; a clipped likelihood ratio per decoding step."""

    name = "grpo"
    Settings: ClassVar[type[AlgorithmSettings]] = GRPOSettings
    settings: GRPOSettings

    def __init__(self, settings: GRPOSettings) -> None:
        super().__init__(settings)
        self.scale = MovingScale(settings.speeds)

    def at_places(self, places: int) -> None:
        self.scale = MovingScale(places * self.settings.speeds)

    @property
    def experts(self) -> tuple[Expert, ...]:
        return self.settings.experts

    @property
    def other_speeds(self) -> int:
        return self.settings.other_speeds

    @property
    def leaps(self) -> int:
        return self.settings.leaps

    @property
    def bold(self) -> int:
        return self.settings.bold

    def modules(self) -> Mapping[str, nn.Module]:
        return {"scale": self.scale} if self.settings.scale_advantages == "ema" else {}

    def credit(self, batch: Batch, processes: Processes) -> Credit:
        settings, rollout = self.settings, batch.steps.rollout
        grouped = group_advantages(batch.reward, settings.scale_advantages)
        if settings.scale_advantages == "ema":
            grouped = grouped / self.scale.update(grouped, batch.reward, batch.part, processes)[batch.part, None]
        advantage = grouped.flatten()
        if settings.scale_advantages == "batch":
            squares = advantage.double().square().sum().item()
            advantage = advantage / root_mean_square(*processes.total(squares, len(advantage)))
        each = advantage[rollout]
        return Credit(each, weights_of_steps(batch, processes, settings.normalisation), each != 0)

    def likelihood(self, log_prob: Float[Tensor, " s"], expert: Bool[Tensor, " s"]) -> Float[Tensor, " s"]:
        others = len(self.experts) + self.other_speeds + self.bold + self.leaps
        return with_experts(log_prob, expert, self.settings.group_size, others)

    def loss(self, scored: Scored) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        credit, clip = scored.credit, self.settings.clip
        loss = clipped_loss(scored.log_prob, scored.old_log_prob, credit.advantage, credit.weight, clip)
        return loss, {"clip_share": clipped_share(scored, clip)}


class MovingScale(nn.Module):
    """The root mean square of advantages, for each part of the speeds, as an average over iterations.

    Dividing a batch by its own deviation weighs one without failures, whose rewards differ by a little speed, as much
    as one with failures; a policy then drifts to speed and loses accuracy. An average over iterations does not.
    """

    square: Tensor

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.register_buffer("square", torch.zeros(parts))

    @torch.no_grad()
    def update(
        self,
        advantage: Float[Tensor, "p m"],
        reward: Float[Tensor, "p m"],
        part: Int[Tensor, " p"],
        processes: Processes,
    ) -> Float[Tensor, " k"]:
        """Take in an iteration; what each part's advantages are to be divided by, 1 where all have been zero."""

        def sums(values: Tensor) -> list[float]:
            each = torch.zeros(len(self.square), dtype=torch.float64, device=values.device)
            return each.index_add(0, part, values.double().sum(dim=1)).tolist()

        parts = len(self.square)
        totals = processes.total(*sums(advantage.square()), *sums(reward.abs()), *sums(torch.ones_like(reward)))
        squares, rewards, counts = torch.tensor(totals, device=self.square.device).view(3, parts)
        seen, fresh = counts > 0, self.square == 0
        square, mean = squares / counts.clamp(min=1), rewards / counts.clamp(min=1)
        # A first batch of nearly equal rewards says too little of the scale.
        first = torch.maximum(square, (LEAST_SCALE * mean).square())
        moved = torch.where(fresh, first, KEPT * self.square + (1 - KEPT) * square)
        self.square.copy_(torch.where(seen, moved, self.square))
        return self.square.sqrt().masked_fill(self.square == 0, 1.0)


def clipped_share(scored: Scored, clip: float) -> Bool[Tensor, " s"]:
    """`is_clipped` of the policy's own steps."""
    ratio = (scored.log_prob.detach() - scored.old_log_prob).exp()[scored.own]
    return is_clipped(ratio, scored.credit.advantage[scored.own], clip)


def group_advantages(reward: Float[Tensor, "p g"], scaling: Scaling = "none") -> Float[Tensor, "p g"]:
    """Reward minus the mean of its group (one prompt's g roll-outs).

    Args:
        scaling: ``group`` divides by the group's standard deviation, as the textbook does; groups without signal stay
            at zero. ``batch`` is done by `root_mean_square`.
    """
    advantage = reward - reward.mean(dim=1, keepdim=True)
    if scaling == "group":
        advantage = advantage / reward.std(dim=1, keepdim=True)
    return torch.where(has_signal(reward)[:, None], advantage, 0.0)  # the mean of equal numbers is off by a rounding


def root_mean_square(sum_of_squares: float, count: float) -> float:
    """What ``batch`` scaling divides all advantages by; 1 where all are zero.

    Rewards to a large power of speed are tiny at first; their gradients then vanish beside Adam's epsilon and stand far
    below the norm at which they are clipped, so that the same learning rate means another step at every alpha. One
    divisor for all groups mends that and leaves their proportions as they are.
    """
    return math.sqrt(sum_of_squares / count) or 1.0


def with_experts(
    log_prob: Float[Tensor, " s"], expert: Bool[Tensor, " s"], group_size: int, experts: int
) -> Float[Tensor, " s"]:
    """Likelihood of the behaviour that made each step, where experts joined the groups (expert steering).

    An expert's step came from the policy with probability G / (G + E), or from this expert, which is deterministic,
    with 1 / (G + E): log(G / (G + E) * pi + 1 / (G + E)). The policy's own steps keep log pi. A roll-out of the policy
    at another speed counts as an expert's: its steps are nearly certain there, and what is overstated of them makes
    the ratio smaller, not larger.

    Args:
        group_size: G, the policy's roll-outs a prompt.
        experts: E.
    """
    if experts == 0:
        return log_prob
    total = math.log(group_size + experts)
    mixture = torch.logaddexp(log_prob + math.log(group_size) - total, torch.full_like(log_prob, -total))
    return torch.where(expert, mixture, log_prob)


LARGEST_LOG_RATIO = 20.0


def clipped_loss(
    log_prob: Float[Tensor, " s"],
    old_log_prob: Float[Tensor, " s"],
    advantage: Float[Tensor, " s"],
    weight: Float[Tensor, " s"],
    clip: float,
) -> Float[Tensor, ""]:
    """Negative weighted sum of min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A) over steps.

    Ratios above exp(`LARGEST_LOG_RATIO`) count as that: one that overflows would make the gradient of the branch that
    the minimum leaves out 0 * infinity.
    """
    ratio = (log_prob - old_log_prob).clamp(max=LARGEST_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()


def is_clipped(ratio: Float[Tensor, " s"], advantage: Float[Tensor, " s"], clip: float) -> Bool[Tensor, " s"]:
    """Steps whose gradient the clip cuts off."""
    return ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))


ALGORITHM = GRPO
