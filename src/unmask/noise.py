"""Counter-based random numbers: a stream for every row, the same in any batch, on any device, after a resume.

torch's generators give one stream for the whole batch instead, so that a row would depend on its neighbours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

POLICY, TOKENS = 1, 0  # what a step draws for: two streams a step


def row_keys(seed: int, rows: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """One random stream for each row index under a seed."""
    return _mix(_mix(torch.full_like(rows, seed)) + rows)


def uniform(key: Int[Tensor, " b"], step: Int[Tensor, " b"], n: int) -> Float[Tensor, "b n"]:
    """Uniform numbers in (0, 1) from a row's key and step alone, for its policy."""
    position = torch.arange(n, device=key.device)
    x = _mix(_mix(key)[:, None] + _mix(step * 2 + POLICY)[:, None] + position * -7046029254386353131)
    numbers = ((x >> 40) & 0xFFFFFF).to(torch.float32).add(0.5) / 2**24
    return numbers.clamp(max=1 - 2**-24)  # float32 rounds the last one up to 1


def further(noise: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """One more uniform number in (0, 1) for each row, hashed from those it has."""
    bits = (noise * 2**24).long()
    position = torch.arange(noise.shape[1], device=noise.device)
    x = _mix(_mix(bits + position * -7046029254386353131).sum(dim=1))
    return (((x >> 40) & 0xFFFFFF).to(torch.float32).add(0.5) / 2**24).clamp(max=1 - 2**-24)


def gumbel(
    key: Int[Tensor, " n"], step: Int[Tensor, " n"], position: Int[Tensor, " n"], v: int
) -> Float[Tensor, "n v"]:
    """Standard Gumbel numbers from a row's key, step and position alone, one for each token of the vocabulary.

    -log(E) with E = -log(1 - w) exponential: w has 31 bits near 0, where the large Gumbel numbers come from.
    """
    stream = _mix(_mix(key) + _mix(step * 2 + TOKENS) + position * -7046029254386353131)
    x = _mix(stream[:, None] + torch.arange(v, device=key.device) * -3335678366873096957)
    w = ((x >> 33) & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2**-24)
    return w.neg_().log1p_().neg_().log_().neg_()


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
