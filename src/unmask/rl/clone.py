"""Warm start: fit the policy to a rule's decisions before reinforcement learning (behaviour cloning).

From scratch, full diffusion starts with hardly a correct answer and so without signal. The rule decodes in blocks; the
policy is asked, at every position it may select itself, whether the rule revealed it: it learns to hold back elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.grids import grid
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.experts import as_seen
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import Reward
from unmask.rl.rollout import Trajectories, judged, roll_out
from unmask.tasks.base import Task

BEST = "best:"
SEARCH_PROMPTS = 64  # of the examples to clone, for choosing a cell


@dataclass(frozen=True)
class Demonstration:
    """A rule with its block length, and what it earns on the prompts it was tried on."""

    policy: str
    block_length: int
    reward: float | None = None


def demonstrations(clone_from: str, block_length: int | None, default: int, longest: int) -> list[Demonstration]:
    """The rule a user asked for; ``best:type`` is every cell of its grid.

    Args:
        block_length: of the rule; None is `default`, or each power of two for a grid.
        longest: block length of the learner, which every cell's divides.
    """
    if not clone_from.startswith(BEST):
        return [Demonstration(clone_from, block_length or default)]
    powers = [2**i for i in range(2, longest.bit_length()) if longest % 2**i == 0]
    lengths = [block_length] if block_length else powers or [longest]
    return [Demonstration(rule, length) for length in lengths for rule in grid(clone_from.removeprefix(BEST))]


def best_demonstration(
    model: MaskedDiffusionModel,
    cells: Sequence[Demonstration],
    task: Task,
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    gen_length: int,
    batch_size: int,
    team: Processes,
    on_cell: Callable[[int, int], None] | None = None,
    stop: Stop = never,
) -> tuple[Demonstration, int] | None:
    """The cell that earns most on the first prompts, and the forward passes spent on finding it; None if stopped."""
    if len(cells) == 1:
        return cells[0], 0
    numbers = team.share(range(min(SEARCH_PROMPTS, len(prompts))))
    mine = [prompts[i] for i in numbers]
    found, passes = [], 0.0
    for cell in cells:
        earned, count, spent = 0.0, 0.0, 0.0
        if mine:
            decoded = decode(
                model,
                load_policy(cell.policy),
                [prompt.tokens for prompt in mine],
                streams=numbers,
                gen_length=gen_length,
                block_length=cell.block_length,
                batch_size=batch_size,
                stop_at_eos=False,
            )
            rewards = reward(judged(model, task, [prompt.example for prompt in mine], decoded, gen_length))
            earned, count, spent = rewards.sum().item(), float(len(mine)), float(decoded.model_rows)
        earned, count, spent = team.total(earned, count, spent)
        passes += spent
        found.append(Demonstration(cell.policy, cell.block_length, earned / count))
        if on_cell is not None:
            on_cell(len(found), len(cells))
        if team.any(stop()):
            return None
    return max(found, key=lambda cell: cell.reward or 0.0), int(passes)


@dataclass(frozen=True)
class Lesson:
    """Recorded steps of this process, and where they stand among those of all.

    Attributes:
        place: of each step in the order of all processes' steps.
        total: steps of all processes.
        kept, correct: shares of roll-outs that are cloned, that are right.
        passes: dLLM forward passes of the roll-outs.
    """

    steps: Trajectories
    place: Int[Tensor, " s"]
    total: int
    kept: float
    correct: float
    passes: int


def lesson(
    model: MaskedDiffusionModel,
    cell: Demonstration,
    policy: TransformerPolicy,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    keep: str,
    gen_length: int,
    block_length: int,
    batch_size: int,
    seed: int,
    team: Processes,
    on_ended: Callable[[int, int], None] | None = None,
) -> Lesson:
    """The steps of a rule's trajectories, as a policy that decodes with `block_length` would see them.

    Args:
        keep: ``correct`` leaves out those with a wrong answer.

    Raises:
        UnmaskError: none is left.
    """
    numbers = list(team.share(range(len(prompts))))
    rolled = roll_out(
        model,
        load_policy(cell.policy),
        task,
        [prompts[i].example for i in numbers],
        prompts=[prompts[i].tokens for i in numbers],
        gen_length=gen_length,
        block_length=cell.block_length,
        batch_size=batch_size,
        seed=seed,
        streams=numbers,
        needs=policy.needs,
        features=policy.features,
        on_ended=on_ended,
    )
    nfe, right = rolled.outcome.nfe.tolist(), rolled.outcome.correct.tolist()
    everywhere = sorted(team.gather(list(zip(numbers, nfe, right, strict=True))))
    kept = {i for i, _, correct in everywhere if correct or keep == "all"}
    if not kept:
        raise UnmaskError(
            f"The rule to clone, {cell.policy} in blocks of {cell.block_length}, answers none of {len(prompts)} "
            "prompts correctly: choose another clone_from or clone_block_length, or clone_keep = 'all'."
        )
    order = sorted((step, i) for i, count, _ in everywhere if i in kept for step in range(count))
    place = {key: at for at, key in enumerate(order)}
    mine = torch.tensor(numbers, device=model.device)
    steps = rolled.steps.numbered(mine)
    steps = steps.take(torch.tensor([i in kept for i in steps.rollout.tolist()], device=model.device))
    at = (steps.step_fraction * gen_length).round().long().tolist()
    return Lesson(
        as_seen(steps, block_length, policy),
        torch.tensor([place[key] for key in zip(at, steps.rollout.tolist(), strict=True)]),
        len(order),
        len(kept) / len(everywhere),
        sum(correct for *_, correct in everywhere) / len(everywhere),
        sum(count for _, count, _ in everywhere),
    )


def clone(
    policy: TransformerPolicy,
    lesson: Lesson,
    *,
    updates: int,
    batch_size: int,
    lr: float,
    seed: int,
    team: Processes | None = None,
    on_update: Callable[[int, float], None] | None = None,
    stop: Stop = never,
) -> bool:
    """Maximise the likelihood of the recorded picks, in place; False if stopped.

    Args:
        updates: optimiser steps; the learning rate falls linearly to zero over them.
        batch_size: recorded steps a batch, of all processes.
        on_update: called with the number of updates done and the loss.
    """
    team = team or Processes()
    actions = policy.drawing(force_progress=False).actions
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr)
    where = torch.full((lesson.total,), -1).index_put((lesson.place,), torch.arange(len(lesson.place)))
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - update / updates)
        drawn = where[torch.randint(lesson.total, (batch_size,), generator=generator)]
        batch = lesson.steps.take(drawn[drawn >= 0].to(lesson.steps.rollout.device))
        logits = policy(batch.features, batch.masked, batch.step_fraction)
        loss: Float[Tensor, ""] = -actions.log_prob(logits, batch.selectable, batch.picks).sum() / batch_size
        optimizer.zero_grad()
        loss.backward()
        team.add_gradients(policy.parameters())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if on_update is not None:
            on_update(update + 1, team.total(loss.item())[0])
        if team.any(stop()):
            return False
    return True
