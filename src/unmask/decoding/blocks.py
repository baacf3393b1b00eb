"""Which positions may be revealed: blocks from left to right, the whole region, or blocks that end with a line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from pydantic import BeforeValidator, PlainSerializer
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.ranking import topk_positions
from unmask.settings import OneWord, Settings, build, parse_spec, spell_items


class AdaptiveBlocks(Settings):
    """Blocks that end where the text does: AdaBlock (arXiv 2509.26432), for batches.

    When a block begins, the dLLM's pass over it also says where it would end a line: the block ends at the most
    confident delimiter that is predicted within the window, if its confidence reaches the threshold, and else after
    `default` positions. The same pass reveals the block's first tokens, so a boundary costs no forward pass.

    Attributes:
        default: block length where no delimiter is confident enough.
        delimiters: texts of one token each that may end a block.
        threshold: least confidence of the delimiter, tau_D; the released code has 0.3.
        window: how far ahead a delimiter is looked for, as a share of gen_length.
    """

    default: Annotated[int, Ge(1)] = 32
    delimiters: tuple[str, ...] = ("\n",)
    threshold: Annotated[float, Ge(0), Le(1)] = 0.3
    window: Annotated[float, Ge(0), Le(1)] = 0.25

    def __str__(self) -> str:
        given = self.model_dump(exclude_defaults=True)
        pairs = [f"{key}={spell_items(v) if isinstance(v, tuple) else v}" for key, v in given.items()]
        return ":".join(["adaptive", *([",".join(pairs)] if pairs else [])])


def parse_block_length(value: Any) -> Any:
    """``8``, ``adaptive`` or ``adaptive:default=8,delimiters=[.]`` as a `BlockLength`.

    Raises:
        UnmaskError: neither a number nor adaptive blocks.
    """
    if not isinstance(value, str):
        return value
    if value.isdigit():
        return int(value)
    values = parse_spec(value)
    if values.pop("type") != "adaptive":
        raise UnmaskError(
            f"Unknown block_length {value!r}: give a number, or adaptive:default=32,threshold=0.3,delimiters=[.]."
        )
    return build(AdaptiveBlocks, values, where=f"the block_length {value!r}", known=set(AdaptiveBlocks.model_fields))


def _spelt(value: int | AdaptiveBlocks | None) -> int | str | None:
    return str(value) if isinstance(value, AdaptiveBlocks) else value


BlockLength = Annotated[
    int | AdaptiveBlocks | None, BeforeValidator(parse_block_length), PlainSerializer(_spelt), OneWord()
]
"""Positions of a semi-autoregressive block, adaptive blocks, or None for full diffusion (one block)."""


class Blocks(ABC):
    """Where each row's current block ends. A row whose block has no mask left goes on to its next one."""

    @abstractmethod
    def learnt(
        self, masked: Bool[Tensor, "b l"], selectable: Bool[Tensor, "b l"], read: Bool[Tensor, "b l"]
    ) -> Bool[Tensor, "b l"]:
        """What a policy in these blocks could select where another policy, in blocks of its own, could `selectable`.

        Masked positions before the first of those are given up.

        Args:
            read: positions that the pass has read for the learner.
        """

    @abstractmethod
    def fewest(self, gen_length: int) -> int:
        """Steps that a row takes at least: its number of blocks, if each ends as late as it can."""

    def most(self, gen_length: int) -> int:
        """Blocks that a region may span at most, where they all have one length."""
        return self.fewest(gen_length)

    def start(self, prompt_length: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Where the block before the first one ends."""
        return torch.zeros_like(prompt_length)

    def view(self, masked: Bool[Tensor, "b l"], prompt_length: Int[Tensor, " b"]) -> Bool[Tensor, "b l"] | None:
        """Positions that the coming pass can read; None for all."""
        return None

    def revisable(self, ahead: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        """Positions of the block that the coming pass decodes, where revealed tokens may be revised; none by default.

        Args:
            ahead: as in `DecodingState`.
        """
        return torch.zeros_like(ahead)

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

    def learnt(
        self, masked: Bool[Tensor, "b l"], selectable: Bool[Tensor, "b l"], read: Bool[Tensor, "b l"]
    ) -> Bool[Tensor, "b l"]:
        positions, first = _positions(masked), selectable.int().argmax(dim=1, keepdim=True)
        return masked & (positions >= first) & (positions < self._end(selectable)[:, None])

    def fewest(self, gen_length: int) -> int:
        return gen_length // self.length

    def scope(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        return masked & (_positions(masked) < self._end(masked)[:, None])

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

    def learnt(
        self, masked: Bool[Tensor, "b l"], selectable: Bool[Tensor, "b l"], read: Bool[Tensor, "b l"]
    ) -> Bool[Tensor, "b l"]:
        return selectable  # where they end depends on what the dLLM said: both decode in the same blocks

    def fewest(self, gen_length: int) -> int:
        return -(-gen_length // max(self.window, self.default))

    def scope(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        start, begins = self._begin(masked, block_end)
        reach = torch.where(begins, start + max(self.window, self.default), block_end)
        return masked & (_positions(masked) < reach[:, None])

    def end(
        self,
        masked: Bool[Tensor, "b l"],
        block_end: Int[Tensor, " b"],
        predicted: Int[Tensor, "b l"],
        confidence: Float[Tensor, "b l"],
    ) -> Int[Tensor, " b"]:
        start, begins = self._begin(masked, block_end)
        positions = _positions(masked)
        inside = (positions >= start[:, None]) & (positions < (start + self.window)[:, None])
        delimiter = masked & inside & torch.isin(predicted, self.delimiters)
        most = confidence.masked_fill(~delimiter, -1.0).amax(dim=1)
        at = topk_positions(confidence, delimiter, 1).int().argmax(dim=1)  # of several that are as sure, the leftmost
        fallback = (start + self.default).clamp(max=masked.shape[1])
        end = torch.where(most >= self.threshold, at + 1, fallback)
        return torch.where(begins, end, block_end)

    def _begin(
        self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]
    ) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
        start = masked.int().argmax(dim=1)
        return start, start >= block_end


@dataclass(frozen=True)
class AlignedBlocks(Blocks):
    """The blocks of a block-causal dLLM, counted from a row's first token, or shorter ones within them.

    Attributes:
        length: a divisor of the dLLM's.
        model_length: the dLLM's; nothing outside the current one can be read.
    """

    length: int
    model_length: int

    def learnt(
        self, masked: Bool[Tensor, "b l"], selectable: Bool[Tensor, "b l"], read: Bool[Tensor, "b l"]
    ) -> Bool[Tensor, "b l"]:
        # The pass reads the dLLM's own block; of shorter ones nobody can tell where they end.
        return selectable | (masked & read) if self.length == self.model_length else selectable

    def fewest(self, gen_length: int) -> int:
        return -(-gen_length // self.length)

    def most(self, gen_length: int) -> int:
        return (gen_length + self.length - 2) // self.length + 1  # where a prompt leaves one place in its last block

    def start(self, prompt_length: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        return -(prompt_length % self.model_length)

    def view(self, masked: Bool[Tensor, "b l"], prompt_length: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        first = masked.int().argmax(dim=1) + prompt_length
        block = (_positions(masked) + prompt_length[:, None]) // self.model_length
        return block == (first // self.model_length)[:, None]

    def revisable(self, ahead: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        before_end = self._end(ahead, block_end)[:, None] - _positions(ahead)
        return (before_end > 0) & (before_end <= self.length)

    def scope(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        return masked & (_positions(masked) < self._end(masked, block_end)[:, None])

    def end(
        self,
        masked: Bool[Tensor, "b l"],
        block_end: Int[Tensor, " b"],
        predicted: Int[Tensor, "b l"],
        confidence: Float[Tensor, "b l"],
    ) -> Int[Tensor, " b"]:
        return self._end(masked, block_end)

    def _end(self, masked: Bool[Tensor, "b l"], block_end: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        first = masked.int().argmax(dim=1)
        beyond = first - block_end  # at least 0 where a new block begins
        return block_end + torch.where(beyond >= 0, (beyond // self.length + 1) * self.length, 0)


def make_blocks(block_length: int | AdaptiveBlocks | None, gen_length: int, model: MaskedDiffusionModel) -> Blocks:
    """The blocks a user asked for.

    Raises:
        UnmaskError: a length that does not divide the region, or the blocks of the dLLM; a delimiter that is not one
            token.
    """
    own = model.block_length
    if own is not None:
        return AlignedBlocks(check_own_blocks(block_length, own, gen_length, model.name), own)
    if not isinstance(block_length, AdaptiveBlocks):
        return FixedBlocks(check_block_length(gen_length, block_length))
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


def check_own_blocks(block_length: int | AdaptiveBlocks | None, own: int, gen_length: int, name: str) -> int:
    """The block length to use on a block-causal dLLM; None, or the whole region, means its own.

    Raises:
        UnmaskError: neither its own nor a divisor.
    """
    if block_length is None or (block_length == gen_length and own % gen_length):
        return own
    if isinstance(block_length, AdaptiveBlocks) or block_length < 1 or own % block_length:
        raise UnmaskError(
            f"block_length is {block_length}, and {name!r} decodes in blocks of {own}: leave it out, or give a "
            f"divisor of {own}."
        )
    return block_length


def check_block_length(gen_length: int, block_length: int | None) -> int:
    """The block length to use; None means full diffusion (one block as long as the region).

    Raises:
        UnmaskError: a block length below 1, or one that does not divide the region.
    """
    if block_length is None:
        return gen_length
    if block_length < 1 or gen_length % block_length:
        divisors = [d for d in range(1, gen_length + 1) if gen_length % d == 0]
        near = min(divisors, key=lambda d: abs(d - block_length))
        raise UnmaskError(
            f"block_length {block_length} does not divide gen_length {gen_length}: use a divisor such as {near}."
        )
    return block_length


def _positions(masked: Bool[Tensor, "b l"]) -> Int[Tensor, " l"]:
    return torch.arange(masked.shape[1], device=masked.device)
