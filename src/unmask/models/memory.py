"""What is kept of each active row from one forward pass to the next; opaque to the decode loop.

A kind of memory is one file: what a dLLM feeds back into its next pass (`residual_context.py`), how each position's
distribution changes (`kl_history.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.observation import Positions


@dataclass(frozen=True)
class Aim:
    """Where rows stand before a pass.

    Attributes:
        attention: True at real tokens of prompt and region, False at the left padding.
        masked: positions of the region that are masked.
        scope: those that the pass may make selectable.
        begins: rows whose block begins with this pass.
        block_end: where the block of the others ends, exclusive.
    """

    attention: Bool[Tensor, "b t"]
    masked: Bool[Tensor, "b l"]
    scope: Bool[Tensor, "b l"]
    begins: Bool[Tensor, " b"]
    block_end: Int[Tensor, " b"]


class Memory(ABC):
    """Kept rows: immutable, so that a step that fails changes nothing.

    Attributes:
        positions: where it must see the dLLM's distributions, as in `Needs`.
    """

    positions: ClassVar[Positions] = "selectable"

    @abstractmethod
    def take(self, rows: Tensor) -> Memory:
        """The rows named by a boolean mask or by indices, in that order."""

    @abstractmethod
    def join(self, n: int) -> Memory:
        """With n fresh rows behind, of which nothing is known."""

    def trim(self, columns: int) -> Memory:
        """Without the first columns, which are padding in every row."""
        return self

    def aim(self, at: Aim) -> Memory:
        """Told where rows stand, before the pass that it is for."""
        return self

    @property
    def view(self) -> Bool[Tensor, "b l"] | None:
        """Positions of the region whose predictions the coming pass computes; None for all that are asked for."""
        return None

    def computed(self, attention: Bool[Tensor, "b t"]) -> Int[Tensor, " b"]:
        """Positions of each row that the coming pass computes."""
        return attention.sum(dim=1)

    def inputs(self, tokens: Int[Tensor, "b t"]) -> dict[str, Tensor]:
        """What the network takes in place of token ids alone."""
        return {"input_ids": tokens}

    def reader(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], shape: tuple[int, int]) -> Reader | None:
        """What reads the coming pass at these positions of the (b, l) region; None if it needs nothing of it."""
        return None


@dataclass(frozen=True)
class Reader:
    """How a memory takes in one pass.

    Attributes:
        read: called with the logits and probabilities of each chunk of positions, in order, and the number of positions
            before them; gives a row of numbers per position. It may write into the logits.
        remember: called with the rows of all positions; gives the memory for the next pass.
    """

    read: Callable[[Float[Tensor, "n v"], Float[Tensor, "n v"], int], Tensor]
    remember: Callable[[Tensor], Any]


def spread(values: Tensor, shape: tuple[int, int], rows: Tensor, columns: Tensor, empty: float = 0) -> Tensor:
    """Values of n positions at their places in (b, l), `empty` elsewhere."""
    return values.new_full((*shape, *values.shape[1:]), empty).index_put((rows, columns), values)


def inputs_of(tokens: Int[Tensor, "b t"], memory: Memory | None) -> dict[str, Tensor]:
    """What a network takes: token ids, or what the memory makes of them."""
    return {"input_ids": tokens} if memory is None else memory.inputs(tokens)
