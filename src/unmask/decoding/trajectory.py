"""How a prompt was decoded, position by position: what a viewer draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.decoding.results import Completion
from unmask.decoding.state import Step
from unmask.models.base import MaskedDiffusionModel


@dataclass(frozen=True)
class Trajectory:
    """One prompt's decoding. Of a token that was revised, the word is the last one, and the step the first.

    Attributes:
        words: what each of the region's l tokens adds to the text, its leading space included: joined, those before
            the first EOS are the text. ``""`` where it is still masked, at an EOS or another special token, and at all
            tokens of a character but the last. Behind the first EOS: what was revealed there and dropped.
        end: the position is an EOS, or behind the first one.
        revealed_at: step of each position, from 0; -1 where it never was revealed.
        confidence: the dLLM's probability of its likeliest token, when the position was revealed or last revised; 0
            where it never was, and at an EOS that `suppress_eos` held back and the policy revealed all the same.
        nfe: forward passes.
        text: up to the first EOS.
        ended: as in `Completion`.
    """

    prompt: str
    words: list[str]
    end: list[bool]
    revealed_at: list[int]
    confidence: list[float]
    nfe: int
    text: str
    ended: str


class Recorder:
    """A callback of one call of the decode loop that keeps what was revealed, and how sure the dLLM was of it.

    What it keeps stays on the dLLM's device until a trajectory is asked for: no step waits for it.

    Args:
        rows: places among the prompts; nothing is kept of the others.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self._places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
        self._place_of: Tensor | None = None  # row -> place; all rows not asked for share the last
        self._confidence: Tensor | None = None
        self._written: Tensor | None = None

    def __call__(self, step: Step) -> None:
        if not self._places:
            return
        if self._confidence is None or self._written is None or self._place_of is None:
            shape = (len(self._places) + 1, step.before.gen_length)
            self._confidence = step.observation.confidence.new_zeros(shape, dtype=torch.float32)
            self._written = step.written.new_zeros(shape)
            place_of = torch.full((max(self._places) + 2,), len(self._places))
            place_of[list(self._places)] = torch.arange(len(self._places))
            self._place_of = place_of.to(step.before.row.device)
        place = self._place_of[step.before.row.clamp(max=len(self._place_of) - 1)]
        for kept, now in ((self._confidence, step.observation.confidence[..., 0]), (self._written, step.written)):
            kept[place] = torch.where(step.changed, now.to(kept.dtype), kept[place])

    def has(self, row: int) -> bool:
        """The row was asked for."""
        return row in self._places

    def trajectory(self, model: MaskedDiffusionModel, prompt: str, done: Completion) -> Trajectory:
        """The trajectory of a row that was asked for, once it has ended."""
        assert self._confidence is not None  # a row that has ended was live for a step
        assert self._written is not None
        place = self._places[done.index]
        revealed = [step >= 0 for step in done.revealed_at]
        written, confidence = self._written[place].tolist(), self._confidence[place].tolist()
        ends = set(model.eos_ids.tolist())
        length = next((i for i, token in enumerate(done.tokens) if token in ends), len(done.tokens))
        tokens = [now if known else last for now, last, known in zip(written, done.tokens, revealed, strict=True)]
        words = [*words_of(model, tokens[:length]), *words_of(model, tokens[length:])]
        return Trajectory(
            prompt=prompt,
            words=[word if known else "" for word, known in zip(words, revealed, strict=True)],
            end=[i >= length for i in range(len(tokens))],
            revealed_at=done.revealed_at,
            # Four digits, not four places: at a large vocabulary's likeliest token these can be 0.
            confidence=[
                float(f"{sure:.4g}") if known else 0.0 for sure, known in zip(confidence, revealed, strict=True)
            ],
            nfe=done.nfe,
            text=done.text,
            ended=done.ended,
        )


def words_of(model: MaskedDiffusionModel, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text of all of them (`MaskedDiffusionModel.text`, without its end at the first EOS).

    A token decoded by itself may lose its leading space or hold only part of a character. So every beginning of the
    tokens is decoded: a token adds what its beginning has in common with the text, beyond what the last one had. A
    character of several tokens is thereby added by the last of them.
    """
    skip = {*model.tokenizer.all_special_ids, *model.eos_ids.tolist()} - {model.mask_id}
    shown = [token for token in tokens if token not in skip]
    text = str(model.tokenizer.decode(shown)) if shown else ""
    words, seen, known = [], 0, 0
    for token in tokens:
        if token in skip:
            words.append("")
            continue
        seen += 1
        reach = max(known, _shared(str(model.tokenizer.decode(shown[:seen])), text))
        words.append(text[known:reach])
        known = reach
    return words


def _shared(a: str, b: str) -> int:
    """Characters that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
