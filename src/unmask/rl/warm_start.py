"""Warm start: fit the policy to a rule's decisions before reinforcement learning (behaviour cloning).

From scratch, full diffusion starts with hardly a correct answer and so without signal. The rule decodes in blocks; the
policy is asked, at every position it may select itself, whether the rule revealed it: it learns to hold back elsewhere.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.options import DecodeConfig
from unmask.errors import Stopped, UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.rl.config import CloneConfig
from unmask.rl.experts import as_seen
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Reward
from unmask.rl.rollout import Steps, joined, roll_out
from unmask.rl.search import Demonstration, Report, Search, demonstrations
from unmask.rl.start import Block, expert_block
from unmask.tasks.base import Task


def silent(label: str, done: int, total: int) -> None:
    """A `Report` that says nothing."""


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


@dataclass(frozen=True)
class WarmStart:
    """Clones a rule into a policy.

    Args:
        config: how the learner decodes.
        seed: of the rule's draws and of the batches.
        report: called in each stage: trying, rolling out, cloning.
        stop: asked often.
        parts: evenly spaced speeds, for a policy with a speed: at each, the rule that earns most is cloned.
        journal: where the search for the best rules is kept.
    """

    model: MaskedDiffusionModel
    task: Task
    config: DecodeConfig
    reward: Reward
    settings: CloneConfig
    processes: Processes
    seed: int = 0
    report: Report = silent
    stop: Stop = never
    parts: int = 8
    journal: Path | None = None

    def search(self, speeds: Sequence[float | None]) -> Search:
        """Where the rule to clone is found, at each speed."""
        return Search(
            self.model,
            self.task,
            self.config,
            self.reward,
            self.processes,
            speeds,
            self.journal,
            self.report,
            self.stop,
        )

    def run(self, policy: LearnedPolicy, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Fit the policy, in place.

        Returns:
            Metrics.

        Raises:
            UnmaskError: the rule answers no prompt correctly.
            Stopped: the user asked for it; the policy is of no use then.
        """
        started = time.perf_counter()
        rule = self.settings.rule
        assert rule is not None
        default = expert_block(None, self.task, self.config, "clone.block_length")
        cells = demonstrations(rule, self.settings.block_length, default, self._longest)
        speeds: list[float | None] = [None]
        if policy.needs.speed:
            speeds = [part / (self.parts - 1) for part in range(self.parts)]
        best, passes = self.search(speeds).best(cells, prompts[: self.settings.search_prompts])
        each = {cell.key: cell for cell in best}
        rolled_out = {key: self.lessons(cell, policy, prompts) for key, cell in each.items()}
        passes += sum(lessons.passes for lessons in rolled_out.values())
        lessons = together([(rolled_out[cell.key], speed) for cell, speed in zip(best, speeds, strict=True)], self.seed)
        rolled = time.perf_counter() - started
        losses = clone(
            policy, lessons, self.settings, self.seed, self.processes, partial(self.report, "cloning"), self.stop
        )
        whole = time.perf_counter() - started
        cell = best[0]
        length = cell.block_length
        return {
            "rule": cell.policy if len(each) == 1 else f"{len(each)} rules",
            "block_length": str(length) if isinstance(length, AdaptiveBlocks) or len(each) > 1 else length,
            **({} if speeds == [None] else {"cells": told_of(best, speeds)}),
            "expert_correct": lessons.correct,
            "kept": lessons.kept,
            "steps": lessons.total,
            "loss": losses[-1],
            "passes": passes,
            "seconds": whole,
            "seconds_model": rolled,
            "seconds_policy": 0.0,
            "seconds_update": whole - rolled,
        }

    @property
    def _longest(self) -> Block:
        return self.config.block_length or self.config.region(self.task, self.model)

    def lessons(self, cell: Demonstration, policy: LearnedPolicy, prompts: Sequence[Prompt]) -> Lessons:
        """The steps of a rule's trajectories, as the policy would see them.

        Raises:
            UnmaskError: no trajectory is left to clone.
        """
        team, model = self.processes, self.model
        numbers = list(team.share(range(len(prompts))))
        rolled = roll_out(
            model,
            load_policy(cell.policy),
            self.task,
            [prompts[i].example for i in numbers],
            self._decoding(cell),
            prompts=[prompts[i].tokens for i in numbers],
            seed=self.seed,
            streams=numbers,
            needs=policy.needs,
            on_ended=partial(self.report, "rolling out"),
        )
        nfe, right = rolled.outcome.nfe.tolist(), rolled.outcome.correct.tolist()
        everywhere = sorted(team.gather(list(zip(numbers, nfe, right, strict=True))))
        kept = {i for i, _, correct in everywhere if correct or self.settings.keep == "all"}
        if not kept:
            raise UnmaskError(
                f"The rule to clone, {cell.policy} in blocks of {cell.block_length}, answers none of {len(prompts)} "
                "prompts correctly: choose another clone.rule or clone.block_length, or clone.keep = 'all'."
            )
        order = sorted((step, i) for i, count, _ in everywhere if i in kept for step in range(count))
        index = {key: at for at, key in enumerate(order)}
        steps = rolled.steps.numbered(torch.tensor(numbers, device=model.device))
        steps = steps.take(torch.tensor([i in kept for i in steps.rollout.tolist()], device=model.device))
        length = steps.picks.shape[1]
        at = (steps.observation.step_fraction * length).round().long().tolist()
        return Lessons(
            as_seen(steps, self.config.resolve(model, self.task).blocks, policy),
            torch.tensor([index[key] for key in zip(at, steps.rollout.tolist(), strict=True)]),
            len(order),
            len(kept) / len(everywhere),
            sum(correct for *_, correct in everywhere) / len(everywhere),
            sum(count for _, count, _ in everywhere),
        )

    def _decoding(self, cell: Demonstration) -> DecodeConfig:
        return self.config.of(self.task, self.model).model_copy(update={"block_length": cell.block_length})


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


def told_of(best: Sequence[Demonstration], speeds: Sequence[float | None]) -> list[dict[str, Any]]:
    """The rules that are cloned, for the metrics."""
    return [
        {
            "speed": speed,
            "policy": cell.policy,
            "block_length": str(cell.block_length),
            "correct": cell.correct,
            "nfe": cell.nfe,
        }
        for cell, speed in zip(best, speeds, strict=True)
    ]


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
