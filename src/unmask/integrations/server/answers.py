"""What comes of a request's rows as an answer in OpenAI's form, whole or as it stands."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from unmask.decoding.results import Completion
from unmask.decoding.trajectory import words_of
from unmask.errors import UnmaskError
from unmask.integrations.server.engine import Engine, Event, Job, Moment
from unmask.integrations.server.protocol import Asked, ChatRequest, CompletionRequest
from unmask.integrations.server.reading import Served, read
from unmask.models.base import MaskedDiffusionModel

Chunk = dict[str, Any]


@dataclass
class _Row:
    """One choice of an answer.

    Attributes:
        sent: of its text.
        done: what came of it, as are the others; `tokens` are those of its text.
    """

    job: Job
    sent: str = ""
    done: Completion | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ending: str = "length"


class Answer:
    """The rows of a request, from being asked to being answered.

    Raises:
        RefusedError: a request that cannot be decoded.
    """

    def __init__(self, served: Served, engine: Engine, asked: Asked) -> None:
        self.served, self.engine, self.asked = served, engine, asked
        self.id = f"{'chatcmpl' if isinstance(asked, ChatRequest) else 'cmpl'}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        jobs, self._limit = read(served, asked, engine.rows + engine.queue, self._tell)
        self.rows = [_Row(job) for job in jobs]

    def _tell(self, i: int, event: Event) -> None:
        self._events.put_nowait((i, event))

    def submit(self) -> None:
        """Let the rows join.

        Raises:
            BusyError: too many wait.
        """
        self.engine.submit([row.job for row in self.rows])

    def cancel(self) -> None:
        """Give up what is not done."""
        left = [row.job for row in self.rows if row.done is None]
        if left:
            self.engine.cancel(left)

    async def events(self) -> AsyncIterator[tuple[int, _Row, Event]]:
        """What comes of the rows, until all of them are done.

        Raises:
            UnmaskError: a row failed.
        """
        left = len(self.rows)
        while left:
            i, event = await self._events.get()
            row = self.rows[i]
            if isinstance(event, UnmaskError):
                raise event
            if isinstance(event, Completion):
                self.finish(row, event)
                left -= 1
            yield i, row, event

    async def whole(self) -> Chunk:
        """The answer in one piece."""
        async for _ in self.events():
            pass
        choices = [self._choice(i, row, await self._logprobs(row)) for i, row in enumerate(self.rows)]
        return self._head(chunk=False) | {"choices": choices, "usage": self.usage()}

    async def stream(self) -> AsyncIterator[Chunk]:
        """The answer as it stands: nothing that was sent is taken back."""
        chat, told = isinstance(self.asked, ChatRequest), self.asked.stream_options
        with_usage = told is not None and told.include_usage
        nothing = {"usage": None} if with_usage else {}
        if chat:
            for i in range(len(self.rows)):
                delta = {"role": "assistant", "content": ""}
                yield self._head(chunk=True) | {"choices": [_streamed(i, delta=delta)]} | nothing
        async for i, row, event in self.events():
            done = isinstance(event, Completion)
            fresh = self.fresh(row, event) if isinstance(event, list) else row.text[len(row.sent) :]
            if not fresh and not done:
                continue
            end = row.ending if done else None
            logprobs = await self._logprobs(row) if done else None
            told_text = {"delta": {"content": fresh} if fresh else {}} if chat else {"text": fresh}
            choice = _streamed(i, end=end, logprobs=logprobs, **told_text)
            yield self._head(chunk=True) | {"choices": [choice]} | nothing
        if with_usage:
            yield self._head(chunk=True) | {"choices": [], "usage": self.usage()}

    async def live(self) -> AsyncIterator[Chunk]:
        """Each step of the first row, for a page: its words, those that are new, and what came out."""
        model = self.served.model
        async for _, row, event in self.events():
            if isinstance(event, Moment):
                words = await asyncio.to_thread(_words, model, event.tokens)
                yield {"step": event.step, "words": words, "fresh": event.fresh}
            elif isinstance(event, Completion):
                told = {"text": row.text, "tokens": len(row.tokens), "nfe": event.nfe}
                yield told | {"ended": event.ended, "seconds": event.seconds}

    def usage(self) -> Chunk:
        """Tokens and forward passes of all choices."""
        # Choices of one prompt share it.
        prompt = sum(len(row.job.prompt) for row in self.rows) // (self.asked.n or 1)
        written = sum(len(row.tokens) for row in self.rows)
        nfe = sum(row.done.nfe for row in self.rows if row.done is not None)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "nfe": nfe,
            "tokens_per_pass": round(written / nfe, 3) if nfe else None,
        }

    def _head(self, *, chunk: bool) -> Chunk:
        kind = "text_completion"
        if isinstance(self.asked, ChatRequest):
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.served.name}

    def _choice(self, i: int, row: _Row, logprobs: Chunk | None) -> Chunk:
        ends = {"finish_reason": row.ending, "logprobs": logprobs}
        if isinstance(self.asked, ChatRequest):
            return {"index": i, "message": {"role": "assistant", "content": row.text, "refusal": None}, **ends}
        return {"index": i, "text": row.text, **ends}

    def finish(self, row: _Row, done: Completion) -> None:
        """Its text, why it ended, and its tokens: up to the EOS, the limit and the end of a stop string."""
        ends, tokens = set(self.served.model.eos_ids.tolist()), done.tokens[: self._limit]
        said = self._said(row, tokens)
        stopped = self._stopped(row, said)
        if not row.job.options.text_after_eos:
            tokens = tokens[: next((i for i, token in enumerate(tokens) if token in ends), None)]
        if stopped:  # the fewest tokens whose text holds it
            n = bisect_left(range(len(tokens)), True, key=lambda n: self._stopped(row, self._said(row, tokens[:n])))
            tokens = tokens[:n]
        row.done, row.tokens, row.text = done, tokens, _cut(said, row.job.stop)
        full = len(tokens) == self._limit or done.ended == "budget"
        row.ending = "length" if full and not stopped else "stop"

    def _said(self, row: _Row, tokens: Sequence[int]) -> str:
        """The text of these tokens, beyond a stop string, too."""
        return replace(row.job.options, stop=()).text(self.served.model, tokens)

    def _stopped(self, row: _Row, text: str) -> bool:
        return any(stop in text for stop in row.job.stop)

    def fresh(self, row: _Row, standing: Sequence[int]) -> str:
        """Text that may be sent of a row that goes on: what stands, but for what may begin a stop string, or half a
        character. It counts as sent."""
        text = _cut(self._said(row, standing[: self._limit]), row.job.stop).rstrip("\ufffd")
        text = text[: len(text) - max((_overlap(text, stop) for stop in row.job.stop), default=0)]
        if not text.startswith(row.sent):
            return ""
        fresh, row.sent = text[len(row.sent) :], text
        return fresh

    async def _logprobs(self, row: _Row) -> Chunk | None:
        if not self.asked.chosen_logprobs:
            return None
        model, hidden = self.served.model, row.job.options.judge_unfinished  # masks of a budget that was spent
        shown = [(i, token) for i, token in enumerate(row.tokens) if not (hidden and token == model.mask_id)]
        every = await asyncio.to_thread(words_of, model, [token for _, token in shown])  # quadratic in their number
        starts = [0, *accumulate(len(word) for word in every)]
        kept = [n for n, (_, token) in enumerate(shown) if starts[n] < len(row.text) and token != model.mask_id]
        words = [every[n] for n in kept]
        values = [math.log(max(row.job.confidences.get(shown[n][0], 0.0), 1e-30)) for n in kept]
        if isinstance(self.asked, ChatRequest):
            top = bool(self.asked.top_logprobs)
            each = [
                {"token": word, "logprob": value, "bytes": list(word.encode())}
                for word, value in zip(words, values, strict=True)
            ]
            return {"content": [one | {"top_logprobs": [one] if top else []} for one in each], "refusal": None}
        assert isinstance(self.asked, CompletionRequest)
        best = [{word: value} for word, value in zip(words, values, strict=True)] if self.asked.logprobs else None
        return {
            "tokens": words,
            "token_logprobs": values,
            "top_logprobs": best,
            "text_offset": [starts[n] for n in kept],
        }


def _streamed(i: int, *, end: str | None = None, logprobs: Chunk | None = None, **content: Any) -> Chunk:
    return {"index": i, **content, "logprobs": logprobs, "finish_reason": end}


def _cut(text: str, stops: Sequence[str]) -> str:
    """A text up to its earliest stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop string begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _words(model: MaskedDiffusionModel, tokens: Sequence[int]) -> list[str | None]:
    """What each position adds to the text, None of a mask, empty at and behind a text's end."""
    ends = set(model.eos_ids.tolist())
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    known = words_of(model, tokens[:length]) + [""] * (len(tokens) - length)
    return [None if token == model.mask_id else word for token, word in zip(tokens, known, strict=True)]
