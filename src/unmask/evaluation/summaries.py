"""What entries reached: means with intervals, the best of them, their frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask import pareto
from unmask.evaluation.differences import Outcomes
from unmask.evaluation.entries import Entry
from unmask.evaluation.intervals import Interval, bootstrap
from unmask.pareto import Point


@dataclass(frozen=True)
class Summary:
    """What an entry reached.

    Attributes:
        accuracy: share of prompts answered correctly, in [0, 1].
        nfe: forward passes per prompt.
    """

    entry: Entry
    accuracy: Interval
    nfe: Interval
    prompts: int
    seeds: int


def summarise(entry: Entry, rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Means over prompts and seeds, intervals as in `unmask.evaluation.intervals.bootstrap`."""
    found = outcomes(rows)
    return Summary(entry, *summary(found), prompts=found.correct.shape[1], seeds=found.correct.shape[0])


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
