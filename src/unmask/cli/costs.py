"""What a training will cost, before it begins (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from unmask.cli.console import console
from unmask.decoding.blocks import AdaptiveBlocks, check_block_length, check_own_blocks
from unmask.decoding.options import check_cache
from unmask.errors import UnmaskError
from unmask.models.auto import DEFAULT_MODEL, dtype_of, size_of
from unmask.models.stale_cache import STALE
from unmask.rl.card import describe
from unmask.rl.config import TrainConfig
from unmask.rl.places import first_of, places_of
from unmask.rl.plan import plan
from unmask.rl.prompts import room_beside
from unmask.rl.start import loaded_start


def describe_costs(config: TrainConfig, processes: int) -> None:
    """The resolved config, the batch arithmetic, and what it will cost at most. Loads neither weights nor a data set.

    Raises:
        UnmaskError: a cache that the dLLM does not have; there is no such task, its file cannot be read, or it has no
            verifier; a policy to start from that does not fit.
    """
    settings, decode, asked = config.algorithm.settings, config.decode, config.task
    kinds = STALE if config.model.own_blocks is None else ("exact",)
    check_cache(decode.cache, kinds, repr(config.model.model or DEFAULT_MODEL))
    task = asked.load_task()
    if not task.verifiable:
        raise UnmaskError(f"The task {task.name!r} has no verifier, and training needs one: pass --verifier.")
    if asked.from_file:
        task.examples("train", 1)
    gen_length, task_name = task.region(decode.gen_length), task.name
    also = [(there, there.task.load_task()) for there in places_of(config)]
    if config.algorithm.make().leaps and decode.block_length not in (None, gen_length):
        raise UnmaskError(
            "algorithm.leaps is for full diffusion, and decode.block_length is set: leave one of them out."
        )
    own = config.model.own_blocks
    if own is not None:
        check_own_blocks(decode.block_length, own, gen_length, config.model.model or "the default dLLM")
    elif not isinstance(decode.block_length, AdaptiveBlocks):
        check_block_length(gen_length, decode.block_length)
    start = config.policy.init
    if start is not None and "/" in start and not Path(start.partition("?")[0]).exists():
        console.print(f"{start} is not on this machine yet; the run begins with it.", highlight=False, soft_wrap=True)
    else:
        loaded_start(config.policy)  # refused now
    model = config.model.model or "the default dLLM"
    size = size_of(config.model.model)
    if size is not None:
        room_beside(gen_length, size.positions, config.model.model or DEFAULT_MODEL, asked.max_prompt_length)
    p = plan(config, gen_length, processes, size.hidden_size if size else None)
    console.print_json(config.model_dump_json())
    say: Callable[[str], None] = lambda line: console.print(line, highlight=False, soft_wrap=True)  # noqa: E731
    say(describe(config, model, task_name, gen_length))
    places = [(first_of(config), gen_length), *((there, other.gen_length) for there, other in also)]
    turns = [plan(there.at_turn(i, len(places)), length, processes) for i, (there, length) in enumerate(places)]
    most = sum(turn.most_passes for turn in turns)
    validations = [plan(there, length, processes).validation_passes for there, length in places]
    for (there, other), turn, each in zip(also, turns[1:], validations[1:], strict=True):
        say(
            f"In turns with {other.name} on {there.model.model}, {other.gen_length} positions: {turn.most_passes:,} of "
            f"the forward passes below, and {each:,} of the validations."
        )
    algorithm = config.algorithm.make()
    experts, others = len(algorithm.experts), algorithm.other_speeds
    elsewhere = f" + {others} at another speed" if others else ""
    elsewhere += f" + {algorithm.bold} bold" if algorithm.bold else ""
    elsewhere += f" + {algorithm.leaps} leaps without a pass" if algorithm.leaps else ""
    group = f"{settings.group_size} roll-outs + {experts} experts{elsewhere}"
    say(
        f"Batch: {settings.prompts} prompts x ({group}) = {p.rows} rows per iteration "
        f"({algorithm.members} per group), on {processes} process(es) at most {p.rows_here} each, "
        f"{p.active} active at once. {settings.inner_iterations} optimiser steps per batch, {p.updates} in all, scored "
        f"{settings.update_batch_size} decoding steps at a time. Each prompt is used {p.epochs:.2f} times."
    )
    say(
        f"dLLM forward passes (rows): {most:,} if every roll-out spends its {p.most_steps} steps, "
        f"{most // 4:,} at a quarter of them; validations {sum(validations):,} at most. One pass of a row "
        f"spans prompt + {gen_length} positions{', and runs twice for cfg_scale' if decode.cfg_scale else ''}."
    )
    if p.label_passes:
        say(f"Slow answers, which say what is right: {p.label_passes:,} more forward passes at most.")
    if size is None:
        weights = f"the dLLM's weights (the config.json of {model} cannot be read here, so their size is not known)"
    else:
        dtype = dtype_of(config.model.dtype)
        saved = [torch.bfloat16, torch.float32] if size.dtype is None else [size.dtype]
        dtypes = saved if isinstance(dtype, str) else [dtype]
        told = (f"{_bytes(size.parameters * d.itemsize)} in {str(d).removeprefix('torch.')}" for d in dtypes)
        weights = f"{' or '.join(told)} for the dLLM's {size.parameters:,} weights"
    say(
        f"Memory of a process, about: {weights}; its activations for {p.active} rows; "
        f"{_bytes(p.recorded_bytes)} at most for recorded steps; {_bytes(p.update_bytes)} for the policy's update "
        f"({p.policy_parameters:,} weights)."
    )


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
