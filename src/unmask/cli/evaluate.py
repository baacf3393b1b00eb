"""`unmask eval`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from unmask.cli.common import ConfigFile, DryRun, draw
from unmask.cli.comparison import ComparisonConfig, compare, plan, verifiable
from unmask.cli.console import console
from unmask.errors import UnmaskError
from unmask.evaluation.cells import Cell, tuned
from unmask.evaluation.evaluate import Row
from unmask.evaluation.summaries import summarise
from unmask.evaluation.tables import table
from unmask.settings import load_settings


class EvalConfig(ComparisonConfig):
    """Policies, and heuristics beside them."""

    heuristics: Annotated[bool, Field(description="Add every heuristic over its grid of settings.")] = False


def evaluate(
    *,
    settings: Annotated[EvalConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the output folder.", negative="")] = False,
    dry_run: DryRun = False,
) -> None:
    """Compare policies: accuracy against forward passes (NFE), with 95% intervals.

    Prints a table, writes one JSONL row a prompt and seed, and a plot as PNG and SVG.

    Example: unmask eval --policies house-base-full --heuristics --block-lengths 32 --block-lengths 8
    """
    resolved = load_settings(EvalConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    if not resolved.policies and not resolved.heuristics:
        raise UnmaskError("Nothing to evaluate: give --policies, or --heuristics for the whole grid.")
    task = verifiable(resolved)
    gen_length = resolved.gen_length or task.gen_length
    contestants = []
    for region in resolved.regions(gen_length, resolved.block_lengths or (gen_length,)):
        contestants += [region.contestant(name) for name in resolved.policies]
        contestants += tuned(region) if resolved.heuristics else []
    contestants = list({cell.key: (cell, policy) for cell, policy in contestants}.values())
    if dry_run:
        plan(contestants, resolved.prompts, task)
        return
    found = compare(resolved, task, gen_length, contestants, resume=resume)
    if found is not None:
        _show(found.cells, found.folder, found.title)


def _show(found: Sequence[tuple[Cell, Sequence[Row]]], folder: Path, title: str) -> None:
    """Table, a table for each task of a mixture, plot."""
    summaries = [summarise(cell, rows) for cell, rows in found]
    console.print(table(summaries, title))
    tasks = sorted({row["task"] for _, rows in found for row in rows})
    for name in tasks if len(tasks) > 1 else ():
        of_task = [summarise(cell, [row for row in rows if row["task"] == name]) for cell, rows in found]
        console.print(table(of_task, name))
    console.print(f"{draw(summaries, folder / 'plot', title)} Rows: {folder / 'rows.jsonl'}.", soft_wrap=True)
