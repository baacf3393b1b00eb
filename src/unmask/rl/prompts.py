"""Training prompts with their tokens, and what happens to those that are too long."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from unmask.decoding.source import encode_example
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.rl.config import TrainConfig
from unmask.tasks.base import Example, Task

LEARNT, CLONED = 0, 1  # seeds of a task's draws: for the training and its validation, for the warm start


@dataclass(frozen=True)
class Prompt:
    """An example and its prompt's token ids."""

    example: Example
    tokens: list[int]


def room_beside(gen_length: int, positions: int | None, name: str, limit: int | None = None) -> int | None:
    """Tokens that a prompt may have beside the region; None if any number.

    Args:
        positions: of the dLLM; None if unbounded.
        limit: that a prompt is meant to have.

    Raises:
        UnmaskError: none, or fewer than `limit`.
    """
    room = None if positions is None else positions - gen_length
    if room is not None and (room < 1 or (limit is not None and limit > room)):
        raise UnmaskError(
            f"The dLLM {name!r} has {positions} positions, which leaves {max(room, 0)} for a prompt beside gen_length "
            f"{gen_length}: lower gen_length{'' if limit is None else ' or max_prompt_length'}, or take a dLLM with "
            "more positions."
        )
    return room


def fitting(
    model: MaskedDiffusionModel,
    examples: Sequence[Example],
    gen_length: int,
    limit: int | None = None,
    long: str = "refuse",
) -> tuple[list[Prompt], str | None]:
    """The examples as prompts of at most `limit` tokens (and no longer than the dLLM has room for).

    Args:
        long: ``skip`` leaves longer ones out; ``truncate`` keeps their last tokens; ``refuse`` raises.

    Returns:
        The prompts, and a sentence on those that were too long; None if none was.

    Raises:
        UnmaskError: with the number of prompts that are too long; none is left; an empty prompt.
    """
    room = room_beside(gen_length, model.max_length, model.name, limit)
    most = limit or room
    prompts = [Prompt(example, encode_example(model, example)) for example in examples]
    for i, prompt in enumerate(prompts):
        if not prompt.tokens:
            raise UnmaskError(f"Prompt {i} of {len(prompts)} is empty: leave it out of the data.")
    over = [prompt for prompt in prompts if most is not None and len(prompt.tokens) > most]
    if not over or most is None:
        return prompts, None
    told = f"{len(over)} of {len(prompts)} prompts have more than {most} tokens"
    raised = "raise max_prompt_length"
    if limit is None:  # it is the dLLM's
        told += f", which is what {model.max_length} positions of {model.name!r} leave beside gen_length {gen_length}"
        raised = "take a dLLM with more positions"
    if long == "refuse":
        longest = max(len(prompt.tokens) for prompt in over)
        raise UnmaskError(f"{told} (the longest {longest}): set long_prompts to 'skip' or 'truncate', or {raised}.")
    if long == "truncate":
        cut = [Prompt(prompt.example, prompt.tokens[-most:]) for prompt in prompts]
        return cut, f"{told} and lost their beginning."
    kept = [prompt for prompt in prompts if len(prompt.tokens) <= most]
    if not kept:
        raise UnmaskError(f"{told}: {raised}.")
    return kept, f"{told} and were left out."


def training_prompts(
    model: MaskedDiffusionModel, task: Task, config: TrainConfig, examples: int, *, seed: int, processes: int
) -> tuple[list[Prompt], str | None]:
    """Training prompts that fit, at least one for each process, and a sentence on those that do not.

    Raises:
        UnmaskError: as `fitting`; fewer prompts than processes.
    """
    found = task.examples("train", examples, seed=seed)
    limits = config.task
    length = config.decode.region(task, model)
    prompts, note = fitting(model, found, length, limits.max_prompt_length, limits.long_prompts)
    each = config.algorithm.settings.prompts
    if min(len(prompts), each) < processes:
        raise UnmaskError(
            f"{processes} processes need at least as many training prompts, of all and of an iteration; there "
            f"are {len(prompts)} and {each}."
        )
    return prompts, note


def draw_prompts(prompts: Sequence[Prompt], n: int, seed: int, iteration: int) -> list[Prompt]:
    """The prompts of an iteration: epoch after epoch in an order of its own, so that all are used equally often."""
    places = (divmod(place, len(prompts)) for place in range(iteration * n, (iteration + 1) * n))
    return [prompts[_order(len(prompts), seed, epoch)[at]] for epoch, at in places]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    order = list(range(n))
    random.Random(f"{seed}/epoch {epoch}").shuffle(order)
    return order
