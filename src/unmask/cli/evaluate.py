"""`unmask eval`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from unmask.cli.common import ConfigFile, DryRun, draw
from unmask.cli.comparison import ComparisonConfig, compare, plan, verifiable
from unmask.cli.console import console
from unmask.decoding.results import Cost
from unmask.errors import UnmaskError
from unmask.evaluation.comparison import ComparisonResult
from unmask.evaluation.entries import candidate, tuned
from unmask.evaluation.summaries import costed, summarise
from unmask.evaluation.tables import table
from unmask.settings import load_settings


class EvalConfig(ComparisonConfig):
    """Policies, and heuristics to compare them with."""

    heuristics: Annotated[bool, Field(description="Add every heuristic over its grid of settings.")] = False


def evaluate(
    *,
    settings: Annotated[EvalConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the output folder.", negative="")] = False,
    dry_run: DryRun = False,
) -> None:
    """Compare policies: accuracy against forward passes (NFE), with 95% intervals."""
    resolved = load_settings(EvalConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    if not resolved.policies and not resolved.heuristics:
        raise UnmaskError("Nothing to evaluate: give --policies, or --heuristics for the whole grid.")
    task = verifiable(resolved)
    gen_length = task.region(resolved.gen_length)
    found = []
    for decode in resolved.decodings(gen_length, resolved.block_lengths or (resolved.usual_blocks(gen_length),)):
        found += [candidate(name, decode) for name in resolved.policies]
        found += tuned(decode) if resolved.heuristics else []
    candidates = list({entry.key: (entry, policy) for entry, policy in resolved.at_speeds(found)}.values())
    if dry_run:
        plan(resolved, candidates, task)
        return
    result = compare(resolved, task, gen_length, candidates, resume=resume)
    if result is not None:
        _show(result, resolved.cost)


def _show(found: ComparisonResult, cost: Cost) -> None:
    """Table, a table for each task of a mixture, plot."""
    results = costed(found.results, cost)
    summaries = [summarise(entry, rows, cost) for entry, rows in results]
    console.print(table(summaries, found.title, found.bounds))
    tasks = sorted({row["task"] for _, rows in results for row in rows})
    for name in tasks if len(tasks) > 1 else ():
        of_task = [(entry, [row for row in rows if row["task"] == name]) for entry, rows in results]
        console.print(table([summarise(entry, rows, cost) for entry, rows in of_task], name))
    drawn = draw(summaries, found.folder / "plot", found.title)
    console.print(f"{drawn} Rows: {found.folder / 'rows.jsonl'}.", soft_wrap=True)
