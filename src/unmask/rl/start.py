"""What a run starts with: its policy, and the policies that show it something."""

from __future__ import annotations

import math

from unmask.decoding.blocks import AdaptiveBlocks
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy, Policy
from unmask.rl.algorithms.base import Expert
from unmask.rl.config import PolicyConfig
from unmask.tasks.base import Task

Block = int | AdaptiveBlocks | None


def expert_block(asked: Block, task: Task, config: DecodeConfig, name: str) -> Block:
    """An expert's block: the one asked for, or the task's as far as it divides the learner's own.

    Args:
        name: of the setting, for refusals.

    Raises:
        UnmaskError: the policy could not reveal what the expert reveals.
    """
    learner = config.block_length or config.region(task)
    if isinstance(learner, AdaptiveBlocks):
        if asked is not None and asked != learner:
            raise UnmaskError(
                f"{name} is {asked}, and the policy's blocks are adaptive: leave it out, so that both have the same."
            )
        return learner
    length = asked or math.gcd(task.block_length, learner)
    if isinstance(length, AdaptiveBlocks) or learner % length:
        raise UnmaskError(
            f"{name} {length} does not divide the policy's blocks of {learner}: the policy could not "
            "reveal what the expert reveals; use a divisor."
        )
    return length


def deterministic(expert: Expert, task: Task, config: DecodeConfig) -> tuple[Policy, DecodeConfig]:
    """An expert's policy, and how it decodes.

    Args:
        config: how the learner decodes.

    Raises:
        UnmaskError: it draws at random.
    """
    policy = load_policy(expert.policy)
    if policy.stochastic:
        raise UnmaskError(
            f"The expert {expert.policy!r} draws at random, and steering needs likelihood 1: use another rule."
        )
    block_length = expert_block(expert.block_length, task, config, "an expert's block_length")
    return policy, config.model_copy(update={"block_length": block_length})


def _unlike(found: LearnedPolicy, config: PolicyConfig) -> list[str]:
    """What the user asked for and the policy found has otherwise; what was not asked for is as it is found."""
    if config.chosen and found.type_name != config.type:
        return [f"type = {found.type_name!r}, not {config.type!r}"]
    asked = {name: getattr(config.network, name) for name in sorted(config.network.model_fields_set - {"speed_axis"})}
    has = {name: getattr(found.settings, name) for name in asked}
    return [f"{name} = {has[name]!r}, not {value!r}" for name, value in asked.items() if has[name] != value]


def starting_policy(config: PolicyConfig, model: MaskedDiffusionModel) -> LearnedPolicy:
    """Fresh weights, or the policy to start from, on the dLLM's device.

    Raises:
        UnmaskError: that policy has no weights to train, or is of another shape than the one asked for.
    """
    policy = loaded_start(config) or config.fresh(model.hidden_size)
    policy.place(model.device)
    return policy


def loaded_start(config: PolicyConfig) -> LearnedPolicy | None:
    """The policy to start from; None if there is none.

    Raises:
        UnmaskError: as `starting_policy`.
    """
    if config.init is None:
        return None
    found = load_policy(config.init)
    if not isinstance(found, LearnedPolicy):
        raise UnmaskError(f"init = {config.init!r} is a {found.type_name} policy, which has no weights to train.")
    unlike = _unlike(found, config)
    if unlike:
        raise UnmaskError(
            f"init = {config.init!r} has another architecture than the policy asked for ({'; '.join(unlike)}): "
            "leave out the policy's settings, or start from fresh weights."
        )
    found.settings = found.settings.model_copy(update={"speed_axis": ()})  # it learns at the network's own speeds
    found.calibrations = ()  # which were measured on the axis
    return found
