"""The axis of speeds: what a network is given at each, so that equal steps of speed are equal steps of log NFE."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import AfterValidator
from torch import Tensor

Axis = tuple[tuple[float, float], ...]


def _rises_from_0_to_1(axis: Axis) -> Axis:
    if not axis:
        return axis
    speeds, knobs = zip(*axis, strict=True)
    if (speeds[0], speeds[-1]) != (0, 1) or not all(0 <= knob <= 1 for knob in knobs):
        raise ValueError("speed_axis goes from speed 0 to speed 1, with numbers from 0 to 1: calibrate anew")
    if any(b <= a for values in (speeds, knobs) for a, b in pairwise(values)):
        raise ValueError("speed_axis does not rise: calibrate anew")
    return axis


SpeedAxis = Annotated[Axis, AfterValidator(_rises_from_0_to_1)]
"""Pairs of a speed and the number given to the network there, both rising; empty: the speed itself."""


@lru_cache(maxsize=16)
def sides(axis: Sequence[tuple[float, float]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Both columns of an axis on a device: they go there with the policy, not at each decoding step."""
    at, values = (torch.tensor(side, device=device) for side in zip(*axis, strict=True))
    return at, values


def along(axis: Sequence[tuple[float, float]], speed: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The value at each speed of an axis of pairs, linear in between.

    Args:
        axis: rising, from speed 0 to 1; empty for the identity.
    """
    if not axis:
        return speed
    at, values = sides(axis, speed.device)
    right = torch.searchsorted(at, speed.contiguous()).clamp(1, len(axis) - 1)
    share = (speed - at[right - 1]) / (at[right] - at[right - 1])
    return values[right - 1] + (values[right] - values[right - 1]) * share
