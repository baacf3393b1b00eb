"""`unmask report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import TypeAdapter, ValidationError

from unmask.cli.common import draw
from unmask.cli.console import console
from unmask.decoding.results import Cost
from unmask.errors import UnmaskError
from unmask.evaluation.bounds import read_bounds
from unmask.evaluation.calibrate import finding
from unmask.evaluation.findings import Findings, TrainingCurve, TransferResult
from unmask.evaluation.gather import findings, read_results
from unmask.evaluation.summaries import costed, summarise
from unmask.files import check_page, write_text
from unmask.policies.calibration import read_calibrations
from unmask.rl.run import MEASURED, read_metrics


def report(
    *runs: str,
    output: Annotated[str, Parameter(name=["--output", "-o"], help="The page.")] = "report.html",
    title: Annotated[str | None, Parameter(help="Of the page (default: dLLM on task).")] = None,
    cost: Annotated[
        Cost, Parameter(help="What NFE counts: forward passes, or the positions they compute (with a cache).")
    ] = "passes",
    figures: Annotated[bool, Parameter(help="Also a PNG and an SVG next to it, for papers.", negative="")] = False,
) -> None:
    """One page of all results: plots, tables, training curves, transfer, and decoding step by step.

    Args:
        runs: Folders: evaluations (eval, sweep, quickstart), training runs, transfers.
    """
    if not runs:
        raise UnmaskError("Nothing to report: give folders of unmask eval, sweep, train or transfer.")
    check_page(output, "--output")
    from unmask.evaluation.page import render  # what it needs is an extra

    kinds = {folder: kind_of(folder) for folder in map(Path, dict.fromkeys(runs))}
    evaluations = [folder for folder, kind in kinds.items() if kind == "results"]
    results = costed(read_results(evaluations), cost) if evaluations else []
    training = [folder for folder, kind in kinds.items() if kind == "training"]
    transfers = [one for folder, kind in kinds.items() if kind == "transfer" for one in read_transfer(folder)]
    summaries = [summarise(entry, rows, cost) for entry, rows in results]
    shown = findings(results, summaries, title) if results else Findings(title or "unmask", {}, 0, (), ())
    if cost == "positions":
        shown = replace(shown, title=f"{shown.title}; NFE counts positions, as passes over the whole row")
    bounds = {one.name: one for folder in evaluations for one in read_bounds(folder)}
    shown = replace(
        shown,
        bounds=list(bounds.values()),
        training=[curve(name, folder) for name, folder in zip(short_names(training), training, strict=True)],
        calibrations=[
            finding(name, table)
            for name, folder in zip(short_names(training), training, strict=True)
            for table in read_calibrations(folder / "best")
        ],
        transfer=transfers,
    )
    path = Path(output)
    write_text(path, render(shown))
    parts = [
        f"{len(results)} entries" if results else "",
        f"{len(training)} training runs" if training else "",
        f"{len({one.target for one in transfers})} transfers" if transfers else "",
    ]
    console.print(
        f"{path}: {', '.join(part for part in parts if part)} ({path.stat().st_size / 2**20:.1f} MiB).",
        highlight=False,
        soft_wrap=True,
    )
    if figures and results:
        console.print(draw(summaries, path, shown.title), soft_wrap=True)


def kind_of(folder: Path) -> str:
    """What a folder holds: results, a training run, or a transfer.

    Raises:
        UnmaskError: none of them, or results that are still being made.
    """
    if (folder / "transfer.json").exists():
        return "transfer"
    if list(folder.glob("rows.*.jsonl")):
        raise UnmaskError(f"{folder} is an evaluation that has not ended: go on with --resume, then report it.")
    if (folder / "rows.jsonl").exists():
        return "results"
    if (folder / "metrics.jsonl").exists():
        return "training"
    what = "holds no results" if folder.is_dir() else "is no folder"
    raise UnmaskError(f"{folder} {what}: give folders of unmask eval, sweep, train or transfer.")


def curve(name: str, folder: Path) -> TrainingCurve:
    """What a training run logged, iteration by iteration."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        if line["stage"] not in ("grpo", "validation"):
            continue
        for key in MEASURED:
            if key in line:
                label = f"validation {key}" if line["stage"] == "validation" else key
                steps, values = series.setdefault(label, ([], []))
                steps.append(line["iteration"])
                values.append(float(line[key]))
    return TrainingCurve(name, series)


def short_names(folders: Sequence[Path]) -> list[str]:
    """What tells folders apart: their paths without the parts that all share."""
    parts = [folder.resolve().parts for folder in folders]
    shared = 0
    while len(parts) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ["/".join(p[shared:]) if len(parts) > 1 else p[-1] for p in parts]


def read_transfer(folder: Path) -> list[TransferResult]:
    """What `unmask transfer` wrote.

    Raises:
        UnmaskError: it is broken.
    """
    try:
        values: dict[str, Any] = json.loads((folder / "transfer.json").read_text(encoding="utf-8"))
        return TypeAdapter(list[TransferResult]).validate_python(values["transfers"])
    except (ValueError, KeyError, ValidationError):
        raise UnmaskError(f"{folder / 'transfer.json'} is broken: run unmask transfer again.") from None
