"""Bounds of puzzles, for commands that compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask.cli.console import Stop, errors, ticking
from unmask.errors import UnmaskError
from unmask.evaluation.bounds import ROLL_OUTS, ROLLED, Bound, bounds_of, read_bounds, write_bounds
from unmask.models.base import MaskedDiffusionModel
from unmask.tasks.base import Example, Task
from unmask.tasks.puzzle import Puzzle


def check_bounded(asked: bool, task: Task) -> Puzzle | None:
    """The task, if its bounds are asked for.

    Raises:
        UnmaskError: they are, and it is no puzzle.
    """
    if not asked:
        return None
    if not isinstance(task, Puzzle):
        raise UnmaskError(f"The task {task.name!r} is no puzzle, and --bounds is for those: leave it out.")
    return task


def measure_bounds(
    folder: Path, model: MaskedDiffusionModel, task: Puzzle, examples: Sequence[Example], batch_size: int
) -> list[Bound]:
    """`bounds_of`, kept beside the rows, with progress and a clean stop.

    Raises:
        UnmaskError: bounds that are there are broken.
        KeyboardInterrupt: stopped.
    """
    if found := read_bounds(folder):
        return found
    with ticking("bounds", ROLL_OUTS) as tick, Stop() as stop:

        def on_progress(rolled: int) -> None:
            tick(rolled, f"roll-outs of {min(ROLLED, len(examples))} prompts")
            if stop():
                errors.print(f"Stopped; rows are in {folder}: go on with --resume.", highlight=False, soft_wrap=True)
                raise KeyboardInterrupt

        found = bounds_of(model, task, examples, batch_size, on_progress)
    write_bounds(folder, found)
    return found


def most_passes_of_bounds(prompts: int, gen_length: int) -> int:
    """Forward passes of `measure_bounds` at most."""
    return (prompts + ROLL_OUTS * min(ROLLED, prompts)) * gen_length
