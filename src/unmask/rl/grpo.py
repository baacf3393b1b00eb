"""GRPO over decoding steps, as pure functions (arXiv 2512.09106, section 3; GRPO: arXiv 2402.03300).

Deviations from the textbook: the "token" is a decoding step with its joint likelihood; advantages are not divided by
the standard deviation; no KL term.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def group_advantages(reward: Float[Tensor, "p g"]) -> Float[Tensor, "p g"]:
    """Reward minus the mean of its group (one prompt's g roll-outs)."""
    return reward - reward.mean(dim=1, keepdim=True)


def has_signal(reward: Float[Tensor, "p g"]) -> Tensor:
    """(p,) True where a group's rewards are not all equal."""
    return (reward != reward[:, :1]).any(dim=1)


def step_weights(rollout: Int[Tensor, " s"], rollouts: int) -> Float[Tensor, " s"]:
    """Weight of each step: mean over the steps of its roll-out, then mean over all roll-outs."""
    steps = torch.bincount(rollout, minlength=rollouts)
    return 1.0 / (steps[rollout] * rollouts).to(torch.float32)


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


def clip_share(
    log_prob: Float[Tensor, " s"], old_log_prob: Float[Tensor, " s"], advantage: Float[Tensor, " s"], clip: float
) -> float:
    """Share of steps whose gradient the clip cuts off."""
    ratio = (log_prob - old_log_prob).exp()
    cut = ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))
    return cut.float().mean().item()
