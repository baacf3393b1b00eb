"""Requests as rows of the decode loop, and what comes of them as answers in OpenAI's form."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Any

from unmask.decoding.options import DecodeConfig, Options, check_budget, decode_config, speeds_of
from unmask.decoding.results import Completion
from unmask.decoding.source import check_prompt
from unmask.decoding.trajectory import words_of
from unmask.errors import UnmaskError, nearest
from unmask.integrations.server.engine import Engine, Event, Job, Kind, Moment
from unmask.integrations.server.protocol import Asked, ChatRequest, CompletionRequest, LiveRequest
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import LearnedPolicy, Policy

Chunk = dict[str, Any]
MOST_TOKENS = 4096


class RefusedError(UnmaskError):
    """A request that cannot be answered, in OpenAI's words.

    Attributes:
        status: of HTTP.
        param: that is wrong, if one is.
        code: OpenAI's, if it has one.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True)
class Served:
    """What is served, and how where a request does not say.

    Attributes:
        name: of the dLLM, to clients.
        policies: by the names that clients call them; the first is the default.
        config: with the speed of the default policy.
        max_prompt: tokens of a prompt at most; None for what the dLLM has room for.
        max_tokens: tokens of a text at most.
        seconds: that a request may take, waiting included.
        created: when the server began, in seconds since 1970.
    """

    name: str
    model: MaskedDiffusionModel
    policies: Mapping[str, Policy]
    config: DecodeConfig
    max_prompt: int | None = None
    max_tokens: int = MOST_TOKENS
    seconds: float | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def region(self) -> int:
        """Tokens that are written where a request does not say how many."""
        return self.config.region(model=self.model)


@contextmanager
def _about(param: str, code: str | None = None) -> Iterator[None]:
    try:
        yield
    except RefusedError:
        raise
    except UnmaskError as e:
        raise RefusedError(str(e), param=param, code=code) from None


@dataclass
class _Row:
    """One choice of an answer, while it is made.

    Attributes:
        limit: tokens of its text at most.
        sent: of its text.
    """

    job: Job
    limit: int
    sent: str = ""
    done: Completion | None = None


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
        self.rows = self._rows()

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
                row.done, left = event, left - 1
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
            fresh = self._fresh(row, event if isinstance(event, list) else None)
            if not fresh and not done:
                continue
            end = self._ending(row) if done else None
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
                usage = self.usage()
                yield {"text": self._text(row), "nfe": event.nfe, "ended": event.ended, "seconds": event.seconds} | {
                    "tokens": usage["completion_tokens"]
                }

    def usage(self) -> Chunk:
        """Tokens and forward passes of all choices."""
        # Choices of one prompt share it.
        prompt = sum(len(row.job.prompt) for row in self.rows) // (self.asked.n or 1)
        written = sum(len(self._tokens(row)) for row in self.rows)
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
        text, end = self._text(row), self._ending(row)
        if isinstance(self.asked, ChatRequest):
            message = {"role": "assistant", "content": text, "refusal": None}
            return {"index": i, "message": message, "finish_reason": end, "logprobs": logprobs}
        return {"index": i, "text": text, "finish_reason": end, "logprobs": logprobs}

    def _tokens(self, row: _Row) -> list[int]:
        """What was written, up to its EOS, its limit and the end of its stop string."""
        assert row.done is not None
        model, tokens = self.served.model, row.done.tokens[: row.limit]
        ends = set(model.eos_ids.tolist())
        if not row.job.options.text_after_eos:
            tokens = tokens[: next((i for i, token in enumerate(tokens) if token in ends), None)]
        if row.done.ended == "stop":  # the fewest tokens whose text holds it
            n = bisect_left(range(len(tokens)), True, key=lambda n: self._stopped(row, self._said(row, tokens[:n])))
            tokens = tokens[:n]
        return tokens

    def _said(self, row: _Row, tokens: Sequence[int]) -> str:
        """The text of these tokens, beyond a stop string, too."""
        return replace(row.job.options, stop=()).text(self.served.model, tokens)

    def _stopped(self, row: _Row, text: str) -> bool:
        return any(stop in text for stop in row.job.stop)

    def _text(self, row: _Row) -> str:
        assert row.done is not None
        options = replace(row.job.options, stop=row.job.stop)
        return options.text(self.served.model, row.done.tokens[: row.limit])

    def _ending(self, row: _Row) -> str:
        assert row.done is not None
        if self._stopped(row, self._said(row, row.done.tokens[: row.limit])):
            return "stop"
        return "length" if len(self._tokens(row)) == row.limit or row.done.ended == "budget" else "stop"

    def _fresh(self, row: _Row, standing: Sequence[int] | None) -> str:
        """Text that may be sent now: what stands, but for what may begin a stop string, or half a character."""
        if standing is None:
            text = self._text(row) if row.done is not None else row.sent
        else:
            text = self._said(row, standing[: row.limit])
            cut = [text.find(stop) for stop in row.job.stop if stop in text]
            text = text[: min(cut, default=len(text))].rstrip("\ufffd")
            held = max((_overlap(text, stop) for stop in row.job.stop), default=0)
            text = text[: len(text) - held]
        if not text.startswith(row.sent):
            return ""
        fresh, row.sent = text[len(row.sent) :], text if len(text) > len(row.sent) else row.sent
        return fresh

    async def _logprobs(self, row: _Row) -> Chunk | None:
        if not self.asked.chosen_logprobs:
            return None
        model, hidden = self.served.model, row.job.options.judge_unfinished  # masks of a budget that was spent
        shown = [(i, token) for i, token in enumerate(self._tokens(row)) if not (hidden and token == model.mask_id)]
        told = self._text(row)
        every = await asyncio.to_thread(words_of, model, [token for _, token in shown])  # quadratic in their number
        starts = [0, *accumulate(len(word) for word in every)]
        kept = [n for n, (_, token) in enumerate(shown) if starts[n] < len(told) and token != model.mask_id]
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

    def _rows(self) -> list[_Row]:
        served, asked = self.served, self.asked
        if asked.model != served.name:
            raise RefusedError(
                f"The model {asked.model!r} does not exist: this server has {served.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )
        if isinstance(asked, LiveRequest) and (asked.n or 1) > 1:
            raise RefusedError("The page shows one text: leave n out.", param="n")
        policy_name = next(iter(served.policies)) if asked.policy is None else asked.policy
        if policy_name not in served.policies:
            raise RefusedError(
                f"Unknown policy {policy_name!r}: {nearest(policy_name, served.policies)}", param="policy"
            )
        policy = served.policies[policy_name]
        limit = asked.region if asked.region is not None else served.region
        speed = self._speed(policy, policy_name)
        options, config = self._options(policy, limit)
        if options.gen_length > served.max_tokens:
            filled = "" if options.gen_length == limit else f", in whole blocks {options.gen_length}"
            raise RefusedError(
                f"max_tokens is {limit}{filled}, and this server writes {served.max_tokens} at most: ask for fewer.",
                param="max_tokens",
            )
        draws = options.sampling.draws
        if asked.chosen_logprobs and draws:
            raise RefusedError(
                "logprobs are those of the likeliest tokens, and temperature draws others: leave one of them out.",
                param="logprobs",
            )
        seed = asked.seed if asked.seed is not None else secrets.randbits(62) if draws else 0
        rows: list[_Row] = []
        for i, prompt in enumerate(self._prompts()):
            name = "The prompt" if len(rows) == 0 else f"Prompt {i}"
            self._check_prompt(prompt, options.gen_length, name)
            for choice in range(asked.n or 1):
                job = Job(
                    prompt,
                    Kind(policy_name, config),
                    options,
                    partial(self._tell, len(rows)),
                    speed=speed,
                    seed=seed,
                    stream=i * (asked.n or 1) + choice,
                    stop=asked.stops,
                    seconds=served.seconds,
                    stands=bool(asked.stream),
                    moments=isinstance(asked, LiveRequest),
                    sure=asked.chosen_logprobs,
                )
                rows.append(_Row(job, limit))
        if len(rows) > self.engine.rows + self.engine.queue:
            most = self.engine.rows + self.engine.queue
            raise RefusedError(f"These are {len(rows)} texts, and this server holds {most} at most: ask for fewer.")
        return rows

    def _tell(self, i: int, event: Event) -> None:
        self._events.put_nowait((i, event))

    def _prompts(self) -> list[Sequence[int]]:
        model, asked = self.served.model, self.asked
        given: list[Any]
        if isinstance(asked, CompletionRequest):
            given = list(asked.prompts)
        else:
            assert isinstance(asked, ChatRequest | LiveRequest)
            talk = asked.messages if isinstance(asked, ChatRequest) else asked.prompt
            given = [talk if isinstance(talk, str) else [one.model_dump() for one in talk]]
        with _about("messages" if isinstance(asked, ChatRequest) else "prompt"):
            return [one if isinstance(one, list) and isinstance(one[0], int) else model.encode(one) for one in given]

    def _check_prompt(self, prompt: Sequence[int], gen_length: int, name: str) -> None:
        most, param = self.served.max_prompt, "messages" if isinstance(self.asked, ChatRequest) else "prompt"
        if most is not None and len(prompt) > most:
            raise RefusedError(
                f"{name} has {len(prompt)} tokens, and this server takes {most}: shorten it.",
                param=param,
                code="context_length_exceeded",
            )
        room = self.served.model.max_length
        long = room is not None and len(prompt) + gen_length > room
        with _about(param, "context_length_exceeded" if long else None):
            check_prompt(self.served.model, prompt, gen_length, name)

    def _speed(self, policy: Policy, name: str) -> float:
        asked = self.asked
        param = "target_nfe" if asked.target_nfe is not None else "speed"
        if asked.speed is not None and asked.target_nfe is not None:
            raise RefusedError("Give one of speed and target_nfe.", param=param)
        with _about(param):
            wanted = asked.speed
            if asked.target_nfe is not None:
                if not policy.needs.speed or not isinstance(policy, LearnedPolicy):
                    raise UnmaskError(f"The policy {name!r} has no speed to choose: leave target_nfe out.")
                wanted = policy.speed_for(target_nfe=asked.target_nfe)
            speeds = speeds_of(policy.needs, wanted, None, 1)
        if speeds is None or wanted is not None:
            return speeds[0] if speeds else 0.0
        usual = policy is next(iter(self.served.policies.values()))  # whose speed the server was given
        return (self.served.config.speed or 0.0) if usual else 0.0

    def _options(self, policy: Policy, limit: int) -> tuple[Options, DecodeConfig]:
        """Of a region that holds `limit` tokens: a whole number of blocks, where a dLLM has none of its own."""
        asked, model = self.asked, self.served.model
        names = ("temperature", "top_p", "block_length")
        changes = {name: value for name in names if (value := getattr(asked, name)) is not None}
        blocks = changes.get("block_length", self.served.config.block_length)
        whole = blocks if isinstance(blocks, int) and blocks > 0 and model.block_length is None else 1
        changes |= {"speed": None, "stop": (), "gen_length": -(-limit // whole) * whole}
        with _about("block_length" if asked.block_length is not None else "max_tokens"):
            config = decode_config(self.served.config, changes)
            options = config.resolve(model, policy=policy)
            check_budget(policy, options)
        return options, config


def _streamed(i: int, *, end: str | None = None, logprobs: Chunk | None = None, **content: Any) -> Chunk:
    return {"index": i, **content, "logprobs": logprobs, "finish_reason": end}


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop string begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _words(model: MaskedDiffusionModel, tokens: Sequence[int]) -> list[str | None]:
    """What each position adds to the text, None of a mask, empty at and behind a text's end."""
    ends = set(model.eos_ids.tolist())
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    known = words_of(model, tokens[:length]) + [""] * (len(tokens) - length)
    return [None if token == model.mask_id else word for token, word in zip(tokens, known, strict=True)]
