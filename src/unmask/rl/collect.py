"""One iteration's roll-outs: a group for each prompt by the policy, and one for each prompt by each expert."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Cost
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import LearnedPolicy, Policy
from unmask.rl.algorithms.base import Batch
from unmask.rl.experts import as_seen
from unmask.rl.leaps import Bold, leapt
from unmask.rl.processes import Processes
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Outcome, Reward, correct_by_task
from unmask.rl.rollout import Rollouts, joined, roll_out
from unmask.tasks.base import Task

MANY = 2**20  # more than the prompts of an iteration, on all processes together

Metrics = dict[str, float]


@dataclass(frozen=True)
class Collected:
    """What an iteration learns from, and what it cost, in this process.

    Attributes:
        outcome: of the policy's own roll-outs.
        passes: forward passes of all roll-outs, experts' too, as in `unmask.decoding.session.Totals`.
        passes_run: of these, what the dLLM really ran.
        model_seconds: of all roll-outs.
        policy_seconds: of all roll-outs.
    """

    batch: Batch
    outcome: Outcome
    passes: int
    passes_run: int
    model_seconds: float
    policy_seconds: float


class Collector:
    """Rolls out.

    Args:
        learner: whose view of the steps is recorded.
        actor: the learner as it draws in roll-outs.
        experts: deterministic policies, each with how it decodes.
        group_size: roll-outs per prompt.
        parts: evenly spaced speeds that advantages are scaled by.
        other_speeds: roll-outs per prompt by the actor at another speed, which join the group as experts' do.
        leaps: roll-outs per prompt that `unmask.rl.leaps` makes of the actor's.
        bold: roll-outs per prompt by the actor with bold steps. Leaps and bold roll-outs that earn more than the mean
            of their group are learnt from as the policy's own, however unlikely it is to act so; others as experts'.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        task: Task,
        config: DecodeConfig,
        reward: Reward,
        learner: LearnedPolicy,
        actor: Policy,
        experts: Sequence[tuple[Policy, DecodeConfig]],
        group_size: int,
        parts: int = 1,
        other_speeds: int = 0,
        leaps: int = 0,
        bold: int = 0,
    ) -> None:
        self.model, self.task, self.config, self.reward = model, task, config, reward
        self.learner, self.actor, self.experts, self.group_size = learner, actor, experts, group_size
        self.parts, self.other_speeds, self.leaps = parts, other_speeds, leaps
        self.bold = bold
        self._options = config.resolve(model, task)
        self._blocks = self._options.blocks

    def collect(
        self, prompts: Sequence[tuple[int, Prompt]], seed: int, speeds: Sequence[float] | None = None
    ) -> Collected:
        """
        Args:
            prompts: each with its index among those of the iteration, which its random streams depend on.
            seed: of the iteration.
            speeds: of all prompts of the iteration, for a policy with a speed.

        Returns:
            The roll-outs of this process's prompts.
        """
        each = None if speeds is None else [speeds[index] for index, _ in prompts]
        mine = self._play(self.actor, self.config, prompts, self.group_size, seed, each, hindsight=self.leaps > 0)
        rolled = [mine, *(self._shown(expert, how, prompts, seed, each) for expert, how in self.experts)]
        if speeds is not None and each is not None:
            further = range(self.other_speeds)
            rolled += [self._elsewhere(prompts, seed, each, (i + self.group_size) * len(speeds)) for i in further]
        behind = self.group_size + self.other_speeds
        for i in range(self.bold):
            first = (i + behind) * (len(speeds) if speeds else MANY)
            rolled.append(self._play(Bold(self.actor), self.config, prompts, 1, seed, each, first))
        played = [part.out for part in rolled]
        for i in range(self.leaps):
            keys = [f"{seed}/{index}/leap {i}" for index, _ in prompts]
            actions = self.learner.actions
            rolled.append(leapt(mine, keys, self.group_size, actions, self.model, self.task, self._options))
        device = self.model.device
        reward = torch.cat([self.reward(part.outcome).to(device).view(len(prompts), -1) for part in rolled], dim=1)
        return Collected(
            batch=self._packed(rolled, reward, part_of(each, self.parts, len(prompts)).to(device)),
            outcome=mine.outcome,
            passes=sum(out.passes for out in played),
            passes_run=sum(out.passes_run for out in played),
            model_seconds=sum(out.model_seconds for out in played),
            policy_seconds=sum(out.policy_seconds for out in played),
        )

    def _play(
        self,
        policy: Policy,
        config: DecodeConfig,
        prompts: Sequence[tuple[int, Prompt]],
        copies: int,
        seed: int,
        speeds: Sequence[float] | None,
        first: int = 0,
        hindsight: bool = False,
    ) -> Rollouts:
        repeated = [(index, prompt) for index, prompt in prompts for _ in range(copies)]
        return roll_out(
            self.model,
            policy,
            self.task,
            [prompt.example for _, prompt in repeated],
            config,
            prompts=[prompt.tokens for _, prompt in repeated],
            streams=[first + index * copies + i for index, _ in prompts for i in range(copies)],
            speeds=None if speeds is None else [speed for speed in speeds for _ in range(copies)],
            seed=seed,
            needs=self.learner.needs,
            hindsight=hindsight,
        )

    def _shown(
        self,
        expert: Policy,
        config: DecodeConfig,
        prompts: Sequence[tuple[int, Prompt]],
        seed: int,
        speeds: Sequence[float] | None,
    ) -> Rollouts:
        """An expert's roll-out of each prompt, as the learner would have met its steps."""
        rolled = self._play(expert, config, prompts, 1, seed, speeds)
        return replace(rolled, steps=as_seen(rolled.steps, self._blocks, self.learner))

    def _elsewhere(
        self, prompts: Sequence[tuple[int, Prompt]], seed: int, speeds: Sequence[float], first: int
    ) -> Rollouts:
        """A roll-out of each prompt at another speed, judged and learnt at its group's own.

        Where all of a group fail in the same way, or none is fast, nothing is learnt; another speed may know better.
        """
        drawn = [random.Random(f"{seed}/{first + index}/another speed").random() for index, _ in prompts]
        rolled = self._play(self.actor, self.config, prompts, 1, seed, drawn, first)
        seen, asked = rolled.steps.observation, torch.tensor(speeds, device=self.model.device)
        steps = replace(rolled.steps, observation=replace(seen, speed=asked[rolled.steps.rollout]))
        return replace(rolled, steps=steps, outcome=replace(rolled.outcome, speed=asked))

    def _packed(self, rolled: Sequence[Rollouts], reward: torch.Tensor, part: torch.Tensor) -> Batch:
        """All steps, roll-outs numbered group by group, those of others behind the policy's."""
        size, members = self.group_size, reward.shape[1]
        device = self.model.device
        count = len(rolled[0].outcome.nfe)
        learners = torch.arange(count, device=device)
        parts = [rolled[0].steps.numbered(learners // size * members + learners % size)]
        shown = reward <= reward.mean(dim=1, keepdim=True)
        shown[:, : members - self.leaps - self.bold] = True
        shown[:, :size] = False
        expert = shown.flatten()
        for i, other in enumerate(rolled[1:]):
            parts.append(other.steps.numbered(torch.arange(count // size, device=device) * members + size + i))
        return Batch(joined(parts) if len(parts) > 1 else parts[0], reward, expert, part)


def draw_speeds(n: int, parts: int, seed: int, iteration: int) -> list[float]:
    """Speeds of n prompts, as many near each of `parts` evenly spaced values from 0 to 1, and anywhere between."""
    rng = random.Random(f"{seed}/{iteration}/speeds")
    near = [(i % parts + rng.uniform(-0.5, 0.5)) / (parts - 1) for i in range(n)]
    return [min(max(speed, 0.0), 1.0) for speed in near]


def part_of(speeds: Sequence[float] | None, parts: int, n: int) -> Int[Tensor, " n"]:
    """Of which evenly spaced value each speed is near; 0 without speeds."""
    if speeds is None:
        return torch.zeros(n, dtype=torch.long)
    return torch.tensor([round(speed * (parts - 1)) for speed in speeds], dtype=torch.long)


def by_speed(
    outcome: Outcome | None,
    reward: Tensor | None,
    parts: int,
    processes: Processes,
    cost: Cost = "passes",
    task: str | None = None,
) -> Metrics:
    """``correct@0.50``, ``nfe@0.50`` and ``reward@0.50``: means near each evenly spaced speed, over all processes.

    Where positions are what counts, ``equivalents@0.50``, too.

    Args:
        outcome: of episodes with a speed; None where this process had none.
        reward: of each.
        task: of a mixture, which alone counts; None for all.
    """
    mine: list[tuple[float, ...]] = []
    names = ["correct", "nfe", "reward", *(["equivalents"] if cost == "positions" else [])]
    if outcome is not None and outcome.speed is not None and reward is not None:
        near = part_of(outcome.speed.tolist(), parts, len(outcome.nfe)).tolist()
        each = [outcome.correct, outcome.nfe, reward.flatten()]
        each += [outcome.spent(cost)] if cost == "positions" else []
        told = zip(near, *(values.tolist() for values in each), strict=True)
        mine = [numbers for numbers, of in zip(told, outcome.examples, strict=True) if task in (None, of.task)]
    every = processes.gather(mine)
    found: Metrics = {}
    for part in sorted({part for part, *_ in every}):
        rows = [numbers for each, *numbers in every if each == part]
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            found[f"{name}@{part / (parts - 1):.2f}"] = sum(values) / len(rows)
    return found


def samples_of(found: Collected, group_size: int, n: int) -> list[dict[str, Any]]:
    """The first roll-outs of the first n prompts of this process, for a person to read."""
    outcome, reward = found.outcome, found.batch.reward
    kept = []
    for i in range(min(n, len(reward))):
        row = i * group_size
        sample = {
            "prompt": outcome.examples[row].prompt,
            "text": outcome.texts[row],
            "correct": bool(outcome.correct[row]),
            "nfe": int(outcome.nfe[row]),
            "reward": float(reward[i, 0]),
        }
        kept.append(sample if outcome.speed is None else {**sample, "speed": float(outcome.speed[row])})
    return kept


def metrics_of(outcome: Outcome, reward: torch.Tensor, parts: int, processes: Processes) -> Metrics:
    """How roll-outs ended, in all processes.

    Args:
        reward: of these roll-outs.
        parts: as in `by_speed`.
    """
    nfe = processes.gather(outcome.nfe.tolist())
    left = 0 if outcome.unfinished is None else outcome.unfinished.sum().item()
    earned, correct, unfinished = processes.total(reward.sum().item(), outcome.correct.sum().item(), left)
    return {
        "reward": earned / len(nfe),
        "correct": correct / len(nfe),
        "nfe": sum(nfe) / len(nfe),
        "nfe_std": statistics.pstdev(nfe),
        "nfe_min": min(nfe),
        "nfe_max": max(nfe),
        "unfinished": unfinished / len(nfe),
        **correct_by_task(processes.gather(outcome.by_task())),
        **({} if outcome.speed is None else by_speed(outcome, reward, parts, processes)),
    }
