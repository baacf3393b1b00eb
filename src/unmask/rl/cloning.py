"""Behaviour cloning: recorded steps, and a network that is fitted to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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


def together(taught: Sequence[tuple[Lessons, float | None]], seed: int) -> Lessons:
    """The lessons of several speeds as those of one policy: each roll-out at a speed near the one it is best at.

    Args:
        taught: lessons, and the speed at which their rule earns most; None for a policy without a speed.
    """
    if len(taught) == 1 and taught[0][1] is None:
        return taught[0][0]
    half, parts, offset, index = 0.5 / (len(taught) - 1), [], 0, []
    for lessons, speed in taught:
        assert speed is not None
        steps = lessons.steps
        numbers = range(int(steps.rollout.max()) + 1 if len(steps) else 0)
        near = [speed + random.Random(f"{seed}/{speed}/{i}").uniform(-half, half) for i in numbers]
        speeds = torch.tensor(near, dtype=torch.float32, device=steps.rollout.device).clamp(0, 1)
        parts.append(replace(steps, observation=replace(steps.observation, speed=speeds[steps.rollout])))
        index.append(lessons.index + offset)
        offset += lessons.total
    count, all_ = len(taught), [lessons for lessons, _ in taught]
    return Lessons(
        joined(parts),
        torch.cat(index),
        offset,
        sum(lessons.kept for lessons in all_) / count,
        sum(lessons.correct for lessons in all_) / count,
        sum(lessons.passes for lessons in all_),
    )


def clone(
    policy: LearnedPolicy,
    lessons: Lessons,
    settings: CloneConfig,
    seed: int,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Stop = never,
) -> list[float]:
    """Maximise the likelihood of the recorded picks, in place. The learning rate falls linearly to zero.

    Returns:
        The loss of each update, over all processes.

    Raises:
        Stopped: the user asked for it.
    """
    team = processes or Processes()
    actions = policy.actions.drawn(force_progress=False)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), settings.lr)
    where = torch.full((lessons.total,), -1).index_put((lessons.index,), torch.arange(len(lessons.index)))
    losses = []
    for update in range(settings.updates):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - update / settings.updates)
        drawn = where[torch.randint(lessons.total, (settings.batch_size,), generator=generator)]
        batch = lessons.steps.take(drawn[drawn >= 0].to(lessons.steps.rollout.device))
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
