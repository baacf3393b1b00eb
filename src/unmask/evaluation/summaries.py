"""What entries reached: means with intervals, the best of them, their frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from unmask import pareto
from unmask.decoding.results import Cost
from unmask.errors import UnmaskError
from unmask.evaluation.differences import Outcomes
from unmask.evaluation.entries import Entry
from unmask.evaluation.intervals import Interval, bootstrap
from unmask.evaluation.rows import ResultRow
from unmask.pareto import Point

Results = Sequence[tuple[Entry, Sequence[ResultRow]]]


@dataclass(frozen=True)
class Summary:
    """What an entry reached.

    Attributes:
        accuracy: share of prompts answered correctly, in [0, 1].
        nfe: forward passes per prompt, or what counts for them (`costed`).
        cost: what that is.
        positions: computed per prompt; None of older rows.
        partial: some passes did not compute all of their prompts.
        correlation: of what was revealed together, nats per right answer; None where a row does not tell.
    """

    entry: Entry
    accuracy: Interval
    nfe: Interval
    prompts: int
    seeds: int
    cost: Cost = "passes"
    positions: float | None = None
    partial: bool = False
    correlation: float | None = None


def summarise(entry: Entry, rows: Sequence[Mapping[str, Any]], cost: Cost = "passes") -> Summary:
    """Means over prompts and seeds, intervals as in `unmask.evaluation.intervals.bootstrap`.

    Args:
        cost: what the rows' NFE counts.
    """
    found = outcomes(rows)
    counted = all("positions" in row for row in rows)
    positions = sum(row["positions"] for row in rows) / len(rows) if counted else None
    seeds, prompts = found.correct.shape
    partial = any(row.get("full_passes", len(row.get("reveals", ()))) < len(row.get("reveals", ())) for row in rows)
    told = all("correlation" in row for row in rows)
    costs = [row["correlation"] for row in rows if row.get("correlation") is not None] if told else []
    known = sum(costs) / len(costs) if costs else None
    return Summary(entry, *summary(found), prompts, seeds, cost, positions, partial, known)


def costed(results: Results, cost: Cost) -> Results:
    """Rows whose NFE counts positions: passes over the whole row that compute as many.

    Raises:
        UnmaskError: older rows, which do not tell.
    """
    if cost == "passes":
        return results
    if not all("equivalents" in row for _, rows in results for row in rows):
        raise UnmaskError("These rows are older and do not tell positions: evaluate again, or let cost be passes.")
    return [(entry, [cast(ResultRow, {**row, "nfe": row["equivalents"]}) for row in rows]) for entry, rows in results]


def summary(found: Outcomes) -> tuple[Interval, Interval]:
    """Accuracy and NFE. One prompt tells nothing of others: its intervals are NaN."""
    if found.correct.shape[1] == 1:
        accuracy, nfe = (Interval(values.mean().item(), math.nan, math.nan) for values in (found.correct, found.nfe))
        return accuracy, nfe
    accuracy, prompts = bootstrap(found.correct), found.correct.shape[1]
    low, high = max(accuracy.low, 0.0), min(accuracy.high, 1.0)
    # Where all prompts agree, resampling them says nothing: the exact bounds (Clopper and Pearson) of so many prompts.
    if accuracy.mean == 1:
        low = 0.025 ** (1 / prompts)
    elif accuracy.mean == 0:
        high = 1 - 0.025 ** (1 / prompts)
    return Interval(accuracy.mean, low, high), bootstrap(found.nfe)


def outcomes(rows: Sequence[Mapping[str, Any]]) -> Outcomes:
    """An entry's rows as seeds by prompts."""
    seeds = sorted({row["seed"] for row in rows})

    def values(key: str) -> Tensor:
        return torch.tensor([[float(row[key]) for row in rows if row["seed"] == seed] for seed in seeds])

    return Outcomes(values("correct"), values("nfe"))


def best(summaries: Sequence[Summary]) -> Summary:
    """The most accurate entry; the faster one on a tie."""
    return max(summaries, key=lambda s: (s.accuracy.mean, -s.nfe.mean))


def frontier(summaries: Sequence[Summary]) -> list[Summary]:
    """Entries that no other beats in both accuracy and NFE, by rising NFE."""
    return [point.cell for point in pareto.frontier([Point(s.nfe.mean, s.accuracy.mean, s) for s in summaries])]
