"""Orders of positions by a score, row by row."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TIE_DECIMALS = 4  # see `topk_positions`


def ranking(
    score: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]
) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
    """Positions of each row by falling score, leftmost first on ties, unselectable ones last.

    Returns:
        order (b, l), the position at each rank; and rank (b, l) of each position, from 0; past any k if unselectable.
    """
    order = score.masked_fill(~selectable, -torch.inf).argsort(dim=1, descending=True, stable=True)
    indices = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, indices)
    return order, rank.masked_fill(~selectable, torch.iinfo(torch.long).max)


def topk_positions(
    score: Float[Tensor, "b l"],
    selectable: Bool[Tensor, "b l"],
    k: int | Int[Tensor, " b"],
    *,
    tie_decimals: int | None = TIE_DECIMALS,
) -> Bool[Tensor, "b l"]:
    """The k selectable positions with the largest score in each row (all of them if fewer), leftmost first on ties.

    Args:
        k: one number, or one per row.
        tie_decimals: scores that agree to this many decimals are tied; None compares them exactly. Positions that are
            all but certain differ only by the rounding of float32, which changes with the shape of a batch and with the
            machine: an order by it would be neither reproducible nor meant.
    """
    rounded = score if tie_decimals is None else score.round(decimals=tie_decimals)
    return ranking(rounded, selectable)[1] < (k[:, None] if isinstance(k, Tensor) else k)
