"""Steps of other policies as the learner would have met them: for expert steering and for cloning."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from unmask.decoding.blocks import Blocks
from unmask.policies.base import StochasticPolicy
from unmask.policies.ranking import ranking
from unmask.rl.rollout import Steps


def as_seen(steps: Steps, blocks: Blocks, policy: StochasticPolicy) -> Steps:
    """An expert's steps, scored as the learner's.

    Every masked position of the learner's own block counts, not only the expert's block: it learns to hold back
    elsewhere (arXiv 2512.09106, section 3, expert steering). A rule picks without an order; where the learner's actions
    have one, the most confident come first.

    Args:
        blocks: the learner's.
    """
    seen, picks = steps.observation, steps.picks
    if policy.actions.ordered:
        picks = in_order(seen.confidence[..., 0], picks)
    selectable = blocks.learnt(seen.masked, seen.selectable, seen.confidence[..., 0] > 0)
    return replace(steps, observation=replace(seen, selectable=selectable), picks=picks)


def in_order(score: Float[Tensor, "s l"], picks: Int[Tensor, "s l"]) -> Int[Tensor, "s l"]:
    """The same positions, picked by falling score."""
    rank = ranking(score, picks > 0, exact=True)[1]
    return (rank + 1).masked_fill(picks == 0, 0).to(picks.dtype)
