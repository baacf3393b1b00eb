"""What a run will do and cost, before it starts: the batch arithmetic, forward passes and memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unmask.policies.transformer import TransformerPolicy
from unmask.rl.clone import SEARCH_PROMPTS, demonstrations
from unmask.rl.config import TrainConfig

PICK_BYTES, FLAG_BYTES, FLOAT_BYTES, INDEX_BYTES = 2, 1, 4, 8
ACTIVATIONS = 16  # floats of width `width` a position and block that a backward pass keeps, about


@dataclass(frozen=True)
class Plan:
    """Numbers of a run.

    Attributes:
        rows: roll-outs an iteration, experts included, of all processes.
        rows_here: of those, in the process with most.
        live: rows of the widest batch that the dLLM sees at once.
        epochs: times each training prompt is used.
        updates: optimiser steps.
        most_passes: dLLM forward passes of training roll-outs if every one spends its whole budget.
        validation_passes: as many for the validations.
        policy_parameters: of the policy.
        recorded_bytes: steps recorded in an iteration if every roll-out spends its budget, in one process.
        update_bytes: about what the policy's backward pass keeps.
    """

    rows: int
    rows_here: int
    live: int
    epochs: float
    updates: int
    most_passes: int
    validation_passes: int
    policy_parameters: int
    recorded_bytes: int
    update_bytes: int


def plan(config: TrainConfig, gen_length: int, processes: int, hidden_size: int | None = None) -> Plan:
    """The arithmetic of a run; `hidden_size` is the dLLM's, for policies that read hidden states."""
    members = config.group_size + len(config.experts)
    prompts_here = math.ceil(config.prompts / processes)
    settings = config.policy.for_model(hidden_size or 1)
    features = settings.hidden_size or settings.top_k
    policy = TransformerPolicy(settings)
    clone_rows = 0
    if config.clones and config.clone_from is not None:
        longest = config.block_length or gen_length
        cells = demonstrations(config.clone_from, config.clone_block_length, longest, longest)
        clone_rows = config.clone_examples + (len(cells) * SEARCH_PROMPTS if len(cells) > 1 else 0)
    validations = math.ceil(config.iterations / config.validate_every) + 1
    return Plan(
        rows=config.prompts * members,
        rows_here=prompts_here * members,
        live=min(prompts_here * config.group_size, config.batch_size),
        epochs=config.iterations * config.prompts / config.train_examples,
        updates=config.iterations * config.inner_iterations,
        most_passes=(config.iterations * config.prompts * members + clone_rows) * gen_length,
        validation_passes=validations * config.validation_prompts * gen_length,
        policy_parameters=sum(p.numel() for p in policy.parameters()),
        recorded_bytes=prompts_here * members * gen_length * step_bytes(gen_length, features),
        update_bytes=config.update_batch_size
        * gen_length
        * settings.width
        * ACTIVATIONS
        * settings.blocks
        * FLOAT_BYTES,
    )


def step_bytes(gen_length: int, features: int) -> int:
    """Bytes of one recorded step (`unmask.rl.rollout.Trajectories`)."""
    each = features * FLOAT_BYTES + 2 * FLAG_BYTES + PICK_BYTES
    return gen_length * each + FLOAT_BYTES + INDEX_BYTES
