"""Leaps and bold steps: roll-outs that reveal many positions together, which a policy would not draw by chance.

A roll-out gets faster only when a whole step is saved, and a policy that draws each position by itself hardly ever
reveals all that is left, or all but one: between one way of decoding and a faster one there is often nothing that pays.
A leap reveals all. Every pass predicts every masked position, so that what a leap would have answered is known without
another pass. A bold step reveals any number of positions, those with the largest logits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.decoding.options import Options
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import further
from unmask.observation import Observation
from unmask.policies.actions import Actions
from unmask.policies.base import rule
from unmask.policies.ranking import topk_positions
from unmask.policies.wrappers import AnyPolicy, LogitWrapper
from unmask.rl.experts import in_order
from unmask.rl.rewards import judge
from unmask.rl.rollout import Rollouts
from unmask.tasks.base import Task

BOLD = 30.0  # logit of what a bold step reveals; minus that of what it leaves


@rule
class Bold(LogitWrapper):
    """Sometimes reveal any number of positions, each number as likely, those with the largest logits first.

    At step t from 0 with probability 1 / (t + 2): about ln n times in n steps.
    """

    type_name: ClassVar[str] = "bold"
    policy: AnyPolicy

    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        own = self.inner.logits(observation)
        noise = torch.cat([observation.noise, further(observation.noise)[:, None]], dim=1)
        now, share = further(noise), further(noise.flip(1))  # neither is what the actions draw by
        step = observation.step_fraction * own.shape[1]
        left = observation.selectable.sum(dim=1)
        count = 1 + (share * left).long()
        chosen = topk_positions(own, observation.selectable, count)
        return torch.where((now < 1 / (step + 2))[:, None], torch.where(chosen, BOLD, -BOLD), own)


def leapt(
    rolled: Rollouts,
    keys: Sequence[str],
    copies: int,
    actions: Actions,
    model: MaskedDiffusionModel,
    task: Task,
    options: Options,
) -> Rollouts:
    """For each prompt one of its roll-outs, cut at one of its steps, which reveals all; no pass of the dLLM.

    Args:
        rolled: with `filled`, `copies` of each prompt in turn.
        keys: of each prompt's random choice of roll-out and step.
        actions: of the policy that is to learn.
        options: how the roll-outs decoded: full diffusion.

    Returns:
        A roll-out for each prompt; one that had a single step is as it was. Its `out` is that of the roll-outs.
    """
    nfe, device = rolled.outcome.nfe.tolist(), rolled.outcome.nfe.device
    rngs = [random.Random(key) for key in keys]
    source = [i * copies + rng.randrange(copies) for i, rng in enumerate(rngs)]
    last = [rng.randrange(max(nfe[row] - 1, 1)) for rng, row in zip(rngs, source, strict=True)]
    number = torch.full((len(nfe),), -1, device=device)
    number[torch.tensor(source, device=device)] = torch.arange(len(source), device=device)
    length = rolled.steps.picks.shape[1]
    mine = number[rolled.steps.rollout]
    at = (rolled.steps.observation.step_fraction * length).round().long()
    ends = torch.tensor(last, device=device)[mine.clamp(min=0)]
    kept = (mine >= 0) & (at <= ends)
    steps = rolled.steps.take(kept).numbered(number)
    leaps = at[kept] == ends[kept]
    seen = steps.observation
    everything = seen.selectable.to(steps.picks.dtype)
    if actions.ordered:
        everything = in_order(seen.confidence[..., 0], everything)
    steps = replace(steps, picks=torch.where(leaps[:, None], everything, steps.picks))
    assert rolled.filled is not None
    tokens = rolled.filled[kept][leaps][steps.rollout[leaps].argsort()]
    spent = torch.tensor([k + 1 for k in last], device=device)
    before, taken = rolled.outcome, torch.tensor(source, device=device)
    equivalents = None
    if before.equivalents is not None:
        equivalents = before.equivalents[taken] * spent / before.nfe[taken]
    outcome = judge(
        task,
        [before.examples[row] for row in source],
        [options.text(model, row) for row in tokens.tolist()],
        spent,
        torch.ones_like(spent, dtype=torch.bool),
        before.gen_length,
        None if before.speed is None else before.speed[taken].tolist(),
        equivalents=equivalents,
    )
    return Rollouts(steps, rolled.out, outcome)
