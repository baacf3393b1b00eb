"""From folders of rows to `Findings`: what was compared, checked to be comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unmask import pareto
from unmask.decoding.options import SHARED, told_cache
from unmask.decoding.trajectory import Trajectory
from unmask.errors import UnmaskError
from unmask.evaluation.differences import Difference, Outcomes, paired_bootstrap, paired_difference
from unmask.evaluation.entries import Entry, entry_key
from unmask.evaluation.findings import EVERY_RULE, CellFinding, Findings, RuleFinding, ShownTrajectory, Versus
from unmask.evaluation.rows import TRAJECTORY, ResultRow, task_of
from unmask.evaluation.store import read_rows
from unmask.evaluation.summaries import Results, Summary, best, frontier, outcomes
from unmask.evaluation.tables import blocks, setting
from unmask.pareto import Point

ALIKE = ("model", "task", "split", "gen_length", "stop_at_eos")  # what may not differ in one comparison
SHOWN = 16  # entries whose trajectories are shown, at most


def read_results(folders: Iterable[str | Path]) -> list[tuple[Entry, list[ResultRow]]]:
    """The entries of evaluations with their rows, by seed and prompt.

    Raises:
        UnmaskError: an evaluation that has not ended; a broken or a second row; evaluations of different dLLMs, tasks,
            lengths or prompts; an entry that lacks rows.
    """
    found: dict[str, list[ResultRow]] = {}
    source: dict[str, Path] = {}
    first: tuple[Path, ResultRow] | None = None
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
            key = entry_key(row)
            if source.setdefault(key, folder) != folder:
                raise UnmaskError(f"{source[key]} and {folder} both hold the entry {row['label']} {key}: give one.")
            found.setdefault(key, []).append(row)
    return _complete(found, source)


def _told(row: ResultRow, key: str) -> Any:
    if key == "cache":
        return told_cache(row.get("config", {}).get(key))
    if key in SHARED:
        return row.get("config", {}).get(key) or None  # an older evaluation knew none of them
    return task_of(row) if key == "task" else row.get(key)


def _compare(first: tuple[Path, ResultRow], folder: Path, row: ResultRow) -> None:
    """Refuse what does not belong into one plot."""
    origin, before = first
    for key in (*ALIKE, *SHARED):
        a, b = (_told(one, key) for one in (before, row))
        if a != b:
            raise UnmaskError(
                f"{origin} has {key} {a!r} and {folder} {b!r}: results that differ in it are not comparable; report "
                "them apart."
            )


def _complete(found: Mapping[str, list[ResultRow]], source: Mapping[str, Path]) -> list[tuple[Entry, list[ResultRow]]]:
    """Entries with rows of the same prompts under each of their seeds."""
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
        results.append((Entry.of_row(rows[0]), rows))
    for entry, rows in results:
        seeds = {row["seed"] for row in rows}
        if len(rows) != len(seeds) * len(prompts):
            raise UnmaskError(
                f"{source[entry.key]} has {len(rows)} rows of {entry.label} ({setting(entry)}) for {len(seeds)} seeds "
                f"and {len(prompts)} prompts: evaluate all entries on the same prompts, and --resume what was stopped."
            )
    if len(prompts) < 2:
        raise UnmaskError("A comparison on one prompt has no intervals: evaluate more prompts.")
    return results


def findings(results: Results, summaries: Sequence[Summary], title: str | None = None) -> Findings:
    """All that follows from the rows of a comparison, and from the summary of each of its entries."""
    row = results[0][1][0]
    gen_length = results[0][0].decode.region()
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
        versus=versus(results, summaries),
        trajectories=_trajectories(results, summaries),
    )


def _tpf(rows: Sequence[ResultRow]) -> float:
    return pareto.tpf(torch.tensor([row["tokens"] for row in rows]), torch.tensor([row["nfe"] for row in rows]))


def _cells(results: Results, summaries: Sequence[Summary]) -> list[CellFinding]:
    points = [Point(s.nfe.mean, s.accuracy.mean, index) for index, s in enumerate(summaries)]
    beaten = {point.cell: by.cell for point, by in pareto.dominated(points)}
    best_of_rule = {id(s) for rule in _by_rule(summaries).values() for s in frontier(rule)}
    return [
        CellFinding(
            rule=entry.label,
            setting=setting(entry),
            blocks=blocks(entry),
            accuracy=s.accuracy,
            nfe=s.nfe,
            tpf=_tpf(rows),
            prompts=s.prompts,
            seeds=s.seeds,
            config={
                "policy": dict(entry.policy),
                **entry.decode.model_dump(mode="json", include={"block_length", "gen_length", "suppress_eos"}),
            },
            learned=entry.weights is not None,
            frontier=id(s) in best_of_rule,
            beaten_by=beaten.get(index),
        )
        for index, ((entry, rows), s) in enumerate(zip(results, summaries, strict=True))
    ]


def _by_rule(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    rules: dict[str, list[Summary]] = {}
    for summary in summaries:
        rules.setdefault(summary.entry.label, []).append(summary)
    return rules


def _rules(results: Results, summaries: Sequence[Summary], gen_length: int) -> list[RuleFinding]:
    top = max(s.accuracy.mean for s in summaries)
    found = []
    for rule, members in _by_rule(summaries).items():
        rows = {entry.key: rows for entry, rows in results if entry.label == rule}
        curve = [(_tpf(rows[s.entry.key]), s.accuracy.mean) for s in frontier(members)]
        curve = [point for point in curve if point[0] > 0]
        volume = pareto.hypervolume([Point(s.nfe.mean, s.accuracy.mean) for s in members], gen_length)
        area = pareto.aup(curve, best=top) if curve and top > 0 else 0.0
        found.append(RuleFinding(rule, len(members), summaries.index(best(members)), volume, area))
    return found


def versus(results: Results, summaries: Sequence[Summary]) -> list[Versus]:
    """Learned policies on their frontier against every rule, all rules together, and their own controls."""
    entries = [entry for entry, _ in results]
    scores = [outcomes(rows) for _, rows in results]
    index_of = {entry.key: index for index, entry in enumerate(entries)}
    by_rule = _by_rule([s for s in summaries if s.entry.kind == "rule"])
    groups = {rule: [scores[index_of[s.entry.key]] for s in members] for rule, members in by_rule.items()}
    if len(groups) > 1:
        best_of_each = [s for members in by_rule.values() for s in frontier(members)]
        groups = {EVERY_RULE: [scores[index_of[s.entry.key]] for s in best_of_each], **groups}
    found = []
    for policy in frontier([s for s in summaries if s.entry.kind == "policy"]):
        index = index_of[policy.entry.key]
        for rule, rivals in groups.items():
            # Between cells of two rules the line is not the best of both: all rules together are read by mixtures.
            found.append(Versus(index, rule, paired_bootstrap(scores[index], rivals, hull=rule == EVERY_RULE)))
        for i, entry in enumerate(entries):
            if entry.controls(policy.entry):
                name = f"{entry.label}, at {summaries[i].nfe.mean:.1f} NFE"
                found.append(Versus(index, name, _paired(scores[index], scores[i]), control=True))
    return found


def _paired(policy: Outcomes, control: Outcomes) -> Difference:
    """At whatever NFE each has."""
    gap = paired_difference(policy.correct, control.correct)
    return Difference(gap.mean, gap.low, gap.high, undefined=0.0, selection=0.0)


def _trajectories(results: Results, summaries: Sequence[Summary]) -> list[ShownTrajectory]:
    """Of learned policies, their controls, and each rule's best entry: those that were kept."""
    own = [s for s in summaries if s.entry.kind != "rule"]
    rules = [best(members) for members in _by_rule([s for s in summaries if s.entry.kind == "rule"]).values()]
    chosen = {s.entry.key for s in [*own, *rules][:SHOWN]}
    return [
        ShownTrajectory(
            name=f"{entry.label}, {setting(entry)}, {'full diffusion' if blocks(entry) == 'full' else blocks(entry)}",
            index=row["index"],
            correct=row["correct"],
            gold=row["gold"],
            trajectory=Trajectory(
                prompt=row["prompt"],
                nfe=len(row["reveals"]),
                text=row["text"],
                ended=row["ended"],
                **{key: row["trajectory"][key] for key in TRAJECTORY},
            ),
        )
        for entry, rows in results
        if entry.key in chosen
        for row in rows
        if "trajectory" in row
    ]
