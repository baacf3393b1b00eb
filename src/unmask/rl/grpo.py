"""GRPO over decoding steps, as pure functions (arXiv 2512.09106, section 3; GRPO: arXiv 2402.03300).

Deviations from the textbook, as in the paper: the "token" is a decoding step with its joint likelihood; advantages are
not divided by the standard deviation; no KL term. Each is an option here.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Scaling = Literal["none", "group", "batch"]
Normalisation = Literal["rollout", "step"]


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


def has_signal(reward: Float[Tensor, "p g"]) -> Bool[Tensor, " p"]:
    """True where a group's rewards are not all equal."""
    return (reward != reward[:, :1]).any(dim=1)


def step_weights(
    rollout: Int[Tensor, " s"], rollouts: int, normalisation: Normalisation = "rollout", steps: int | None = None
) -> Float[Tensor, " s"]:
    """What each step counts in the mean.

    Args:
        rollout: of each step, from 0.
        rollouts: how many there are, in all processes together.
        normalisation: ``rollout``: mean over the steps of a roll-out, then mean over roll-outs; ``step``: mean over all
            steps, so that long roll-outs count more.
        steps: how many there are, in all processes together (for ``step``).
    """
    if normalisation == "step":
        return torch.full(rollout.shape, 1.0 / (steps or max(len(rollout), 1)), device=rollout.device)
    lengths = torch.bincount(rollout)
    return 1.0 / (lengths[rollout] * rollouts).to(torch.float32)


def with_experts(
    log_prob: Float[Tensor, " s"], expert: Bool[Tensor, " s"], group_size: int, experts: int
) -> Float[Tensor, " s"]:
    """Likelihood of the behaviour that made each step, where experts joined the groups (expert steering).

    An expert's step came from the policy with probability G / (G + E), or from this expert, which is deterministic,
    with 1 / (G + E): log(G / (G + E) * pi + 1 / (G + E)). The policy's own steps keep log pi.

    Args:
        group_size: G, the policy's roll-outs a prompt.
        experts: E.
    """
    if experts == 0:
        return log_prob
    total = math.log(group_size + experts)
    mixture = torch.logaddexp(log_prob + math.log(group_size) - total, torch.full_like(log_prob, -total))
    return torch.where(expert, mixture, log_prob)


def clipped_loss(
    log_prob: Float[Tensor, " s"],
    old_log_prob: Float[Tensor, " s"],
    advantage: Float[Tensor, " s"],
    weight: Float[Tensor, " s"],
    clip: float,
) -> Float[Tensor, ""]:
    """Negative weighted sum of min(ratio * A, clip(ratio, 1 - clip, 1 + clip) * A) over steps."""
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -(weight * torch.minimum(ratio * advantage, clipped * advantage)).sum()


def is_clipped(ratio: Float[Tensor, " s"], advantage: Float[Tensor, " s"], clip: float) -> Bool[Tensor, " s"]:
    """Steps whose gradient the clip cuts off."""
    return ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))
