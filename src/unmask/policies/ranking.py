"""Orders of positions by a score, row by row."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TIE_DECIMALS = 4  # see `surest`


def ranking(score: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> tuple[Tensor, Tensor]:
    """Positions of each row by falling score, leftmost first on ties, unselectable ones last.

    Returns:
        order (b, l), the position at each rank; and rank (b, l) of each position, from 0; past any k if unselectable.
    """
    order = score.masked_fill(~selectable, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return order, rank.masked_fill(~selectable, torch.iinfo(torch.long).max)


def surest(score: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], k: int | Tensor) -> Bool[Tensor, "b l"]:
    """`largest` for confidences and their like: what agrees to four decimals is tied, and goes from left to right.

    Positions that are all but certain differ by the rounding of float32 only, which changes with the shape of a batch
    and with the machine; an order by it would be neither reproducible nor meant.
    """
    return largest(score.round(decimals=TIE_DECIMALS), selectable, k)


def largest(score: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], k: int | Tensor) -> Bool[Tensor, "b l"]:
    """The k selectable positions with the largest score in each row (all of them if fewer), leftmost first on ties.

    Args:
        k: one number, or one a row (b,).
    """
    return ranking(score, selectable)[1] < (k[:, None] if isinstance(k, Tensor) else k)
