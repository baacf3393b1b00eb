"""Behaviour cloning: recorded steps, and a network that is fitted to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.errors import Stopped
from unmask.policies.base import LearnedPolicy
from unmask.rl.config import CloneConfig
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.rollout import Steps, joined


@dataclass(frozen=True)
class Lessons:
    """Recorded steps of a rule in this process, as the learner sees them.

    Attributes:
        index: of each step among the steps of all processes.
        total: steps of all processes.
        kept: share of roll-outs that are cloned.
        correct: share of roll-outs that are right.
        passes: dLLM forward passes of the roll-outs.
    """

    steps: Steps
    index: Int[Tensor, " s"]
    total: int
    kept: float
    correct: float
    passes: int


def kept(
    steps: Steps,
    numbers: Sequence[int],
    nfe: Sequence[int],
    right: Sequence[bool],
    keep: Literal["correct", "all"],
    team: Processes,
) -> Lessons | None:
    """Of roll-outs, those to clone, if there are any.

    Args:
        steps: numbered as `numbers`, which are this process's roll-outs among those of all.
    """
    everywhere = sorted(team.gather(list(zip(numbers, nfe, right, strict=True))))
    chosen = {i for i, _, correct in everywhere if correct or keep == "all"}
    if not chosen:
        return None
    order = sorted((step, i) for i, count, _ in everywhere if i in chosen for step in range(count))
    index = {key: at for at, key in enumerate(order)}
    device = steps.rollout.device
    steps = steps.numbered(torch.tensor(numbers, device=device))
    steps = steps.take(torch.tensor([i in chosen for i in steps.rollout.tolist()], device=device))
    length = steps.picks.shape[1]
    at = (steps.observation.step_fraction * length).round().long().tolist()
    return Lessons(
        steps,
        torch.tensor([index[key] for key in zip(at, steps.rollout.tolist(), strict=True)]),
        len(order),
        len(chosen) / len(everywhere),
        sum(correct for *_, correct in everywhere) / len(everywhere),
        int(team.total(sum(nfe))[0]),
    )


def together(lessons: Sequence[Lessons]) -> Lessons:
    """Several lessons as one."""
    offsets = list(accumulate((each.total for each in lessons), initial=0))
    count = len(lessons)
    return Lessons(
        joined([each.steps for each in lessons]),
        torch.cat([each.index + offset for each, offset in zip(lessons, offsets, strict=False)]),
        offsets[-1],
        sum(each.kept for each in lessons) / count,
        sum(each.correct for each in lessons) / count,
        sum(each.passes for each in lessons),
    )


def near(lessons: Lessons, speed: float, half: float, seed: int) -> Lessons:
    """The lessons as those of a speed: each roll-out at one drawn at most `half` from it."""
    steps = lessons.steps
    numbers = range(int(steps.rollout.max()) + 1 if len(steps) else 0)
    drawn = [speed + random.Random(f"{seed}/{speed}/{i}").uniform(-half, half) for i in numbers]
    speeds = torch.tensor(drawn, dtype=torch.float32, device=steps.rollout.device).clamp(0, 1)
    return replace(lessons, steps=replace(steps, observation=replace(steps.observation, speed=speeds[steps.rollout])))


def clone(
    policy: LearnedPolicy,
    lessons: Sequence[Lessons],
    settings: CloneConfig,
    seed: int,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Stop = never,
) -> list[float]:
    """Maximise the likelihood of the recorded picks, in place. The learning rate falls linearly to zero.

    Args:
        lessons: of each dLLM and task; updates take turns with them.

    Returns:
        The loss of each update, over all processes.

    Raises:
        Stopped: the user asked for it.
    """
    team = processes or Processes()
    actions = policy.actions.drawn(force_progress=False)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), settings.lr)
    places = [torch.full((each.total,), -1).index_put((each.index,), torch.arange(len(each.index))) for each in lessons]
    losses = []
    for update in range(settings.updates):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - update / settings.updates)
        now, where = lessons[update % len(lessons)], places[update % len(lessons)]
        drawn = where[torch.randint(now.total, (settings.batch_size,), generator=generator)]
        batch = now.steps.take(drawn[drawn >= 0].to(now.steps.rollout.device))
        logits, selectable = policy.logits(batch.observation), batch.observation.selectable
        log_prob = actions.log_prob(logits, selectable, batch.picks)
        loss: Float[Tensor, ""] = -log_prob.sum() / settings.batch_size
        optimizer.zero_grad()
        loss.backward()
        team.add_gradients(policy.parameters())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        losses.append(team.total(loss.item())[0])
        progress(update + 1, settings.updates)
        if team.any(stop()):
            raise Stopped("Stopped while cloning.")
    return losses
