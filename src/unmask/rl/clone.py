"""Warm start: fit the policy to a rule's decisions before reinforcement learning (behaviour cloning).

From scratch, full diffusion starts with hardly a correct answer and so without signal. The rule decodes in blocks; the
policy is asked, at every position it may select itself, whether the rule revealed it: it learns to hold back elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from unmask.decoding.blocks import selectable
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.actions import bernoulli_log_prob
from unmask.policies.base import Policy
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.rollout import Trajectories, roll_out
from unmask.tasks.base import Example, Task


def expert_trajectories(
    model: MaskedDiffusionModel,
    expert: Policy,
    task: Task,
    examples: Sequence[Example],
    *,
    gen_length: int,
    expert_block_length: int,
    block_length: int,
    batch_size: int,
    seed: int,
    top_k: int,
) -> tuple[Trajectories, float]:
    """The steps of an expert's correct trajectories, as a policy that decodes with `block_length` would see them.

    Returns:
        The steps, and the share of examples that the expert answers correctly.

    Raises:
        UnmaskError: it answers none.
    """
    steps, _, correct = roll_out(
        model,
        expert,
        task,
        examples,
        gen_length=gen_length,
        block_length=expert_block_length,
        batch_size=batch_size,
        seed=seed,
        top_k=top_k,
    )
    if not correct.any():
        raise UnmaskError(
            f"The rule to clone answers none of {len(examples)} prompts correctly: choose another clone_from or "
            "clone_block_length, or clone_from = 'none'."
        )
    steps = steps.take(correct[steps.rollout])
    return replace(steps, selectable=selectable(steps.masked, block_length)), correct.float().mean().item()


def clone(
    policy: TransformerPolicy,
    steps: Trajectories,
    *,
    updates: int,
    batch_size: int,
    lr: float,
    seed: int,
    on_update: Callable[[int, float], None] | None = None,
) -> None:
    """Maximise the likelihood of the recorded actions, in place.

    Args:
        updates: optimiser steps; the learning rate falls linearly to zero over them.
        batch_size: recorded steps a batch.
        on_update: called with the number of updates done and the loss.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - update / updates)
        batch = steps.take(torch.randint(len(steps), (batch_size,), generator=generator).to(steps.rollout.device))
        logits = policy(batch.confidence, batch.masked, batch.step_fraction)
        loss = -bernoulli_log_prob(logits, batch.selectable, batch.action).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if on_update is not None:
            on_update(update + 1, loss.item())
