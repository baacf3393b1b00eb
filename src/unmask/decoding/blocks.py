"""Which positions may be revealed: blocks from left to right, the whole region, or blocks that end with a line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from pydantic import ValidationError
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.settings import Settings, build, parse_spec, refusal


class AdaptiveBlocks(Settings):
    """Blocks that end where the text does: AdaBlock (arXiv 2509.26432), for batches.

    When a block begins, the dLLM's pass over it also says where it would end a line: the block ends at the most
    confident delimiter that is predicted within the window, if its confidence reaches the threshold, and else after
    `default` positions. The same pass reveals the block's first tokens, so a boundary costs no forward pass.

    Attributes:
        default: block length where no delimiter is sure enough.
        delimiters: texts of one token each that may end a block.
        threshold: least confidence of the delimiter, tau_D; the released code has 0.3.
        window: how far ahead a delimiter is looked for, as a share of gen_length.
    """

    default: Annotated[int, Ge(1)] = 32
    delimiters: tuple[str, ...] = ("\n",)
    threshold: Annotated[float, Ge(0), Le(1)] = 0.3
    window: Annotated[float, Ge(0), Le(1)] = 0.25

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as e:
            raise refusal(e, "Bad value for AdaptiveBlocks") from None


class Blocks(ABC):
    """Where each row's current block ends. A row whose block has no mask left goes on to its next one."""

    @abstractmethod
    def scope(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        """Masked positions that the coming pass may make selectable."""

    @abstractmethod
    def end(
        self,
        masked: Bool[Tensor, "b l"],
        block_end: Int[Tensor, " b"],
        predicted: Int[Tensor, "b l"],
        confidence: Float[Tensor, "b l"],
    ) -> Int[Tensor, " b"]:
        """Where the current block ends (exclusive), given what the pass predicts in its scope."""


@dataclass(frozen=True)
class FixedBlocks(Blocks):
    """Semi-autoregressive decoding in blocks of one length; the length of the region is full diffusion."""

    length: int

    def scope(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        return masked & (_places(masked) < self._end(masked)[:, None])

    def end(
        self,
        masked: Bool[Tensor, "b l"],
        block_end: Int[Tensor, " b"],
        predicted: Int[Tensor, "b l"],
        confidence: Float[Tensor, "b l"],
    ) -> Int[Tensor, " b"]:
        return self._end(masked)

    def _end(self, masked: Bool[Tensor, "b l"]) -> Int[Tensor, " b"]:
        return (masked.int().argmax(dim=1) // self.length + 1) * self.length


@dataclass(frozen=True)
class DelimitedBlocks(Blocks):
    """`AdaptiveBlocks` with its delimiters as token ids (d,) and its window in positions."""

    default: int
    delimiters: Int[Tensor, " d"]
    threshold: float
    window: int

    def scope(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        start, begins = self._begin(masked, block_end)
        reach = torch.where(begins, start + max(self.window, self.default), block_end)
        return masked & (_places(masked) < reach[:, None])

    def end(
        self,
        masked: Bool[Tensor, "b l"],
        block_end: Int[Tensor, " b"],
        predicted: Int[Tensor, "b l"],
        confidence: Float[Tensor, "b l"],
    ) -> Int[Tensor, " b"]:
        start, begins = self._begin(masked, block_end)
        places = _places(masked)
        inside = (places >= start[:, None]) & (places < (start + self.window)[:, None])
        may_end = masked & inside & torch.isin(predicted, self.delimiters)
        sure, at = confidence.masked_fill(~may_end, -1.0).max(dim=1)
        fallback = (start + self.default).clamp(max=masked.shape[1])
        end = torch.where(sure >= self.threshold, at + 1, fallback)
        return torch.where(begins, end, block_end)

    def _begin(
        self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]
    ) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
        start = masked.int().argmax(dim=1)
        return start, start >= block_end


def make_blocks(block_length: int | AdaptiveBlocks | None, gen_length: int, model: MaskedDiffusionModel) -> Blocks:
    """The blocks a user asked for.

    Raises:
        UnmaskError: a length that does not divide the region; a delimiter that is not one token.
    """
    if not isinstance(block_length, AdaptiveBlocks):
        return FixedBlocks(check_block_length(gen_length, block_length))
    check_block_length(gen_length, None)
    ids = []
    for text in block_length.delimiters:
        tokens = model.encode(text)
        if len(tokens) != 1:
            raise UnmaskError(f"The delimiter {text!r} is {len(tokens)} tokens of {model.name!r}: give a single one.")
        ids += tokens
    return DelimitedBlocks(
        block_length.default,
        torch.tensor(ids, dtype=torch.long, device=model.device),
        block_length.threshold,
        int(block_length.window * gen_length),
    )


def parse_block_length(text: str | int | AdaptiveBlocks | None) -> int | AdaptiveBlocks | None:
    """``8``, ``adaptive`` or ``adaptive:default=8,delimiters=[.]`` as `unmask.generate` takes it.

    Raises:
        UnmaskError: neither a number nor adaptive blocks.
    """
    if not isinstance(text, str):
        return text
    if text.isdigit():
        return int(text)
    values = parse_spec(text)
    if values.pop("type") != "adaptive":
        raise UnmaskError(
            f"Unknown block_length {text!r}: give a number, or adaptive:default=32,threshold=0.3,delimiters=[.]"
        )
    return build(AdaptiveBlocks, values, where=f"the block_length {text!r}", known=set(AdaptiveBlocks.model_fields))


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
    """Masked positions of each row's current block: the leftmost block that still has a mask."""
    blocks = FixedBlocks(block_length)
    return blocks.scope(masked, torch.zeros_like(masked[:, 0], dtype=torch.long))


def _places(masked: Bool[Tensor, "b l"]) -> Int[Tensor, " l"]:
    return torch.arange(masked.shape[1], device=masked.device)
