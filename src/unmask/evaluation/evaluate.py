"""One policy on one task: rows that carry their whole configuration, and a summary with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.decoding.blocks import parse_block_length
from unmask.decoding.decode import generate
from unmask.decoding.results import Generation
from unmask.decoding.source import encode_example
from unmask.hub import write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.tasks.base import Example, Task

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class Cell:
    """One way to decode: what a row of the comparison stands for.

    Attributes:
        label: family for tables and plots, such as ``threshold``.
        policy: the policy's config, with its type.
        block_length: positions, or adaptive blocks as `unmask.decoding.blocks.parse_block_length` reads them.
        draws: True if the policy draws, so that seeds differ.
        stop_at_eos: end a row at its EOS; off, NFE is counted as in the paper.
    """

    label: str
    policy: Mapping[str, Any]
    block_length: int | str
    gen_length: int
    suppress_eos: bool = False
    draws: bool = False
    stop_at_eos: bool = False


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """What a cell reached.

    Attributes:
        accuracy: share of prompts answered correctly, in [0, 1].
        nfe: forward passes a prompt.
    """

    cell: Cell
    accuracy: Interval
    nfe: Interval
    prompts: int
    seeds: int


def evaluate(
    model: MaskedDiffusionModel,
    policy: Policy,
    task: Task,
    examples: Sequence[Example],
    cell: Cell,
    *,
    seeds: Sequence[int] = (0,),
    batch_size: int = 256,
    split: str = "test",
    on_decoded: Callable[[Generation], None] | None = None,
) -> list[dict[str, Any]]:
    """Decode every example under every seed.

    Args:
        on_decoded: called with each seed's generation (its seconds, for one).

    Returns:
        One row a prompt and seed: prompt, text, correct, nfe, complete, and the configuration that made it.
    """
    context = {
        "model": model.name,
        "task": task.name,
        "split": split,
        **asdict(cell),
        "versions": {name: version(name) for name in ("unmask", "torch", "transformers")},
    }
    prompts = [encode_example(model, example) for example in examples]
    rows = []
    for seed in seeds:
        out = generate(
            model,
            policy,
            prompts,
            gen_length=cell.gen_length,
            block_length=parse_block_length(cell.block_length),
            batch_size=batch_size,
            seed=seed,
            stop_at_eos=cell.stop_at_eos,
            suppress_eos=cell.suppress_eos,
        )
        right = task.verify_all(examples, out.texts)
        for i, example in enumerate(examples):
            complete = bool(out.complete[i])
            rows.append(
                {
                    "prompt": example.prompt,
                    "text": out.texts[i],
                    "correct": complete and right[i],
                    "nfe": int(out.nfe[i]),
                    "complete": complete,
                    "ended": out.ended[i],
                    "seed": seed,
                    **context,
                    "task": example.task or task.name,
                }
            )
        if on_decoded is not None:
            on_decoded(out)
    return rows


def summarise(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Means over prompts and seeds, intervals by bootstrap over prompts (seeds of a prompt stay together)."""
    seeds = sorted({row["seed"] for row in rows})
    correct = torch.tensor([[float(row["correct"]) for row in rows if row["seed"] == seed] for seed in seeds])
    nfe = torch.tensor([[float(row["nfe"]) for row in rows if row["seed"] == seed] for seed in seeds])
    return Summary(
        cell, bootstrap(correct.mean(dim=0)), bootstrap(nfe.mean(dim=0)), prompts=correct.shape[1], seeds=len(seeds)
    )


def bootstrap(values: Tensor, seed: int = 0) -> Interval:
    """The mean of one number a prompt, with its 95% percentile interval over resampled prompts."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(values), (BOOTSTRAP_DRAWS, len(values)), generator=generator)
    means = values[draws].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Interval(values.mean().item(), low, high)


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSONL, whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
