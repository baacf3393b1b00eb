"""Steps of other policies as the learner would have met them: for expert steering and for cloning."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.decoding.blocks import selectable
from unmask.policies.actions import DPLS
from unmask.policies.ranking import ranking
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.rollout import Trajectories


def as_seen(steps: Trajectories, block_length: int, policy: TransformerPolicy) -> Trajectories:
    """An expert's steps, scored as the learner's.

    Every masked position of the learner's own block counts, not only the expert's block: it learns to hold back
    elsewhere (arXiv 2512.09106, section 3, expert steering). A rule picks without an order; where the learner's actions
    have one, the most confident come first (the leftmost, if the learner reads hidden states).
    """
    picks = steps.picks
    if isinstance(policy.actions, DPLS):
        confidence = policy.settings.reads == "confidence"
        score = steps.features[..., 0] if confidence else torch.zeros_like(steps.step_fraction[:, None] * picks)
        picks = in_order(score, picks)
    return replace(steps, selectable=selectable(steps.masked, block_length), picks=picks)


def in_order(score: Float[Tensor, "s l"], picks: Int[Tensor, "s l"]) -> Int[Tensor, "s l"]:
    """The same positions, picked by falling score."""
    place = ranking(score, picks > 0)[1]
    return (place + 1).masked_fill(picks == 0, 0).to(picks.dtype)
