"""From folders of rows to `Findings`: what was compared, checked to be comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from unmask.decoding.trajectory import Trajectory
from unmask.errors import UnmaskError
from unmask.evaluation import pareto
from unmask.evaluation.cells import OWN, Cell
from unmask.evaluation.evaluate import TRAJECTORY, Row
from unmask.evaluation.findings import EVERY_RULE, Beside, CellFinding, Findings, RuleFinding, Shown
from unmask.evaluation.pareto import Difference, Outcomes, Point
from unmask.evaluation.store import read_rows
from unmask.evaluation.summaries import Summary, best, frontier, outcomes
from unmask.evaluation.tables import blocks, setting

Results = Sequence[tuple[Cell, Sequence[Row]]]
ALIKE = ("model", "task", "split", "gen_length", "stop_at_eos")  # what may not differ in one comparison
CONTESTANTS = 16  # whose trajectories are shown, at most


def read_results(folders: Iterable[str | Path]) -> list[tuple[Cell, list[Row]]]:
    """The cells of evaluations with their rows, by seed and prompt.

    Raises:
        UnmaskError: an evaluation that has not ended; a broken or a second row; evaluations of different dLLMs, tasks,
            lengths or prompts; a cell that lacks rows.
    """
    found: dict[str, list[Row]] = {}
    source: dict[str, Path] = {}
    first: tuple[Path, Row] | None = None
    for folder in map(Path, folders):
        path = folder / "rows.jsonl"
        if not path.exists():
            raise UnmaskError(f"{folder} has no rows.jsonl: end its evaluation with --resume first.")
        rows = read_rows(path)
        if not rows:
            raise UnmaskError(f"{path} holds no rows: evaluate anew.")
        first = first or (folder, rows[0])
        for row in rows:
            _compare(first, folder, row)
            key = Cell(**{field.name: row[field.name] for field in fields(Cell)}).key
            if source.setdefault(key, folder) != folder:
                raise UnmaskError(f"{source[key]} and {folder} both hold the cell {row['label']} {key}: give one.")
            found.setdefault(key, []).append(row)
    return _complete(found, source)


def _compare(first: tuple[Path, Row], folder: Path, row: Row) -> None:
    """Refuse what does not belong into one plot."""
    before, origin = first[1], first[0]
    for key in ALIKE:
        a, b = (task_of(one) if key == "task" else one[key] for one in (before, row))
        if a != b:
            raise UnmaskError(
                f"{origin} has {key} {a!r} and {folder} {b!r}: results that differ in it are not comparable; report "
                "them apart."
            )


def task_of(row: Row) -> str:
    """The task of its evaluation: of a mixture the whole, not the part that the row is of."""
    return str(row.get("config", {}).get("task") or row["task"])


def _complete(found: Mapping[str, list[Row]], source: Mapping[str, Path]) -> list[tuple[Cell, list[Row]]]:
    """Cells with rows of the same prompts under each of their seeds."""
    results = []
    prompts: dict[int, str] = {}
    for key, rows in found.items():
        rows.sort(key=lambda row: (row["seed"], row["index"]))
        for row in rows:
            if prompts.setdefault(row["index"], row["prompt"]) != row["prompt"]:
                raise UnmaskError(
                    f"{source[key]} has another prompt {row['index']} than the results before it: results on different "
                    "prompts are not comparable; evaluate them on the same."
                )
        results.append((Cell(**{field.name: rows[0][field.name] for field in fields(Cell)}), rows))
    for cell, rows in results:
        seeds = {row["seed"] for row in rows}
        if len(rows) != len(seeds) * len(prompts):
            raise UnmaskError(
                f"{source[cell.key]} has {len(rows)} rows of {cell.label} ({setting(cell)}) for {len(seeds)} seeds and "
                f"{len(prompts)} prompts: evaluate all cells on the same prompts, and --resume what was stopped."
            )
    if len(prompts) < 2:
        raise UnmaskError("A comparison on one prompt has no intervals: evaluate more prompts.")
    return results


def findings(results: Results, summaries: Sequence[Summary], title: str | None = None) -> Findings:
    """All that follows from the rows of a comparison, and from the summary of each of its cells."""
    row = results[0][1][0]
    gen_length = results[0][0].gen_length
    task = task_of(row)
    prompts, seeds = summaries[0].prompts, max(s.seeds for s in summaries)
    return Findings(
        title=title or f"{row['model']} on {task}",
        facts={
            "dLLM": str(row["model"]),
            "task": f"{task}, {prompts} prompts of {row['split']}",
            "region": f"{gen_length} positions",
            "NFE": "until EOS stands" if row["stop_at_eos"] else "to the last position, as in the paper",
            "seeds": f"{seeds} for policies that draw" if seeds > 1 else "1",
            "cells": f"{len(results)}, {sum(len(rows) for _, rows in results):,} rows",
            "versions": ", ".join(f"{name} {number}" for name, number in row["versions"].items()),
            "hardware": str(row["hardware"]),
        },
        gen_length=gen_length,
        cells=_cells(results, summaries),
        rules=_rules(results, summaries, gen_length),
        beside=beside(results, summaries),
        trajectories=_trajectories(results, summaries),
    )


def _tpf(rows: Sequence[Row]) -> float:
    return pareto.tpf(torch.tensor([row["tokens"] for row in rows]), torch.tensor([row["nfe"] for row in rows]))


def _cells(results: Results, summaries: Sequence[Summary]) -> list[CellFinding]:
    points = [Point(s.nfe.mean, s.accuracy.mean, place) for place, s in enumerate(summaries)]
    beaten = {point.cell: by.cell for point, by in pareto.dominated(points)}
    best_of_rule = {id(s) for rule in _by_rule(summaries).values() for s in frontier(rule)}
    return [
        CellFinding(
            rule=cell.label,
            setting=setting(cell),
            blocks=blocks(cell),
            accuracy=s.accuracy,
            nfe=s.nfe,
            tpf=_tpf(rows),
            prompts=s.prompts,
            seeds=s.seeds,
            config={
                "policy": dict(cell.policy),
                "block_length": cell.block_length,
                "gen_length": cell.gen_length,
                "suppress_eos": cell.suppress_eos,
            },
            learned=cell.learned,
            frontier=id(s) in best_of_rule,
            beaten_by=beaten.get(place),
        )
        for place, ((cell, rows), s) in enumerate(zip(results, summaries, strict=True))
    ]


def _by_rule(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    rules: dict[str, list[Summary]] = {}
    for summary in summaries:
        rules.setdefault(summary.cell.label, []).append(summary)
    return rules


def _rules(results: Results, summaries: Sequence[Summary], gen_length: int) -> list[RuleFinding]:
    top = max(s.accuracy.mean for s in summaries)
    found = []
    for rule, members in _by_rule(summaries).items():
        rows = {cell.key: rows for cell, rows in results if cell.label == rule}
        curve = [(_tpf(rows[s.cell.key]), s.accuracy.mean) for s in frontier(members)]
        curve = [point for point in curve if point[0] > 0]
        volume = pareto.hypervolume([Point(s.nfe.mean, s.accuracy.mean) for s in members], gen_length)
        area = pareto.aup(curve, best=top) if curve and top > 0 else 0.0
        found.append(RuleFinding(rule, len(members), summaries.index(best(members)), volume, area))
    return found


def beside(results: Results, summaries: Sequence[Summary]) -> list[Beside]:
    """Learned policies on their frontier beside every rule, all rules together, and their own controls."""
    scores = [outcomes(rows) for _, rows in results]
    places = {cell.key: place for place, (cell, _) in enumerate(results)}
    rules = dict.fromkeys(cell.label for cell, _ in results if cell.label not in OWN)
    groups = {rule: [scores[i] for i, (cell, _) in enumerate(results) if cell.label == rule] for rule in rules}
    if len(groups) > 1:
        best_of_each = [s for rule in rules for s in frontier([s for s in summaries if s.cell.label == rule])]
        groups = {EVERY_RULE: [scores[places[s.cell.key]] for s in best_of_each], **groups}
    found = []
    for policy in frontier([s for s in summaries if s.cell.label == "policy"]):
        place = places[policy.cell.key]
        for rule, cells in groups.items():
            # Between cells of two rules the line is not the best of both: all rules together are read by mixtures.
            found.append(Beside(place, rule, pareto.paired_bootstrap(scores[place], cells, hull=rule == EVERY_RULE)))
        for i, (cell, _) in enumerate(results):
            if _controls(cell, policy.cell):
                name = f"{cell.label}, at {summaries[i].nfe.mean:.1f} NFE"
                found.append(Beside(place, name, _paired(scores[place], scores[i]), control=True))
    return found


def _controls(control: Cell, policy: Cell) -> bool:
    """It is the policy's replay, or what its training began with, decoded in the same way."""
    if control.label not in ("replay", "cloned") or control.policy.get("of") != policy.policy["weights"]:
        return False
    own = control.label == "cloned" or control.policy["name"] == f"pace of {policy.policy['name']}"
    return own and (control.block_length, control.suppress_eos) == (policy.block_length, policy.suppress_eos)


def _paired(policy: Outcomes, control: Outcomes) -> Difference:
    """At whatever NFE each has."""
    gap = pareto.paired_difference(policy.correct, control.correct)
    return Difference(gap.mean, gap.low, gap.high, undefined=0.0, selection=0.0)


def _trajectories(results: Results, summaries: Sequence[Summary]) -> list[Shown]:
    """Of learned policies, their controls, and each rule's best cell: those that were kept."""
    own = [s for s in summaries if s.cell.label in OWN]
    rules = [best(members) for rule, members in _by_rule(summaries).items() if rule not in OWN]
    chosen = {s.cell.key for s in [*own, *rules][:CONTESTANTS]}
    return [
        Shown(
            name=f"{cell.label}, {setting(cell)}, {'full diffusion' if blocks(cell) == 'full' else blocks(cell)}",
            index=row["index"],
            correct=row["correct"],
            gold=row["gold"],
            trajectory=Trajectory(
                **{key: row[key] for key in ("prompt", "nfe", "text", "ended")},
                **{key: row["trajectory"][key] for key in TRAJECTORY},
            ),
        )
        for cell, rows in results
        if cell.key in chosen
        for row in rows
        if "trajectory" in row
    ]
