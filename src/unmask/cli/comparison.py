"""What `unmask eval` and `unmask sweep` share: settings, and a run that can be stopped, resumed and shared."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from accelerate import Accelerator
from annotated_types import Ge
from pydantic import Field

from unmask.cli.console import Stop, console, errors, ticking
from unmask.errors import UnmaskError
from unmask.evaluation.cells import Cell, Contestant, Region
from unmask.evaluation.comparison import Comparison
from unmask.evaluation.evaluate import Row
from unmask.evaluation.store import RowStore
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.rl.processes import Processes
from unmask.tasks.base import Split, Task
from unmask.tasks.config import TaskConfig


class ComparisonConfig(ModelConfig, TaskConfig):
    """A comparison of policies on one dLLM and one task."""

    output: Annotated[str, Field(description="Folder for rows.jsonl, plot.png and plot.svg.")] = "runs/eval"
    policies: Annotated[
        tuple[str, ...],
        Field(description="Policies: names, folders, or rules such as confidence_threshold:threshold=0.9."),
    ] = ()
    split: Annotated[
        Split | None, Field(description="Split of the prompts (default: test; all rows where a task has one file).")
    ] = None
    prompts: Annotated[int, Ge(1), Field(description="Prompts.")] = 500
    seeds: Annotated[int, Ge(1), Field(description="Seeds of policies that draw.")] = 3
    gen_length: Annotated[int | None, Ge(1), Field(description="Region length (default: the task's).")] = None
    block_lengths: Annotated[
        tuple[int | str, ...],
        Field(description="Block lengths, or adaptive:default=32,delimiters=[.]; default: full diffusion."),
    ] = ()
    stop_at_eos: Annotated[bool, Field(description="End a prompt at its EOS (off: NFE as in the paper).")] = False
    suppress_eos: Annotated[bool, Field(description="Confidence 0 for EOS behind masked text.")] = False
    batch_size: Annotated[
        int | None, Ge(1), Field(description="Live rows at most (default: 32, of a dLLM below 10M weights 256).")
    ] = None
    trajectories: Annotated[int, Ge(0), Field(description="Prompts whose decoding is kept step by step.")] = 4

    def regions(self, gen_length: int, block_lengths: Sequence[int | str]) -> list[Region]:
        """One for each block length.

        Raises:
            UnmaskError: one that does not divide the region.
        """
        return [Region(gen_length, length, self.suppress_eos, self.stop_at_eos) for length in block_lengths]

    @property
    def from_file(self) -> bool:
        """Its prompts come from the user's files."""
        return bool(self.task_path or self.task_paths)


# May differ where results are added to a folder: what is wanted, or what has no say in a row.
FREE = {
    "output",
    "policies",
    "seeds",
    "block_lengths",
    "stop_at_eos",
    "suppress_eos",
    "batch_size",
    "device_map",
    "trajectories",
}


@dataclass(frozen=True)
class Found:
    """What a run made: cells with their rows, where, and of what."""

    cells: list[tuple[Cell, list[Row]]]
    folder: Path
    title: str


def verifiable(config: ComparisonConfig) -> Task:
    """The task.

    Raises:
        UnmaskError: it cannot tell what is correct.
    """
    task = config.load_task()
    if not task.verifiable:
        raise UnmaskError(
            f"The task {task.name!r} has no verifier, and evaluation needs to know what is correct: pass --verifier."
        )
    return task


def plan(contestants: Sequence[Contestant], prompts: int, task: Task) -> None:
    """Say what would be done."""
    console.print(f"Would evaluate {len(contestants)} cells on {prompts} prompts of {task.name}:")
    for cell, _ in contestants:
        console.print(f"  {cell.label}  block_length {cell.block_length}  {dict(cell.policy)}", highlight=False)


def compare(
    config: ComparisonConfig,
    task: Task,
    gen_length: int,
    contestants: Sequence[Contestant],
    *,
    resume: bool,
    then: Callable[[Cell, list[Row]], Contestant | None] | None = None,
) -> Found | None:
    """Make the rows that are missing, in this process or in all that were launched.

    Args:
        then: makes of a finished cell one more to be run.

    Returns:
        None in all processes but the first.

    Raises:
        UnmaskError: the output folder holds results and `resume` is False, or results of something else.
        KeyboardInterrupt: stopped; rows so far are kept.
    """
    team = Processes(Accelerator() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None)
    if not team.main:
        console.quiet = errors.quiet = True
    split = config.split or (None if config.from_file else "test")
    examples = task.examples(split, config.prompts)
    if not examples:
        raise UnmaskError(f"The task {task.name!r} has no prompts in its {split or 'file'}: give another --split.")
    task.prepare()
    model = config.load(team.device if config.device_map is None else None)
    console.print(model.summary(), highlight=False, soft_wrap=True)
    folder = Path(config.output)
    wanted = set(ComparisonConfig.model_fields) - FREE
    shared = config.model_dump(mode="json", include=wanted) | {
        "model": model.name,
        "task": task.name,
        "gen_length": gen_length,
    }
    store = RowStore(folder, shared, resume=resume) if team.main else None
    team.wait()
    store = store or RowStore(folder, shared, resume=True, rank=team.rank)
    comparison = Comparison(
        model=model,
        task=task,
        examples=examples,
        seeds=config.seeds,
        batch_size=config.batch_size or (256 if weights_of(model) < 10_000_000 else 32),
        split=split or "all",
        trajectories=config.trajectories,
        context={"config": shared},
        share=(team.rank, team.size),
    )
    _run(comparison, contestants, store, "evaluating")
    team.wait()
    everyone = list(contestants)
    if then is not None:
        store.reload()
        more = [then(cell, comparison.rows(cell, store)) for cell, _ in contestants]
        extra = [one for one in more if one is not None]
        _run(comparison, extra, store, "controls")
        everyone += extra
        team.wait()
    if not team.main:
        return None
    store.finish([cell for cell, _ in everyone])
    shown = f"{len(examples)} {split} prompts" if split else f"{len(examples)} prompts"
    cells = [(cell, comparison.rows(cell, store)) for cell, _ in everyone]
    return Found(cells, folder, f"{model.name} on {task.name}, {shown}, {gen_length} positions")


def weights_of(model: MaskedDiffusionModel) -> float:
    """How many it has; many, if it does not tell."""
    return sum(p.numel() for p in model.network.parameters()) if model.network is not None else math.inf


def _run(comparison: Comparison, contestants: Sequence[Contestant], store: RowStore, label: str) -> None:
    """`Comparison.run` with progress by rows, and a clean stop."""
    todo = sum(comparison.missing(cell, store) for cell, _ in contestants)
    made = 0
    with ticking(label, todo) as tick, Stop() as stop:

        def tell(rows: int, name: str) -> None:
            nonlocal made
            made += rows
            tick(made, name)

        try:
            comparison.run(contestants, store, tell=tell, stop=stop)
        except KeyboardInterrupt:
            errors.print(
                f"Stopped; rows so far are in {store.path}: go on with --resume.", highlight=False, soft_wrap=True
            )
            raise
