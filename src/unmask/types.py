"""What flows through the house: plain frozen containers of tensors, nothing else.

Shape letters: b rows of the live batch, t prompt and region together, l positions of the generation region,
k confidences per position, n selected positions, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Needs:
    """What a policy must see; the decode loop computes no more than this.

    Attributes:
        top_k: number of confidences per position, largest first.
        positions: where confidences are wanted. ``selectable``: only where the policy may act (zero elsewhere);
            ``region``: at every position of the generation region, revealed ones too.
    """

    top_k: int = 1
    positions: Literal["selectable", "region"] = "selectable"

    def union(self, other: Needs) -> Needs:
        """The least that satisfies both."""
        positions: Literal["selectable", "region"] = (
            "region" if "region" in (self.positions, other.positions) else "selectable"
        )
        return Needs(max(self.top_k, other.top_k), positions)


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one step (METHOD: state of the decision process).

    Attributes:
        confidence: the k largest probabilities of the dLLM's plain softmax at each position.
        masked: the position is still masked.
        selectable: masked, and in the row's current block: the policy may reveal it.
        step_fraction: steps taken so far / gen_length.
        noise: uniform numbers in (0, 1), a stream of its own for each row, so that a random policy needs no
            generator and no row depends on its neighbours.
    """

    confidence: Float[Tensor, "b l k"]
    masked: Bool[Tensor, "b l"]
    selectable: Bool[Tensor, "b l"]
    step_fraction: Float[Tensor, " b"]
    noise: Float[Tensor, "b l"]


@dataclass(frozen=True)
class DecodingState:
    """The live rows: left-padded prompts, each followed by its generation region.

    Attributes:
        tokens: token ids; the last l columns are the region.
        attention: True at real tokens, False at the left padding.
        masked: region positions not revealed yet.
        step: decoding steps (forward passes) the row has taken.
        key: the row's random stream.
        row: the row's place in the caller's list of prompts.
    """

    tokens: Int[Tensor, "b t"]
    attention: Bool[Tensor, "b t"]
    masked: Bool[Tensor, "b l"]
    step: Int[Tensor, " b"]
    key: Int[Tensor, " b"]
    row: Int[Tensor, " b"]

    @property
    def gen_length(self) -> int:
        return self.masked.shape[1]

    def take(self, keep: Tensor) -> DecodingState:
        """The rows named by a boolean mask or by indices, in that order."""
        return DecodingState(
            self.tokens[keep], self.attention[keep], self.masked[keep], self.step[keep], self.key[keep], self.row[keep]
        )


@dataclass(frozen=True)
class Step:
    """One step of the decode loop, as a callback sees it.

    Attributes:
        before: the live rows when the policy was asked.
        observation: what the policy saw.
        predicted: the token the dLLM would write at each region position.
        action: positions the policy revealed.
    """

    before: DecodingState
    observation: Observation
    predicted: Int[Tensor, "b l"]
    action: Bool[Tensor, "b l"]


StepCallback = Callable[[Step], None]


def uniform(key: Int[Tensor, " b"], step: Int[Tensor, " b"], n: int) -> Float[Tensor, "b n"]:
    """Uniform numbers in (0, 1) from a row's key and step alone (counter-based, splitmix64's finaliser).

    The same (key, step) gives the same numbers in any batch, on any device and after a resume; torch's generators
    give one stream for the whole batch instead.
    """
    position = torch.arange(n, device=key.device)
    x = _mix(_mix(key)[:, None] + _mix(step * 2 + 1)[:, None] + position * -7046029254386353131)
    numbers = ((x >> 40) & 0xFFFFFF).to(torch.float32).add(0.5) / 2**24
    return numbers.clamp(max=1 - 2**-24)  # float32 rounds the last one up to 1


def row_keys(seed: int, rows: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """One random stream for each row index under a seed."""
    return _mix(_mix(torch.full_like(rows, seed)) + rows)


def _mix(x: Tensor) -> Tensor:
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
