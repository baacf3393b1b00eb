"""Warm start: fit the policy to a rule's decisions before reinforcement learning (behaviour cloning).

From scratch, full diffusion starts with hardly a correct answer and so without signal. The rule decodes in blocks; the
policy is asked, at every position it may select itself, whether the rule revealed it: it learns to hold back elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.errors import Stopped, UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.grids import grid
from unmask.rl.config import CloneConfig
from unmask.rl.experts import as_seen
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Reward, judge
from unmask.rl.rollout import Steps, roll_out
from unmask.rl.start import Block, expert_block
from unmask.tasks.base import Task

BEST = "best:"
SEARCH_PROMPTS = 64  # of the examples to clone, for choosing a setting
Report = Callable[[str, int, int], None]  # a label, what is done, what there is to do


def silent(label: str, done: int, total: int) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True)
class Demonstration:
    """A rule with its block length, and what it earns on the prompts it was tried on."""

    policy: str
    block_length: Block
    reward: float | None = None


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
        cell, passes = self.best(cells, prompts)
        lessons = self.lessons(cell, policy, prompts)
        rolled = time.perf_counter() - started
        losses = clone(
            policy, lessons, self.settings, self.seed, self.processes, partial(self.report, "cloning"), self.stop
        )
        whole = time.perf_counter() - started
        return {
            "rule": cell.policy,
            "block_length": str(cell.block_length)
            if isinstance(cell.block_length, AdaptiveBlocks)
            else cell.block_length,
            "expert_correct": lessons.correct,
            "kept": lessons.kept,
            "steps": lessons.total,
            "loss": losses[-1],
            "passes": passes + lessons.passes,
            "seconds": whole,
            "seconds_model": rolled,
            "seconds_policy": 0.0,
            "seconds_update": whole - rolled,
        }

    @property
    def _longest(self) -> Block:
        return self.config.block_length or self.config.region(self.task, self.model)

    def best(self, cells: Sequence[Demonstration], prompts: Sequence[Prompt]) -> tuple[Demonstration, int]:
        """The setting that earns most on the first prompts, and the forward passes spent on finding it."""
        if len(cells) == 1:
            return cells[0], 0
        team = self.processes
        numbers = team.share(range(min(SEARCH_PROMPTS, len(prompts))))
        mine = [prompts[i] for i in numbers]
        found, passes = [], 0.0
        for cell in cells:
            earned, count, spent = 0.0, 0.0, 0.0
            if mine:
                config = self._decoding(cell)
                tokens = [prompt.tokens for prompt in mine]
                out = decode(self.model, load_policy(cell.policy), tokens, config, streams=numbers)
                examples, length = [prompt.example for prompt in mine], config.region()
                rewards = self.reward(judge(self.task, examples, out.texts, out.nfe, out.complete, length))
                earned, count, spent = rewards.sum().item(), float(len(mine)), float(out.passes)
            earned, count, spent = team.total(earned, count, spent)
            passes += spent
            found.append(Demonstration(cell.policy, cell.block_length, earned / count))
            self.report("trying", len(found), len(cells))
            if team.any(self.stop()):
                raise Stopped("Stopped while trying the rule's settings.")
        return max(found, key=lambda cell: cell.reward or 0.0), int(passes)

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


def demonstrations(rule: str, block_length: Block, default: Block, longest: Block) -> list[Demonstration]:
    """The rule a user asked for; ``best:type`` is every setting of its grid.

    Args:
        block_length: of the rule; None is `default`, or each power of two for a grid.
        longest: block length of the learner, which every other's divides.
    """
    if not rule.startswith(BEST):
        return [Demonstration(rule, block_length or default)]
    lengths: list[Block]
    if isinstance(longest, int) and not block_length:
        lengths = [2**i for i in range(2, longest.bit_length()) if longest % 2**i == 0] or [longest]
    else:
        lengths = [block_length or longest]
    return [Demonstration(one, length) for length in lengths for one in grid(rule.removeprefix(BEST))]


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
