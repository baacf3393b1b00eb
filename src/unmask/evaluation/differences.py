"""A policy against a rule at equal NFE, and against another policy, with intervals. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    prompts = policy.correct.shape[1]
    if not cells or any(cell.correct.shape[1] != prompts for cell in cells):
        raise UnmaskError(
            f"The rule needs cells with outcomes on the policy's {prompts} prompts: evaluate them on those."
        )
    everyone = [policy, *cells]
    correct = torch.stack([one.correct.double().mean(dim=0) for one in everyone], dim=1)  # prompts x (policy, cells)
    nfe = torch.stack([one.nfe.double().mean(dim=0) for one in everyone], dim=1)

    def gap(counts: Float[Tensor, "d p"], further: float = 0.0) -> Float[Tensor, " d"]:
        # Rounded, so that equal means stay equal: else a cell of the policy's very NFE may or may not be as fast.
        accuracy, speed = ((counts @ one / prompts).round(decimals=9) for one in (correct, nfe))
        return accuracy[:, 0] - accuracies_at(speed[:, 1:], accuracy[:, 1:], speed[:, 0] + further, hull)

    found = gap(resample(prompts, draws, seed))
    defined = found[~found.isnan()]
    undefined = 1 - len(defined) / len(found)
    whole = torch.ones(1, prompts, dtype=torch.float64)
    mean = gap(whole).item()
    if math.isnan(mean) or not len(defined):
        return Difference(math.nan, math.nan, math.nan, undefined, math.nan)
    slope = (mean - gap(whole, further=1e-4).item()) / 1e-4
    apart = between_seeds(policy.correct.double() - slope * policy.nfe.double())
    low, high = quantiles(defined, 0.025, 0.975)
    half = math.hypot(max(mean - low, high - mean), apart)
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
