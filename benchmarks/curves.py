"""Curves of policies over their speeds and the rules beside them: what the benchmarks compare, and how they say it."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.studies import SPEEDS, folder

from unmask.evaluation.differences import Difference, Outcomes, between_speeds, paired_curves
from unmask.evaluation.entries import Entry
from unmask.evaluation.gather import read_results
from unmask.evaluation.intervals import t95
from unmask.evaluation.rows import ResultRow
from unmask.evaluation.summaries import outcomes
from unmask.pareto import Point, curve_volume, frontier, near_frontier


def results(path: Path) -> list[tuple[Entry, Sequence[ResultRow]]]:
    """Entries with their rows."""
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `python benchmarks/tuning.py train` and `rules` of it first.")
    return list(read_results([path]))


def curves(args: argparse.Namespace, study: str, place: str) -> list[list[Outcomes]]:
    """What each seed's policy did at each speed, from slow to fast, on the held-out prompts of a place."""
    found = []
    for seed in args.seeds:
        rows = results(folder(args.out, study, seed) / "held-out" / place)
        own = [(entry.decode.speed or 0.0, outcomes(each)) for entry, each in rows if entry.kind == "policy"]
        own.sort(key=lambda one: one[0])
        found.append([one for _, one in own])
    return found


def near_the_best(found: Sequence[tuple[Entry, Sequence[ResultRow]]]) -> list[Entry]:
    """The cells that may be part of the best mixture of two on other prompts."""
    cells = [(entry, outcomes(rows)) for entry, rows in found]
    points = [Point(one.nfe.mean().item(), one.correct.mean().item(), entry) for entry, one in cells]
    return [one.cell for one in near_frontier(points)]


def best_of_each(found: Sequence[tuple[Entry, Sequence[ResultRow]]]) -> list[Entry]:
    """The cells on the frontier of their own rule."""
    points: dict[str, list[Point]] = {}
    for entry, rows in found:
        one = outcomes(rows)
        points.setdefault(entry.label, []).append(Point(one.nfe.mean().item(), one.correct.mean().item(), entry))
    return [point.cell for each in points.values() for point in frontier(each)]


def rivals(args: argparse.Namespace, place: str) -> list[Outcomes]:
    """Of `rival_rows`, what each prompt came to."""
    return [outcomes(rows) for _, rows in rival_rows(args, place)]


def rival_rows(args: argparse.Namespace, place: str) -> list[tuple[Entry, Sequence[ResultRow]]]:
    """The rules near the best on other prompts, on the held-out ones."""
    kept = {entry.key for entry in near_the_best(results(args.out / "rules" / f"{place}-tried"))}
    found = results(args.out / "rules" / place)
    return [(entry, rows) for entry, rows in found if entry.kind == "rule" and entry.key in kept]


def nfe_of(seeds: Sequence[Sequence[Outcomes]]) -> list[float]:
    """NFE of each speed, mean over seeds; at the fast end, where the slowest seed's curve begins.

    The same speed stands for another NFE in each seed, so that curves are compared at these.
    """
    points = [points_of(seed) for seed in seeds]
    begins = max(min(map(safely, seed)) for seed in seeds)
    return [max(sum(seed[i].nfe for seed in points) / len(points), begins) for i in range(SPEEDS)]


def safely(one: Outcomes) -> float:
    """An NFE that it does not exceed on other draws of the prompts, either."""
    nfe = one.nfe.double().mean(dim=0)
    return (nfe.mean() + 2 * nfe.std() / math.sqrt(len(nfe))).item() + 1e-6


def points_of(speeds: Sequence[Outcomes]) -> list[Point]:
    """Means over prompts."""
    return [Point(one.nfe.mean().item(), one.correct.mean().item()) for one in speeds]


def read_at(speeds: Sequence[Outcomes], nfe: float) -> float:
    """Accuracy of a curve at an NFE; below the fastest that of the fastest."""
    points = points_of(speeds)
    x, y = (torch.tensor([[getattr(one, of) for one in points]], dtype=torch.float64) for of in ("nfe", "accuracy"))
    return between_speeds(x, y, max(nfe, x.min().item())).item()


def against(
    seeds: Sequence[Sequence[Outcomes]], rivals: Sequence[Sequence[Outcomes]], nfe: float, *, hull: bool
) -> tuple[str, tuple[float, float, float]]:
    """What was reached at an NFE over seeds, and by how much each seed's curve is above its rival's there."""
    gaps = [paired_curves(seed, cells, nfe, hull=hull) for seed, cells in zip(seeds, rivals, strict=True)]
    at = [read_at(one, nfe) for one in seeds]
    if nfe < max(min(point.nfe for point in points_of(one)) for one in seeds):
        return f"not every seed reaches {nfe:.2f}", over_seeds(gaps)
    return f"{100 * sum(at) / len(at):.1f} @ {nfe:.2f}", over_seeds(gaps)


def point(one: Outcomes) -> str:
    """Accuracy @ NFE."""
    return f"{100 * one.correct.mean():.1f} @ {one.nfe.mean():.2f}"


def spread(values: Sequence[float], scale: float = 100) -> str:
    """Mean and 95% interval over seeds."""
    found = scale * torch.tensor(values, dtype=torch.float64)
    if len(found) == 1:
        return f"{found.item():.1f}"
    half = t95(len(found) - 1) * found.std().item() / math.sqrt(len(found))
    return f"{found.mean():.1f} ± {half:.1f} over seeds"


def lossless(speeds: Sequence[Outcomes]) -> float:
    """The least NFE of a speed that answers 99.5% of the prompts; infinite if none does."""
    return min((one.nfe.mean().item() for one in speeds if one.correct.mean() >= 0.995), default=math.inf)


def between(found: Sequence[tuple[Entry, Sequence[ResultRow]]]) -> Difference:
    """Accuracy of every second speed minus that of the mixture of its neighbours at its NFE, on calibration prompts."""
    each = [outcomes(rows) for _, rows in sorted(found, key=lambda one: one[0].decode.speed or 0.0)]
    gaps = []
    for slower, one, faster in zip(each[:-2:2], each[1:-1:2], each[2::2], strict=True):
        a, own, b = (part.nfe.mean().item() for part in (slower, one, faster))
        share = 0.5 if a == b else min(max((own - b) / (a - b), 0.0), 1.0)
        mixture = share * slower.correct.double() + (1 - share) * faster.correct.double()
        gaps.append((one.correct.double() - mixture).mean(dim=0))
    gap = torch.stack(gaps).mean(dim=0)
    half = t95(len(gap) - 1) * gap.std().item() / math.sqrt(len(gap))
    return Difference(gap.mean().item(), gap.mean().item() - half, gap.mean().item() + half, 0.0, 0.0)


def over_seeds(gaps: Sequence[Difference]) -> tuple[float, float, float]:
    """The mean over training seeds of differences, with a 95% interval over prompts and seeds.

    All seeds decode the same prompts: what prompts add is taken as the same for all, and does not shrink with seeds.
    """
    means = torch.tensor([gap.mean for gap in gaps], dtype=torch.float64)
    within = sum((gap.high - gap.low) / 2 for gap in gaps) / len(gaps)
    between = t95(len(gaps) - 1) * means.std().item() / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    mean, half = means.mean().item(), math.hypot(within, between)
    return mean, mean - half, mean + half


def area(points: Sequence[Outcomes], length: int) -> float:
    """`curve_volume` of what was reached."""
    return curve_volume(points_of(points), length)


def told(mean: float, low: float, high: float, none: str = "") -> str:
    """A difference in points with its interval and its verdict."""
    if math.isnan(mean):
        return none
    verdict = " (inconclusive)" if low <= 0 <= high else ""
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}){verdict}"
