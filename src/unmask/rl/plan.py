"""What a run will do and cost, before it starts: the batch arithmetic, forward passes and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from unmask.observation import Needs
from unmask.policies.base import LearnedPolicy
from unmask.rl.config import TrainConfig
from unmask.rl.search import demonstrations

PICK_BYTES, FLAG_BYTES, FLOAT_BYTES, INDEX_BYTES = 2, 1, 4, 8


@dataclass(frozen=True)
class Plan:
    """Numbers of a run.

    Attributes:
        rows: roll-outs per iteration, experts included, of all processes.
        rows_here: of those, in the process with most.
        active: rows of the widest batch that the dLLM sees at once.
        epochs: times each training prompt is used.
        updates: optimiser steps.
        most_steps: forward passes of a roll-out at most.
        most_passes: dLLM forward passes of training roll-outs if every one spends its whole budget.
        validation_passes: as many for the validations.
        label_passes: of the slow decode of each prompt, where that says what is right.
        policy_parameters: of the policy.
        recorded_bytes: steps recorded in an iteration if every roll-out spends its budget, in one process.
        update_bytes: about what the policy's backward pass keeps.
    """

    rows: int
    rows_here: int
    active: int
    epochs: float
    updates: int
    most_steps: int
    most_passes: int
    validation_passes: int
    label_passes: int
    policy_parameters: int
    recorded_bytes: int
    update_bytes: int


def plan(config: TrainConfig, gen_length: int, processes: int, hidden_size: int | None = None) -> Plan:
    """The arithmetic of a run; `hidden_size` is the dLLM's, for policies that read hidden states."""
    settings, run, limits = config.algorithm.settings, config.run, config.task
    algorithm = config.algorithm.make()
    members = algorithm.members - algorithm.leaps  # which are no decoding
    prompts_here = math.ceil(settings.prompts / processes)
    policy = config.policy.fresh(hidden_size or 1)
    clone_rows = 0
    if config.clone.teachers:
        clone_rows = config.clone.examples * (settings.speeds if policy.needs.speed else 1)
    elif config.clones and config.clone.rule is not None:
        longest = config.decode.block_length or gen_length
        cells = demonstrations(config.clone.rule, config.clone.block_length, longest, longest)
        searches = len(cells) > 1 and config.clone.sweep is None
        speeds = settings.speeds if policy.needs.speed else 1
        taught = min(speeds, len(cells)) + (config.clone.best_of * speeds if config.clone.best_of > 1 else 0)
        clone_rows = config.clone.examples * taught + (len(cells) * config.clone.search_prompts if searches else 0)
    most = config.decode.most_steps(gen_length)
    labelled = min(limits.train_examples, run.iterations * settings.prompts) + limits.validation_prompts
    labelled += config.clone.examples if config.clones else 0
    validations = math.ceil(run.iterations / run.validate_every) + 1 + len(run.temperatures)
    validations *= settings.speeds if policy.needs.speed else 1
    return Plan(
        rows=settings.prompts * members,
        rows_here=prompts_here * members,
        active=min(prompts_here * settings.group_size, config.decode.batch_size),
        epochs=run.iterations * settings.prompts / limits.train_examples,
        updates=run.iterations * settings.inner_iterations,
        most_steps=most,
        most_passes=(run.iterations * settings.prompts * members + clone_rows) * most,
        validation_passes=validations * limits.validation_prompts * most,
        label_passes=0 if limits.labels == "verifier" else labelled * gen_length,
        policy_parameters=sum(p.numel() for p in policy.parameters()),
        recorded_bytes=prompts_here * members * most * step_bytes(gen_length, policy.needs, hidden_size or 1),
        update_bytes=settings.update_batch_size * gen_length * activations(policy) * FLOAT_BYTES,
    )


def step_bytes(gen_length: int, needs: Needs, hidden_size: int) -> int:
    """Bytes of one recorded step (`unmask.rl.rollout.Steps`)."""
    numbers = (
        needs.top_k * (1 + 2 * needs.tokens) + needs.entropy + needs.kl_history + needs.hidden_states * hidden_size
    )
    each = numbers * FLOAT_BYTES + 2 * FLAG_BYTES + PICK_BYTES
    return gen_length * each + FLOAT_BYTES + INDEX_BYTES


def activations(policy: LearnedPolicy) -> int:
    """Floats that a backward pass keeps per position, about: what each layer gives, and its activation's."""
    return sum(2 * module.out_features for module in policy.modules() if isinstance(module, nn.Linear))
