"""A policy against a rule at equal NFE, and against another policy, with intervals. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.evaluation.intervals import (
    BOOTSTRAP_DRAWS,
    Interval,
    between_seeds,
    bootstrap,
    check,
    quantiles,
    resample,
)
from unmask.pareto import accuracies_at


@dataclass(frozen=True)
class Outcomes:
    """What a policy did on every prompt under every seed.

    Attributes:
        correct: 1 where the answer is right, else 0 (or any score).
        nfe: forward passes.

    Raises:
        UnmaskError: the two differ in shape.
    """

    correct: Float[Tensor, "s p"]
    nfe: Float[Tensor, "s p"]

    def __post_init__(self) -> None:
        if self.correct.shape != self.nfe.shape:
            shapes = f"{tuple(self.correct.shape)} and NFE {tuple(self.nfe.shape)}"
            raise UnmaskError(f"Outcomes of shapes {shapes}: give both as seeds by prompts.")


@dataclass(frozen=True)
class Difference:
    """Policy minus rule in accuracy, at the policy's NFE.

    Attributes:
        mean: on the sample itself; NaN if the rule has no cell as fast.
        low: lower end of the 95% interval, symmetric around `mean`.
        high: its upper end.
        undefined: share of the draws in which the rule has no cell as fast; the interval speaks of the others.
        selection: how far `mean` is estimated to be off because the rule's cells were selected on these same prompts
            (below 0: against the policy). `mean` is left as it is, the interval allows for it.
    """

    mean: float
    low: float
    high: float
    undefined: float
    selection: float


def paired_bootstrap(
    policy: Outcomes, cells: Sequence[Outcomes], *, hull: bool = False, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> Difference:
    """Accuracy of a policy minus that of a rule at equal NFE, paired over prompts.

    In each draw the same prompts are resampled for all; means over prompts and seeds give the policy one point and the
    rule one a cell; the rule's frontier is found anew and read at the policy's NFE as `accuracy_at` reads it.

    Found anew, because which cells make the frontier is an accident of the prompts as well. Of many cells of about
    equal worth the luckiest is taken, which flatters the rule, and each draw flatters it again: percentiles count that
    twice. So the percentile interval's longer side, from the sample's difference, is taken on both: what a draw errs
    by stands for what the sample errs by, selection included, as in the reflected interval but not trusting its sign.
    Among many equal cells it still errs a little for the rule; to be free of that, choose the rule's cells on other
    prompts and give those alone. How often it covers the truth is tested (tests/evaluation/test_pareto.py).

    Seeds of the policy as in `unmask.evaluation.intervals.bootstrap`, by its accuracy less the frontier's slope times
    its NFE. Seeds of a rule are taken to differ by the noise of drawing alone: rules are not trained.

    Args:
        policy: all on the same prompts in the same order.
        cells: of the rule, or of all rules together; seeds may be fewer or more than the policy's.
        hull: as in `accuracy_at`.

    Raises:
        UnmaskError: no cells, cells on other numbers of prompts, or fewer than two prompts.
    """
    check(*policy.correct.shape)
    own, rule = _means([policy]), _means(cells, policy.correct.shape[1])

    def gap(counts: Float[Tensor, "d p"], further: float = 0.0) -> Float[Tensor, " d"]:
        (speed, accuracy), rival = _over(counts, own), _over(counts, rule)
        return accuracy[:, 0] - accuracies_at(*rival, speed[:, 0] + further, hull)

    found = _bootstrapped(gap, policy.correct.shape[1], draws, seed)
    if math.isnan(found.mean):
        return found
    whole = torch.ones(1, policy.correct.shape[1], dtype=torch.float64)
    slope = (found.mean - gap(whole, further=1e-4).item()) / 1e-4
    apart = between_seeds(policy.correct.double() - slope * policy.nfe.double())
    half = math.hypot(found.high - found.mean, apart)
    return replace(found, low=found.mean - half, high=found.mean + half)


def paired_curves(
    speeds: Sequence[Outcomes],
    cells: Sequence[Outcomes],
    nfe: float,
    *,
    hull: bool = False,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> Difference:
    """Accuracy of one policy with a speed minus that of a rule, or of another such policy, at a given NFE.

    As `paired_bootstrap`, but both are read off their curves: the policy on the line between the two speeds whose NFE
    are next to it, which prompts that take turns at the two reach. No speed is left out, so that none is chosen for its
    luck on these prompts. So policies of several training seeds are compared at one NFE, though the same speed stands
    for another NFE in each.

    Args:
        speeds: of the policy, all on the same prompts in the same order.
        cells: of the rule, or of all rules together, or the speeds of another policy.
        nfe: forward passes per prompt; the mean is NaN if either has nothing as fast.
        hull: of the cells, as in `accuracy_at`.

    Raises:
        UnmaskError: as `paired_bootstrap`.
    """
    prompts = next((one.correct.shape[1] for one in speeds), 0)
    own, rule = _means(speeds, prompts), _means(cells, prompts)

    def gap(counts: Float[Tensor, "d p"]) -> Float[Tensor, " d"]:
        at = torch.full((len(counts),), nfe, dtype=torch.float64)
        return between_speeds(*_over(counts, own), nfe) - accuracies_at(*_over(counts, rule), at, hull)

    return _bootstrapped(gap, prompts, draws, seed)


def between_speeds(speeds: Float[Tensor, "d c"], accuracy: Float[Tensor, "d c"], nfe: float) -> Float[Tensor, " d"]:
    """Accuracy on the line between the neighbours in NFE; beyond the slowest its own, NaN below the fastest.

    Several speeds with the same NFE count as one with their mean accuracy, so that none is chosen for its luck.

    Args:
        speeds: NFE of each of c speeds, in d cases.
        accuracy: theirs.
        nfe: forward passes per prompt.
    """
    same = (speeds[:, :, None] - speeds[:, None, :]).abs() < 1e-9
    accuracy = (same * accuracy[:, None, :]).sum(dim=2) / same.sum(dim=2)
    speeds, order = speeds.sort(dim=1)
    accuracy = accuracy.gather(1, order)
    right = (speeds <= nfe).sum(dim=1, keepdim=True)
    left = (right - 1).clamp(min=0)
    a, b = accuracy.gather(1, left), accuracy.gather(1, right.clamp(max=speeds.shape[1] - 1))
    x, y = speeds.gather(1, left), speeds.gather(1, right.clamp(max=speeds.shape[1] - 1))
    line = torch.where(y > x, a + (b - a) * (nfe - x) / (y - x).clamp(min=1e-12), a)
    return line.masked_fill(right == 0, math.nan)[:, 0]


Means = tuple[Float[Tensor, "p c"], Float[Tensor, "p c"]]  # NFE and accuracy of each prompt in each of c cells


def _means(cells: Sequence[Outcomes], prompts: int | None = None) -> Means:
    """Over seeds."""
    if not cells or any(cell.correct.shape[1] != prompts for cell in cells if prompts is not None):
        raise UnmaskError(
            f"The rule needs cells with outcomes on the policy's {prompts} prompts: evaluate them on those."
        )
    speed = torch.stack([one.nfe.double().mean(dim=0) for one in cells], dim=1)
    return speed, torch.stack([one.correct.double().mean(dim=0) for one in cells], dim=1)


def _over(counts: Float[Tensor, "d p"], means: Means) -> tuple[Float[Tensor, "d c"], Float[Tensor, "d c"]]:
    """NFE and accuracy of each cell in each draw of prompts."""
    # Rounded, so that equal means stay equal: else a cell of the policy's very NFE may or may not be as fast.
    speed, accuracy = ((counts @ one / counts.shape[1]).round(decimals=9) for one in means)
    return speed, accuracy


def _bootstrapped(
    gap: Callable[[Float[Tensor, "d p"]], Float[Tensor, " d"]], prompts: int, draws: int, seed: int
) -> Difference:
    check(1, prompts)
    found = gap(resample(prompts, draws, seed))
    defined = found[~found.isnan()]
    undefined = 1 - len(defined) / len(found)
    mean = gap(torch.ones(1, prompts, dtype=torch.float64)).item()
    if math.isnan(mean) or not len(defined):
        return Difference(math.nan, math.nan, math.nan, undefined, math.nan)
    low, high = quantiles(defined, 0.025, 0.975)
    half = max(mean - low, high - mean)
    return Difference(mean, mean - half, mean + half, undefined, defined.mean().item() - mean)


def paired_difference(a: Float[Tensor, "s p"], b: Float[Tensor, "z p"], seed: int = 0) -> Interval:
    """Mean of one policy minus that of another on the same prompts, with a 95% interval over prompts and both's seeds.

    As `unmask.evaluation.intervals.bootstrap`, of each prompt's difference; what the seeds of either add widens it.

    Raises:
        UnmaskError: other numbers of prompts, or fewer than two.
    """
    if a.shape[1] != b.shape[1]:
        raise UnmaskError(f"Outcomes on {a.shape[1]} and {b.shape[1]} prompts: compare policies on the same.")
    within = bootstrap((a.double().mean(dim=0) - b.double().mean(dim=0))[None], seed=seed)
    apart = math.hypot(between_seeds(a.double()), between_seeds(b.double()))
    return Interval(
        within.mean,
        within.mean - math.hypot(within.mean - within.low, apart),
        within.mean + math.hypot(within.high - within.mean, apart),
    )
