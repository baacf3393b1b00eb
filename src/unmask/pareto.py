"""Accuracy against NFE as one curve: frontiers, areas, and tokens per pass. Pure functions."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float, Real
from torch import Tensor

from unmask.errors import UnmaskError

PAIRS = 4_000_000  # of cells, over all draws, that are held at once
Mean = Literal["ratio_of_sums", "mean_of_ratios"]


@dataclass(frozen=True)
class Point:
    """What one way to decode reached.

    Attributes:
        nfe: forward passes per prompt, above 0.
        accuracy: share of prompts answered correctly, in [0, 1].
        cell: whatever made it, carried along.

    Raises:
        UnmaskError: a number out of its range.
    """

    nfe: float
    accuracy: float
    cell: Any = None

    def __post_init__(self) -> None:
        if not 0 < self.nfe < math.inf:
            raise UnmaskError(f"A point's NFE is {self.nfe}: give forward passes per prompt, above 0.")
        if not 0 <= self.accuracy <= 1:
            raise UnmaskError(f"A point's accuracy is {self.accuracy}: give a share between 0 and 1, not percent.")


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other dominates (NFE no higher, accuracy no lower, one of them strictly), by rising NFE.

    Accuracy rises strictly along it. Of equal points the first is kept.
    """
    return [points[i] for i in _undominated(points)]


def dominated(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """The points that `frontier` leaves out, as they come, each with one of its points that dominates or equals it."""
    kept = _undominated(points)
    speeds = [points[i].nfe for i in kept]
    # The slowest of the frontier's points that are as fast is the most accurate of them.
    return [(p, points[kept[bisect_right(speeds, p.nfe) - 1]]) for i, p in enumerate(points) if i not in kept]


def near_frontier(points: Sequence[Point], margin: float = 0.06, slowest: float = 1.5) -> list[Point]:
    """The points that may be part of the best mixture of two on other prompts than these.

    Args:
        margin: accuracy below the best mixture at the same NFE, at most.
        slowest: times the NFE of the fastest of the most accurate points, at most: what is slower still gains nothing.
    """
    most = max((one.accuracy for one in points), default=0.0)
    limit = slowest * min((one.nfe for one in points if one.accuracy == most), default=0.0)
    kept = [one for one in points if one.nfe <= limit]
    return [one for one in kept if one.accuracy >= accuracy_at(points, one.nfe, hull=True) - margin]


def accuracy_at(points: Sequence[Point], nfe: float, hull: bool = False) -> float:
    """Accuracy that the points reach at an NFE.

    Args:
        hull: False: on the line between the frontier's two neighbours, which is how a plot is read; a random mixture of
            two neighbouring cells reaches it on average. True: the best mixture of any two cells, the upper concave
            hull; never lower, and the harder rival.

    Returns:
        NaN below the fastest point; above the slowest of the frontier, its accuracy.
    """
    if not points:
        return math.nan
    speeds = torch.tensor([[p.nfe for p in points]], dtype=torch.float64)
    accuracy = torch.tensor([[p.accuracy for p in points]], dtype=torch.float64)
    return accuracies_at(speeds, accuracy, torch.tensor([nfe], dtype=torch.float64), hull).item()


def hypervolume(points: Sequence[Point], reference_nfe: float) -> float:
    """Area under the frontier as a staircase, from NFE 0 to the reference and from accuracy 0, as a share of the whole.

    With the frontier's points (n_1, a_1), ..., (n_k, a_k) that have n_i <= R, and n_(k+1) = R::

        sum_i a_i (n_(i+1) - n_i) / R

    so the area left of the fastest point is lost, and slower points are ignored. 1 would be all right in no time.

    Raises:
        UnmaskError: the reference is not above 0.
    """
    if not 0 < reference_nfe < math.inf:
        raise UnmaskError(f"The reference NFE is {reference_nfe}: give one above 0, such as the gen_length.")
    kept = [p for p in frontier(points) if p.nfe <= reference_nfe]
    ends = [p.nfe for p in kept[1:]] + [reference_nfe]
    return sum(p.accuracy * (end - p.nfe) for p, end in zip(kept, ends, strict=False)) / reference_nfe


def curve_volume(points: Sequence[Point], reference_nfe: float) -> float:
    """Area under a policy's curve over log NFE, from NFE 1 to the reference, as a share of all right at NFE 1.

    Between two points of the frontier the accuracy is on the line in log NFE, as a policy with a speed has all speeds
    between them; a staircase would judge by where the points happen to lie. Halving the passes is worth the same
    everywhere; on a plain axis, the slow end of a long region decides nearly alone. The area left of the fastest point
    is lost; right of the slowest, its accuracy stays.

    Raises:
        UnmaskError: the reference is not above 1.
    """
    if not 1 < reference_nfe < math.inf:
        raise UnmaskError(f"The reference NFE is {reference_nfe}: give one above 1, such as the gen_length.")
    kept = [p for p in frontier(points) if p.nfe <= reference_nfe]
    if not kept:
        return 0.0
    at = [(math.log(max(p.nfe, 1.0)), p.accuracy) for p in kept] + [(math.log(reference_nfe), kept[-1].accuracy)]
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(at)) / math.log(reference_nfe)


def tpf(tokens: Real[Tensor, "*p"], nfe: Real[Tensor, "*p"], mean: Mean = "ratio_of_sums") -> float:
    """Tokens per forward pass over prompts.

    Args:
        tokens: generated by each prompt; whether those after EOS count is the caller's choice, and worth telling.
        nfe: forward passes of each prompt.
        mean: ``ratio_of_sums``: all tokens by all passes, as d3LLM's evaluation prints it; what a server sees, in
            which slow prompts weigh more. ``mean_of_ratios``: what a prompt sees on average; at equal tokens a prompt
            it is never the lower one (Jensen).

    Raises:
        UnmaskError: no prompt, or one without a forward pass.
    """
    if not nfe.numel() or bool((nfe <= 0).any()):
        raise UnmaskError("Tokens per forward need a forward pass in every prompt: drop the prompts that have none.")
    tokens, nfe = tokens.double(), nfe.double()
    return (tokens.sum() / nfe.sum() if mean == "ratio_of_sums" else (tokens / nfe).mean()).item()


def aup(
    curve: Sequence[tuple[float, float]], best: float | None = None, alpha: float = 3.0, drop: float = 5.0
) -> float:
    """Accuracy under parallelism (d3LLM, arXiv 2601.07568; hao-ai-lab/d3LLM, AUP_leaderboard/aup_utils.py).

    With tokens per forward x_1 < ... < x_m and accuracies y in percent, of the points with y_i >= y_1 - `drop`::

        AUP = x_1 y_1 + 1/2 sum_(i>=2) (x_i - x_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1)))
        W(y) = min(exp(-alpha (1 - y / y_max)), 1)

    The first term is not weighted. Decided here: of points with equal x the most accurate counts (the definition has
    none such); a last point that falls too far is dropped like any other (the definition; the authors' code stops);
    exactly `drop` below is kept, whatever the rounding; points that others dominate stay, as with the authors.

    Args:
        curve: (tokens per forward, accuracy in [0, 1]) of one method's settings.
        best: y_max in [0, 1]: the best accuracy on the task *over all methods compared*, without which scores of two
            methods do not compare; the curve's own best if not given.
        alpha: what losing accuracy costs.
        drop: in percent points.

    Returns:
        Percent times tokens per forward.

    Raises:
        UnmaskError: no points, or a number out of its range.
    """
    if not curve or any(not 0 < x < math.inf or not 0 <= y <= 1 for x, y in curve):
        raise UnmaskError(
            "AUP needs points: give tokens per forward above 0 and accuracy between 0 and 1 of one setting at least."
        )
    if best is not None and not 0 < best <= 1:
        raise UnmaskError(f"The best accuracy on the task is {best}: give a share above 0 and at most 1, not percent.")
    highest: dict[float, float] = {}
    for x, y in sorted(curve):
        highest[x] = 100 * y
    top = 100 * best if best is not None else max(highest.values())
    if top == 0:
        return 0.0
    first = next(iter(highest.items()))
    kept = [(x, y, y * min(math.exp(-alpha * (1 - y / top)), 1.0)) for x, y in highest.items()]
    kept = [point for point in kept if point[1] >= first[1] - drop - 1e-9]
    return first[0] * first[1] + sum((x - x0) * (w + w0) / 2 for (x0, _, w0), (x, _, w) in pairwise(kept))


def _undominated(points: Sequence[Point]) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i].nfe, -points[i].accuracy)):
        if not kept or points[i].accuracy > points[kept[-1]].accuracy:
            kept.append(i)
    return kept


def accuracies_at(
    speeds: Float[Tensor, "d c"], accuracy: Float[Tensor, "d c"], nfe: Float[Tensor, " d"], hull: bool
) -> Float[Tensor, " d"]:
    """`accuracy_at` of d sets of c points; without sorting, since the two neighbours are maxima and minima."""
    if hull and len(speeds) > 1 and speeds.numel() * speeds.shape[1] > PAIRS:
        half = len(speeds) // 2
        parts = ((speeds[:half], accuracy[:half], nfe[:half]), (speeds[half:], accuracy[half:], nfe[half:]))
        return torch.cat([accuracies_at(*part, hull) for part in parts])
    x = nfe[:, None]
    fast = speeds <= x
    below = accuracy.masked_fill(~fast, -math.inf).amax(dim=1, keepdim=True)  # of the neighbour at or left of x
    if hull:
        share = (x - speeds)[:, :, None] / (speeds[:, None, :] - speeds[:, :, None])
        mixed = accuracy[:, :, None] + share * (accuracy[:, None, :] - accuracy[:, :, None])
        mixed = mixed.masked_fill(~(fast[:, :, None] & ~fast[:, None, :]), -math.inf)
        found = torch.maximum(below[:, 0], mixed.amax(dim=(1, 2)))
    else:
        left = speeds.masked_fill(~(fast & (accuracy == below)), math.inf).amin(dim=1, keepdim=True)
        better = ~fast & (accuracy > below)
        right = speeds.masked_fill(~better, math.inf).amin(dim=1, keepdim=True)
        above = accuracy.masked_fill(~(better & (speeds == right)), -math.inf).amax(dim=1, keepdim=True)
        line = below + (above - below) * (x - left) / (right - left)
        found = torch.where(better.any(dim=1, keepdim=True), line, below)[:, 0]
    return torch.where(fast.any(dim=1), found, math.nan)
