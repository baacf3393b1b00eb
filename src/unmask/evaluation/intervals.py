"""Intervals of means over prompts and seeds. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.errors import UnmaskError

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Float[Tensor, "s p"], draws: int = BOOTSTRAP_DRAWS, seed: int = 0) -> Interval:
    """The mean of one number a seed and prompt, with a 95% interval over other prompts and other seeds.

    Prompts are resampled, the seeds of a prompt together: the percentiles then hold the noise of drawing too. What
    seeds differ by beyond it (training seeds do) widens each side, by the square root of the sum of squares (MOVER: Zou
    and Donner, Statistics in Medicine 27, 2008). It is not resampled: no resample leaves the range of its values, so
    that percentiles of three seeds which differ much are too narrow, while of seeds that do not differ they count the
    noise of drawing more than once (Owen, Annals of Applied Statistics 1, 2007). Two seeds can hardly tell how far
    seeds differ: train three or more.

    Raises:
        UnmaskError: no values, or fewer than two prompts.
    """
    check(*values.shape)
    exact = values.double()
    means = resample(exact.shape[1], draws, seed) @ exact.mean(dim=0) / exact.shape[1]
    mean, (low, high), apart = exact.mean().item(), quantiles(means, 0.025, 0.975), between_seeds(exact)
    return Interval(mean, mean - math.hypot(mean - low, apart), mean + math.hypot(high - mean, apart))


@lru_cache(maxsize=2)
def resample(prompts: int, draws: int, seed: int) -> Float[Tensor, "d p"]:
    """How often each draw takes each prompt: means are then one matrix product. All cells have the same, not to be
    written to."""
    taken = torch.randint(prompts, (draws, prompts), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(draws, prompts, dtype=torch.float64)
    return counts.scatter_add_(1, taken, torch.ones_like(counts))


def between_seeds(values: Float[Tensor, "s p"]) -> float:
    """Half of the 95% t-interval of what seeds add to the mean's error beyond the noise within them; 0 for one seed.

    The variance component of seeds crossed with prompts, by analysis of variance: the spread of the seeds' means less
    what the residuals explain of it.
    """
    seeds, prompts = values.shape
    if seeds == 1:
        return 0.0
    means = values.mean(dim=1, keepdim=True)
    residuals = values - means - values.mean(dim=0, keepdim=True) + values.mean()
    noise = residuals.square().sum().item() / ((seeds - 1) * (prompts - 1))
    return t95(seeds - 1) * math.sqrt(max(means.var().item() / seeds - noise / (seeds * prompts), 0.0))


@lru_cache
def t95(df: int) -> float:
    """Half-width of a 95% interval in standard errors: Student's t with `df` degrees of freedom."""
    from scipy.stats import t  # takes a second to import

    return float(t.ppf(0.975, df))


def quantiles(values: Float[Tensor, " d"], *levels: float) -> list[float]:
    """Quantiles of draws."""
    return values.quantile(torch.tensor(levels, dtype=values.dtype)).tolist()


def check(seeds: int, prompts: int) -> None:
    """
    Raises:
        UnmaskError: too few for an interval.
    """
    if seeds < 1 or prompts < 2:
        raise UnmaskError(f"An interval over {seeds} seeds and {prompts} prompts: give at least 1 seed and 2 prompts.")
