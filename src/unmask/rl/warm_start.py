"""Warm start: fit the policy to a rule's decisions before reinforcement learning (behaviour cloning).

From scratch, full diffusion starts with hardly a correct answer and so without signal. The rule decodes in blocks; the
policy is asked, at every position it may select itself, whether the rule revealed it: it learns to hold back elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.wrappers import Plain
from unmask.rl.cloning import Lessons, clone, together
from unmask.rl.config import CloneConfig
from unmask.rl.experts import as_seen
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Reward
from unmask.rl.rollout import Steps, roll_out
from unmask.rl.search import Demonstration, Report, Search, demonstrations
from unmask.rl.start import Block, expert_block
from unmask.rl.swept import Tried
from unmask.tasks.base import Task


def silent(label: str, done: int, total: int) -> None:
    """A `Report` that says nothing."""


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
        speeds: list[float | None] = [None]
        if policy.needs.speed:
            speeds = [part / (self.parts - 1) for part in range(self.parts)]
        search = self.search(speeds)
        if self.tried is None:
            cells = demonstrations(rule, self.settings.block_length, default, self._longest)
            best, passes = search.best(cells, prompts[: self.settings.search_prompts])
        else:
            best, passes = search.known(self.tried), 0
        each = {cell.key: cell for cell in best}
        rolled_out = {key: self.lessons(cell, policy, prompts) for key, cell in each.items()}
        passes += sum(lessons.passes for lessons in rolled_out.values())
        lessons = together([(rolled_out[cell.key], speed) for cell, speed in zip(best, speeds, strict=True)], self.seed)
        rolled = time.perf_counter() - started
        losses = clone(
            policy, lessons, self.settings, self.seed, self.processes, partial(self.report, "cloning"), self.stop
        )
        if self.settings.best_of > 1:
            each_best = []
            for cell, speed in zip(best, speeds, strict=True):
                found, spent = self.best_of(policy, speed, prompts)
                each_best.append((found or rolled_out[cell.key], speed))
                passes += spent
            theirs = together(each_best, self.seed)
            again = partial(self.report, "cloning the best")
            losses += clone(policy, theirs, self.settings, self.seed, self.processes, again, self.stop)
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
        kept = self._kept(steps, numbers, nfe, right)
        if kept is None:
            raise UnmaskError(
                f"The rule to clone, {cell.policy} in blocks of {cell.block_length}, answers none of {len(prompts)} "
                "prompts correctly: choose another clone.rule or clone.block_length, or clone.keep = 'all'."
            )
        return kept

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
        return self._kept(steps, numbers, nfe, right), passes

    def _kept(self, steps: Steps, numbers: Sequence[int], nfe: Sequence[int], right: Sequence[bool]) -> Lessons | None:
        """Of one roll-out of each prompt, those to clone, if there are any.

        Args:
            steps: numbered as `numbers`, which are this process's prompts.
        """
        team = self.processes
        everywhere = sorted(team.gather(list(zip(numbers, nfe, right, strict=True))))
        kept = {i for i, _, correct in everywhere if correct or self.settings.keep == "all"}
        if not kept:
            return None
        order = sorted((step, i) for i, count, _ in everywhere if i in kept for step in range(count))
        index = {key: at for at, key in enumerate(order)}
        device = self.model.device
        steps = steps.numbered(torch.tensor(numbers, device=device))
        steps = steps.take(torch.tensor([i in kept for i in steps.rollout.tolist()], device=device))
        length = steps.picks.shape[1]
        at = (steps.observation.step_fraction * length).round().long().tolist()
        return Lessons(
            steps,
            torch.tensor([index[key] for key in zip(at, steps.rollout.tolist(), strict=True)]),
            len(order),
            len(kept) / len(everywhere),
            sum(correct for *_, correct in everywhere) / len(everywhere),
            int(team.total(sum(nfe))[0]),
        )

    def _decoding(self, cell: Demonstration) -> DecodeConfig:
        return self.config.of(self.task, self.model).model_copy(update={"block_length": cell.block_length})


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
