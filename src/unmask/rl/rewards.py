"""Rewards, as pure functions (arXiv 2512.09106, section 3)."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor


def multiplicative(
    correct: Bool[Tensor, " r"], nfe: Int[Tensor, " r"], gen_length: int, alpha: float
) -> Float[Tensor, " r"]:
    """R = correct * ((L - min(NFE, L) + 1) / L) ** alpha: speed pays only where the answer is right.

    Args:
        nfe: forward passes of each roll-out.
        alpha: weight of speed; 0 is correctness alone.
    """
    speed = (gen_length - nfe.clamp(max=gen_length) + 1) / gen_length
    return correct * speed**alpha
