"""What decoding gives back: rows as they end, and all of them in the order of the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Ending = Literal["complete", "eos", "budget", "stop"]
Cost = Literal["passes", "positions"]
"""What decoding costs: forward passes, or the positions that they compute, as passes over the whole row."""
ENDINGS: tuple[Ending, ...] = ("complete", "eos", "budget", "stop")  # in the order of `unmask.decoding.step`


@dataclass(frozen=True)
class Completion:
    """One finished prompt.

    Attributes:
        index: among the prompts.
        text: up to the first EOS or stop string, special tokens left out; also behind an EOS with `text_after_eos`.
        tokens: token ids of the region; a position left masked holds the mask id.
        nfe: forward passes spent while it was active.
        positions: that those passes computed of it, prompt and region; padding and other rows aside.
        full_passes: that computed the whole of it: all of them where each position sees all and nothing is cached.
        equivalents: passes over the whole of it that compute as many positions.
        revealed_at: step at which each position was revealed, from 0; -1 where it never was.
        seconds: from its first forward pass to its last, shared with the other active rows.
        ended: ``complete`` (nothing is masked), ``eos`` (text and EOS stand, the rest was not decoded), ``stop``
            (a stop string stands, and all before it), or ``budget`` (the steps were spent first).
    """

    index: int
    text: str
    tokens: list[int]
    nfe: int
    positions: int
    full_passes: int
    equivalents: float
    revealed_at: list[int]
    seconds: float
    ended: Ending


@dataclass(frozen=True)
class Generation:
    """What decoding gives back, in the order of the prompts (n of them, region length l). Iterate for `Completion`s.

    Attributes:
        texts: as in `Completion`.
        tokens: (n, l) token ids of the region; a position left masked holds the mask id.
        nfe: (n,) forward passes spent while the row was active.
        positions: (n,) as in `Completion`.
        full_passes: (n,) as in `Completion`.
        equivalents: (n,) as in `Completion`.
        revealed_at: (n, l) step at which each position was revealed, from 0; -1 where it never was.
        seconds: of each row, as in `Completion`.
        ended: why each row ended, as in `Completion`.
        total_seconds: of the whole call.
        model_seconds: as in `unmask.decoding.session.Totals`.
        policy_seconds: as in `unmask.decoding.session.Totals`.
        passes: as in `unmask.decoding.session.Totals`.
        passes_run: as in `unmask.decoding.session.Totals`.
    """

    texts: list[str]
    tokens: Int[Tensor, "n l"]
    nfe: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    full_passes: Int[Tensor, " n"]
    equivalents: Float[Tensor, " n"]
    revealed_at: Int[Tensor, "n l"]
    seconds: list[float]
    ended: list[Ending]
    total_seconds: float
    model_seconds: float
    policy_seconds: float
    passes: int
    passes_run: int

    @property
    def complete(self) -> Bool[Tensor, " n"]:
        """False where the step budget was spent with masks left."""
        return torch.tensor([ending != "budget" for ending in self.ended], device=self.nfe.device)

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Completion]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Completion:
        return Completion(
            index=range(len(self))[index],
            text=self.texts[index],
            tokens=self.tokens[index].tolist(),
            nfe=int(self.nfe[index]),
            positions=int(self.positions[index]),
            full_passes=int(self.full_passes[index]),
            equivalents=float(self.equivalents[index]),
            revealed_at=self.revealed_at[index].tolist(),
            seconds=self.seconds[index],
            ended=self.ended[index],
        )


@dataclass(frozen=True)
class Ended:
    """Rows that ended in the same step.

    Attributes:
        row: index among the prompts.
        why: codes of `unmask.decoding.step`.
        tokens: as in `Generation`.
        say: the text of a region.
        nfe: as in `Generation`.
        positions: as in `Generation`.
        full_passes: as in `Generation`.
        equivalents: as in `Generation`.
        revealed_at: as in `Generation`.
        seconds: as in `Generation`.
    """

    row: Int[Tensor, " r"]
    tokens: Int[Tensor, "r l"]
    say: Callable[[Sequence[int]], str]
    nfe: Int[Tensor, " r"]
    positions: Int[Tensor, " r"]
    full_passes: Int[Tensor, " r"]
    equivalents: Float[Tensor, " r"]
    revealed_at: Int[Tensor, "r l"]
    why: list[int]
    seconds: list[float]

    @cached_property
    def texts(self) -> list[str]:
        """As in `Generation`."""
        return [self.say(row) for row in self.tokens.tolist()]

    def completions(self) -> Iterator[Completion]:
        """One by one."""
        counts = (self.nfe, self.positions, self.full_passes, self.equivalents)
        rows = zip(*(values.tolist() for values in (self.row, self.tokens, *counts, self.revealed_at)), strict=True)
        told = zip(rows, self.texts, self.why, self.seconds, strict=True)
        for (index, tokens, nfe, positions, whole, equivalents, revealed_at), text, code, seconds in told:
            spent = (nfe, positions, whole, equivalents)
            yield Completion(index, text, tokens, *spent, revealed_at, seconds, ENDINGS[code - 1])


def in_order(batches: Sequence[Ended], **totals: Any) -> Generation:
    """All rows of a call, in the order of its prompts.

    Args:
        totals: the call's totals, by their names in `Generation`.
    """
    order = torch.cat([batch.row for batch in batches]).argsort()
    why = [code for batch in batches for code in batch.why]
    seconds = [s for batch in batches for s in batch.seconds]
    texts = [text for batch in batches for text in batch.texts]
    return Generation(
        texts=[texts[i] for i in order.tolist()],
        tokens=torch.cat([batch.tokens for batch in batches])[order],
        nfe=torch.cat([batch.nfe for batch in batches])[order],
        positions=torch.cat([batch.positions for batch in batches])[order],
        full_passes=torch.cat([batch.full_passes for batch in batches])[order],
        equivalents=torch.cat([batch.equivalents for batch in batches])[order],
        revealed_at=torch.cat([batch.revealed_at for batch in batches])[order],
        seconds=[seconds[i] for i in order.tolist()],
        ended=[ENDINGS[why[i] - 1] for i in order.tolist()],
        **totals,
    )
