"""The rules of a sweep that was made before (`unmask sweep`), in place of a search for the best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unmask.decoding.blocks import parse_block_length
from unmask.decoding.options import SHARED, DecodeConfig, told_cache
from unmask.errors import UnmaskError
from unmask.journal import Journal
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.grids import spelt
from unmask.rl.rewards import Outcome
from unmask.rl.search import BEST, EVERY, Demonstration
from unmask.rl.start import Block
from unmask.tasks.base import Example, Task

Tried = dict[Demonstration, Outcome]
COLUMNS = {"model", "task", "gen_length", "split", "suppress_eos", "stop_at_eos", "kind", "policy", "block_length"}
COLUMNS |= {"prompt", "text", "correct", "nfe"}


def swept(
    folder: str | Path,
    rule: str,
    model: MaskedDiffusionModel,
    task: Task,
    config: DecodeConfig,
    block_length: Block = None,
) -> Tried:
    """The rules of a sweep that the learner can be shown, and what they did.

    Args:
        rule: which, as in `unmask.rl.search.demonstrations`: ``best:type`` or ``best:*``.
        config: how the learner decodes.
        block_length: of the rules; by default of any length that divides the learner's.

    Raises:
        UnmaskError: no sweep, of another dLLM, task or region, of the test split, or without a rule that fits.
    """
    if not rule.startswith(BEST):
        raise UnmaskError(f"clone.sweep is for the best of a sweep, and clone.rule is {rule!r}: make it 'best:*'.")
    path, kind = Path(folder) / "rows.jsonl", rule.removeprefix(BEST)
    if not path.exists():
        raise UnmaskError(f"clone.sweep: {folder} holds no rows.jsonl: give the output folder of unmask sweep.")
    found: dict[Demonstration, list[Mapping[str, Any]]] = {}
    gen_length = config.region(task, model)
    longest = config.block_length or gen_length
    wanted: dict[str, Any] = {"model": model.name, "task": task.name, "gen_length": gen_length}
    for row in Journal(path).rows(COLUMNS):
        alike = (row["suppress_eos"], row["stop_at_eos"]) == (config.suppress_eos, config.stop_at_eos)
        if row["kind"] != "rule" or not alike:
            continue
        for key in SHARED:
            judged, own = (row.get("config") or {}).get(key), getattr(config, key)
            if key == "cache":
                judged, own = told_cache(judged), told_cache(own)
            if (judged or None) != (own or None):
                raise UnmaskError(
                    f"clone.sweep: {folder} was decoded with {key} = {judged}, and this run has {own}: "
                    "sweep as it decodes."
                )
        if kind not in (EVERY, row["policy"]["type"]):
            continue
        for key, value in wanted.items():
            # A mixture's rows name the task that the prompt is of, and the mixture in its config.
            of = (key == "task" and (row.get("config") or {}).get("task")) or row[key]
            if of != value:
                raise UnmaskError(f"clone.sweep: {folder} is of {key} {of!r}, not {value!r}: sweep that one.")
        if row["split"] not in ("train", "validation"):
            raise UnmaskError(
                f"clone.sweep: {folder} is of {row['split']} prompts, and test prompts may not choose what is trained: "
                "sweep --split train."
            )
        block, spec = parse_block_length(row["block_length"]), spelt(row["policy"])
        if spec is not None and (_divides(block, longest) if block_length is None else block == block_length):
            found.setdefault(Demonstration(spec, block), []).append(row)
    if not found:
        raise UnmaskError(
            f"clone.sweep: {folder} holds no cell of {rule} in blocks "
            + (f"that divide the policy's blocks of {longest}: " if block_length is None else f"of {block_length}: ")
            + "sweep those."
        )
    return {cell: _outcome(rows, gen_length) for cell, rows in found.items()}


def _divides(block: Block, longest: Block) -> bool:
    return block == longest or (isinstance(block, int) and isinstance(longest, int) and longest % block == 0)


def _outcome(rows: list[Mapping[str, Any]], gen_length: int) -> Outcome:
    return Outcome(
        [Example(row["prompt"], "", task=row["task"]) for row in rows],
        [row["text"] for row in rows],
        torch.tensor([row["correct"] for row in rows]),
        torch.tensor([row["nfe"] for row in rows]),
        gen_length,
        equivalents=torch.tensor([row["equivalents"] for row in rows])
        if all("equivalents" in row for row in rows)
        else None,
    )
