"""What decoding gives back: rows as they end, and all of them in the order of the prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unmask.models.base import MaskedDiffusionModel

Ending = Literal["complete", "eos", "budget"]
ENDINGS: tuple[Ending, ...] = ("complete", "eos", "budget")  # in the order of `unmask.decoding.step`


@dataclass(frozen=True)
class Completion:
    """One finished prompt.

    Attributes:
        index: its place among the prompts.
        text: up to the first EOS, special tokens left out.
        tokens: token ids of the region; a position left masked holds the mask id.
        nfe: forward passes spent while it was live.
        revealed_at: step at which each position was revealed, from 0; -1 where it never was.
        seconds: from its first forward pass to its last, shared with the rows beside it.
        ended: ``complete`` (nothing is masked), ``eos`` (text and EOS stand, the rest was not decoded), or ``budget``
            (the steps were spent first).
    """

    index: int
    text: str
    tokens: list[int]
    nfe: int
    revealed_at: list[int]
    seconds: float
    ended: Ending


@dataclass(frozen=True)
class Decoded:
    """What `decode` gives back, one entry a prompt, in the order of the prompts (n of them, region length l).

    Attributes:
        tokens: (n, l) token ids of the region; a position left masked holds the mask id.
        nfe: (n,) forward passes spent while the row was live.
        revealed_at: (n, l) step at which each position was revealed, from 0; -1 where it never was.
        seconds: of each row, as in `Completion`.
        ended: why each row ended, as in `Completion`.
        total_seconds: of the whole call, of which `model_seconds` in the dLLM and `policy_seconds` in the policy (on an
            accelerator, work still queued counts for who waits for it).
        model_rows: NFE of all rows together; rows that share a pass count each.
        model_rows_run: rows that the dLLM really ran; a pass that rows share counts once.
    """

    tokens: Tensor
    nfe: Tensor
    revealed_at: Tensor
    seconds: list[float]
    ended: list[Ending]
    total_seconds: float
    model_seconds: float
    policy_seconds: float
    model_rows: int
    model_rows_run: int

    @property
    def complete(self) -> Tensor:
        """(n,) False where the step budget was spent with masks left."""
        return torch.tensor([ending != "budget" for ending in self.ended], device=self.nfe.device)


@dataclass(frozen=True)
class Generation(Decoded):
    """`Decoded`, with the texts: up to the first EOS, special tokens left out. Indexing gives a `Completion`."""

    texts: list[str]

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
            revealed_at=self.revealed_at[index].tolist(),
            seconds=self.seconds[index],
            ended=self.ended[index],
        )


@dataclass(frozen=True)
class Ended:
    """Rows that ended in the same step."""

    row: Tensor
    tokens: Tensor
    nfe: Tensor
    revealed_at: Tensor
    why: Tensor
    seconds: list[float]

    def completions(self, model: MaskedDiffusionModel) -> Iterator[Completion]:
        rows = zip(self.row.tolist(), self.tokens.tolist(), self.nfe.tolist(), self.revealed_at.tolist(), strict=True)
        for (index, tokens, nfe, revealed_at), code, seconds in zip(rows, self.why.tolist(), self.seconds, strict=True):
            yield Completion(index, model.text(tokens), tokens, nfe, revealed_at, seconds, ENDINGS[code - 1])
