"""Orders of positions by a score, row by row."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from pydantic import AfterValidator
from torch import Tensor

from unmask.observation import Observation
from unmask.settings import divides

AlgTemp = Annotated[float, Ge(0), AfterValidator(divides)]
"""Temperature of `drawn_positions`."""

RELATIVE, LEAST = 1e-5, 2e-6  # widths of a tie, see `level`
BELOW = -1e9  # level of 0, which is below those of all float32 numbers above it


Order = Literal["confidence", "margin", "entropy"]


def margin(observation: Observation) -> Float[Tensor, "b l"]:
    """How far the likeliest token is ahead of the second."""
    return observation.confidence[..., 0] - observation.confidence[..., 1]


def sureness(observation: Observation, order: Order) -> Float[Tensor, "b l"]:
    """Of each position: its confidence, its margin, or its entropy with the sign turned."""
    if order == "entropy":
        assert observation.entropy is not None  # the loop gives what is needed
        return -observation.entropy
    return margin(observation) if order == "margin" else observation.confidence[..., 0]


def level(score: Float[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    """Scores as whole numbers, equal where they differ by less than float32 and the shape of a batch can tell.

    A level is about 1e-5 of a probability and of its complement wide, and 2e-6 next to 1, where float32 has few digits
    left; below 0 (such as an entropy with its sign turned) it is 1e-5 of the score, and 2e-6 next to 0. So the small
    confidences of an unsure dLLM decide as they are, and positions that are all but certain, which differ by rounding
    only, are tied: an order of those would be neither reproducible nor meant.
    """
    x = score.double()
    # Levels of a width w(x) are the whole numbers of the integral of 1 / w; 1 is in the middle of level 0.
    above = (x.clamp(min=0).log() - (RELATIVE * (1 - x).clamp(min=0) / LEAST).log1p()) / (RELATIVE + LEAST)
    below = BELOW - (RELATIVE * x.neg().clamp(min=0) / LEAST).log1p() / RELATIVE
    return torch.where(x > 0, above, below).round()


def ranking(
    score: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], *, exact: bool = False
) -> tuple[Int[Tensor, "b l"], Int[Tensor, "b l"]]:
    """Positions of each row by falling score, leftmost first on ties, unselectable ones last.

    Args:
        exact: compare scores as they are, instead of by their `level`.

    Returns:
        order (b, l), the position at each rank; and rank (b, l) of each position, from 0; past any k if unselectable.
    """
    levels = (score if exact else level(score)).masked_fill(~selectable, -torch.inf)
    order = levels.argsort(dim=1, descending=True, stable=True)
    indices = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, indices)
    return order, rank.masked_fill(~selectable, torch.iinfo(torch.long).max)


def topk_positions(
    score: Float[Tensor, "b l"],
    selectable: Bool[Tensor, "b l"],
    k: int | Int[Tensor, " b"],
    *,
    exact: bool = False,
) -> Bool[Tensor, "b l"]:
    """The k selectable positions with the largest score in each row (all of them if fewer), leftmost first on ties.

    Args:
        k: one number, or one per row.
        exact: as in `ranking`.
    """
    return ranking(score, selectable, exact=exact)[1] < (k[:, None] if isinstance(k, Tensor) else k)


def drawn_positions(
    score: Float[Tensor, "b l"],
    selectable: Bool[Tensor, "b l"],
    k: int | Int[Tensor, " b"],
    temperature: float,
    noise: Float[Tensor, "b l"],
) -> Bool[Tensor, "b l"]:
    """k selectable positions drawn without replacement by softmax(score / temperature); at 0 `topk_positions`.

    By Gumbel-top-k. It is Dream's ``alg_temp`` (arXiv 2508.15487; the released code).

    Args:
        noise: uniform numbers in (0, 1).
    """
    if temperature == 0:
        return topk_positions(score, selectable, k)
    return topk_positions(score / temperature - (-noise.log()).log(), selectable, k, exact=True)


def overlap(
    confidence: Float[Tensor, "b l k"], tokens: Int[Tensor, "b l k"], masked: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l l"]:
    """The probability that two masked positions write the same token, each by its own distribution; 0 for others."""
    p = confidence * masked[..., None]
    found = p.new_zeros(*masked.shape, masked.shape[1])
    for one, token in zip(p.unbind(dim=-1), tokens.unbind(dim=-1), strict=True):
        for other, its in zip(p.unbind(dim=-1), tokens.unbind(dim=-1), strict=True):
            found += one[:, :, None] * other[:, None] * (token[:, :, None] == its[:, None])
    return found.masked_fill(torch.eye(masked.shape[1], dtype=torch.bool, device=p.device), 0)
