"""Which positions may be revealed: semi-autoregressive blocks, or the whole region at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from unmask.errors import UnmaskError


def check_block_length(gen_length: int, block_length: int | None) -> int:
    """The block length to use; None means full diffusion (one block as long as the region).

    Raises:
        UnmaskError: a length below 1, or a block length that does not divide the region.
    """
    if gen_length < 1:
        raise UnmaskError(f"gen_length must be at least 1, not {gen_length}.")
    if block_length is None:
        return gen_length
    if block_length < 1 or gen_length % block_length:
        divisors = [d for d in range(1, gen_length + 1) if gen_length % d == 0]
        near = min(divisors, key=lambda d: abs(d - block_length))
        raise UnmaskError(
            f"block_length {block_length} does not divide gen_length {gen_length}: use a divisor such as {near}."
        )
    return block_length


def selectable(masked: Bool[Tensor, "b l"], block_length: int) -> Bool[Tensor, "b l"]:
    """Masked positions of each row's current block: the leftmost block that still has a mask.

    METHOD: semi-autoregressive decoding; block_length = l is full diffusion.
    """
    block = torch.arange(masked.shape[1], device=masked.device) // block_length
    current = block[masked.int().argmax(dim=1)]
    return masked & (block == current[:, None])
