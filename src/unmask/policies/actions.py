"""Action distributions over sets of positions, as pure functions of a policy's logits (arXiv 2512.09106, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.policies.base import surest


def bernoulli_sample(
    logits: Float[Tensor, "b l"],
    selectable: Bool[Tensor, "b l"],
    noise: Float[Tensor, "b l"],
    force_progress: bool = True,
) -> Bool[Tensor, "b l"]:
    """Reveal each selectable position independently with probability sigmoid(logit).

    Args:
        noise: uniform numbers in (0, 1).
        force_progress: a row that draws nothing reveals its largest logit ("bernoulli-argmax", the paper's evaluation);
            training draws plainly.
    """
    drawn = (noise < torch.sigmoid(logits)) & selectable
    if not force_progress:
        return drawn
    nothing = ~drawn.any(dim=1, keepdim=True)
    return drawn | (surest(logits, selectable, 1) & nothing)


def bernoulli_log_prob(
    logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], action: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    """Joint log-likelihood of a step's plain Bernoulli action, in float32: the sum over selectable positions."""
    signed = torch.where(action, logits, -logits).float()
    return torch.where(selectable, F.logsigmoid(signed), 0.0).sum(dim=1)
