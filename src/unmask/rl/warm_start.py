"""Warm start: fit the policy to a rule's or to other policies' decisions before reinforcement learning.

From scratch, full diffusion starts with hardly a correct answer and so without signal. The rule decodes in blocks; the
policy is asked, at every position it may select itself, whether the rule revealed it: it learns to hold back elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.wrappers import Plain
from unmask.rl.cloning import Lessons, clone, kept, near, together
from unmask.rl.config import CloneConfig
from unmask.rl.experts import as_seen
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Reward
from unmask.rl.rollout import roll_out
from unmask.rl.search import Demonstration, Report, Search, demonstrations, plain
from unmask.rl.start import Block, expert_block
from unmask.rl.swept import Tried
from unmask.rl.teachers import Teachers
from unmask.tasks.base import Task


def silent(label: str, done: int, total: int) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True)
class Taught:
    """What a dLLM and task have to teach.

    Attributes:
        best: the rule at each speed; empty where policies are cloned.
        taught: the lessons of each rule or policy.
        lessons: all of them, at their speeds.
        passes: dLLM forward passes spent.
    """

    best: Sequence[Demonstration]
    taught: Mapping[str, Lessons]
    lessons: Lessons
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
        tried: what rules did before, in place of a search.
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
    tried: Tried | None = None

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

    @property
    def speeds(self) -> list[float | None]:
        """At each of which a rule is cloned."""
        return [part / (self.parts - 1) for part in range(self.parts)]

    def run(
        self,
        policy: LearnedPolicy,
        prompts: Sequence[Prompt],
        also: Sequence[tuple[WarmStart, Sequence[Prompt]]] = (),
    ) -> dict[str, Any]:
        """Fit the policy, in place.

        Args:
            also: of other dLLMs and tasks, whose lessons are cloned in turns with these.

        Returns:
            Metrics.

        Raises:
            UnmaskError: the rule answers no prompt correctly.
            Stopped: the user asked for it; the policy is of no use then.
        """
        started = time.perf_counter()
        places = [(self, prompts), *also]
        every = [warm.teach(policy, theirs) for warm, theirs in places]
        rolled = time.perf_counter() - started
        lessons = [each.lessons for each in every]
        losses = clone(
            policy, lessons, self.settings, self.seed, self.processes, partial(self.report, "cloning"), self.stop
        )
        passes = sum(each.passes for each in every)
        if self.settings.best_of > 1:
            found = [
                warm.best_of_each(policy, theirs, each) for (warm, theirs), each in zip(places, every, strict=True)
            ]
            passes += sum(spent for _, spent in found)
            again, bests = partial(self.report, "cloning the best"), [best for best, _ in found]
            losses += clone(policy, bests, self.settings, self.seed, self.processes, again, self.stop)
        whole = time.perf_counter() - started
        best, taught = every[0].best, every[0].taught
        blocks = dict.fromkeys(cell.block_length for cell in best) or [self._longest]
        several = f"{len(taught)} {'rules' if best else 'policies' if len(taught) > 1 else 'policy'}"
        return {
            "rule": best[0].policy if best and len(taught) == 1 else several,
            "block_length": plain(next(iter(blocks))) if len(blocks) == 1 else ", ".join(map(str, blocks)),
            **({"cells": told_of(best, self.speeds)} if best and policy.needs.speed else {}),
            "expert_correct": sum(each.correct for each in lessons) / len(lessons),
            "kept": sum(each.kept for each in lessons) / len(lessons),
            "steps": sum(each.total for each in lessons),
            "loss": losses[-1],
            "passes": passes,
            "seconds": whole,
            "seconds_model": rolled,
            "seconds_policy": 0.0,
            "seconds_update": whole - rolled,
        }

    def teach(self, policy: LearnedPolicy, prompts: Sequence[Prompt]) -> Taught:
        """Find what is to be cloned, and roll it out.

        Raises:
            UnmaskError: the rule answers no prompt correctly.
        """
        if self.settings.teachers:
            names, keep = self.settings.teachers, self.settings.keep
            teachers = Teachers(names, self.model, self.task, self.config, self.parts, keep, self.processes)
            taught = teachers.lessons(policy, prompts, self.seed, partial(self.report, "rolling out"))
            return Taught((), taught, together(list(taught.values())), sum(each.passes for each in taught.values()))
        speeds: list[float | None] = self.speeds if policy.needs.speed else [None]
        best, passes = self._best(speeds, prompts)
        taught = {cell.key: self.lessons(cell, policy, prompts) for cell in {c.key: c for c in best}.values()}
        passes += sum(each.passes for each in taught.values())
        at = [_at(taught[cell.key], speed, speeds, self.seed) for cell, speed in zip(best, speeds, strict=True)]
        return Taught(best, taught, together(at), passes)

    def best_of_each(self, policy: LearnedPolicy, prompts: Sequence[Prompt], taught: Taught) -> tuple[Lessons, int]:
        """`best_of` at each speed; where none is left to clone, the rule's own. And the passes spent."""
        each_best, passes = [], 0
        speeds: list[float | None] = self.speeds if policy.needs.speed else [None]
        for cell, speed in zip(taught.best, speeds, strict=True):
            found, spent = self.best_of(policy, speed, prompts)
            each_best.append(_at(found or taught.taught[cell.key], speed, speeds, self.seed))
            passes += spent
        return together(each_best), passes

    def _best(self, speeds: Sequence[float | None], prompts: Sequence[Prompt]) -> tuple[Sequence[Demonstration], int]:
        """The rule to clone at each speed, and the forward passes of finding it."""
        assert self.settings.rule is not None
        search = self.search(speeds)
        if self.tried is not None:
            return search.known(self.tried), 0
        default = expert_block(None, self.task, self.config, "clone.block_length")
        cells = demonstrations(self.settings.rule, self.settings.block_length, default, self._longest)
        return search.best(cells, prompts[: self.settings.search_prompts])

    @property
    def _longest(self) -> Block:
        return self.config.block_length or self.config.region(self.task, self.model)

    def lessons(self, cell: Demonstration, policy: LearnedPolicy, prompts: Sequence[Prompt]) -> Lessons:
        """The steps of a rule's trajectories, as the policy would see them.

        Raises:
            UnmaskError: no trajectory is left to clone.
        """
        model = self.model
        numbers = list(self.processes.share(range(len(prompts))))
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
        steps = as_seen(rolled.steps, self.config.resolve(model, self.task).blocks, policy)
        nfe, right = rolled.outcome.nfe.tolist(), rolled.outcome.correct.tolist()
        found = kept(steps, numbers, nfe, right, self.settings.keep, self.processes)
        if found is None:
            raise UnmaskError(
                f"The rule to clone, {cell.policy} in blocks of {cell.block_length}, answers none of {len(prompts)} "
                "prompts correctly: choose another clone.rule or clone.block_length, or clone.keep = 'all'."
            )
        return found

    def best_of(
        self, policy: LearnedPolicy, speed: float | None, prompts: Sequence[Prompt]
    ) -> tuple[Lessons | None, int]:
        """Of several roll-outs of each prompt by the policy itself, the one that earned most.

        Returns:
            None if none is left to clone; forward passes of all roll-outs.
        """
        copies, numbers = self.settings.best_of, list(self.processes.share(range(len(prompts))))
        repeated = [i for i in numbers for _ in range(copies)]
        rolled = roll_out(
            self.model,
            Plain(policy),
            self.task,
            [prompts[i].example for i in repeated],
            self.config,
            prompts=[prompts[i].tokens for i in repeated],
            seed=self.seed,
            streams=[i * copies + copy for i in numbers for copy in range(copies)],
            speeds=None if speed is None else [speed] * len(repeated),
            needs=policy.needs,
            on_ended=partial(self.report, f"trying {copies} times"),
        )
        best = self.reward(rolled.outcome).view(-1, copies).argmax(dim=1)
        chosen = best + torch.arange(len(numbers), device=best.device) * copies
        place = torch.full((len(repeated),), -1, device=best.device)
        place[chosen] = torch.arange(len(numbers), device=best.device)
        steps = rolled.steps.take(place[rolled.steps.rollout] >= 0).numbered(place)
        nfe, right = rolled.outcome.nfe[chosen].tolist(), rolled.outcome.correct[chosen].tolist()
        passes = int(self.processes.total(rolled.outcome.nfe.sum().item())[0])
        return kept(steps, numbers, nfe, right, self.settings.keep, self.processes), passes

    def _decoding(self, cell: Demonstration) -> DecodeConfig:
        return self.config.of(self.task, self.model).model_copy(update={"block_length": cell.block_length})


def _at(lessons: Lessons, speed: float | None, speeds: Sequence[float | None], seed: int) -> Lessons:
    """As those of one of evenly spaced speeds; without a speed as they are."""
    return lessons if speed is None else near(lessons, speed, 0.5 / (len(speeds) - 1), seed)


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
