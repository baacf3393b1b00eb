"""Requests as rows of the decode loop: what they ask for, checked."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from unmask.decoding.blocks import BlockLength
from unmask.decoding.options import DecodeConfig, Options, check_budget, decode_config, place_of, speeds_of
from unmask.decoding.source import check_prompt
from unmask.errors import UnmaskError, nearest
from unmask.integrations.server.engine import Event, Job, Kind
from unmask.integrations.server.protocol import Asked, ChatRequest, CompletionRequest, LiveRequest
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import LearnedPolicy, Policy
from unmask.policies.calibration import Calibration, choose

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

    def table(self, policy: LearnedPolicy, blocks: BlockLength = None) -> Calibration:
        """The policy's calibration that fits best.

        Args:
            blocks: that a request asks for.

        Raises:
            UnmaskError: the policy has none.
        """
        config = self.config if blocks is None else self.config.model_copy(update={"block_length": blocks})
        return choose(policy.calibrations, **place_of(config, self.model))[0]


@contextmanager
def _about(param: str, code: str | None = None) -> Iterator[None]:
    try:
        yield
    except RefusedError:
        raise
    except UnmaskError as e:
        raise RefusedError(str(e), param=param, code=code) from None


def read(served: Served, asked: Asked, most: int, tell: Callable[[int, Event], None]) -> tuple[list[Job], int]:
    """The rows of a request, and the tokens that each of its texts may have.

    Args:
        most: rows that the server holds.
        tell: called with a row's place and each event.

    Raises:
        RefusedError: it cannot be decoded.
    """
    if asked.model != served.name:
        raise RefusedError(
            f"The model {asked.model!r} does not exist: this server has {served.name!r}.",
            status=404,
            param="model",
            code="model_not_found",
        )
    if isinstance(asked, LiveRequest) and (asked.n or 1) > 1:
        raise RefusedError("The page shows one text: leave n out.", param="n")
    name = next(iter(served.policies)) if asked.policy is None else asked.policy
    if name not in served.policies:
        raise RefusedError(f"Unknown policy {name!r}: {nearest(name, served.policies)}", param="policy")
    policy, limit = served.policies[name], served.region if asked.region is None else asked.region
    speed = _speed(served, asked, policy, name)
    options, config = _options(served, asked, policy, limit)
    draws = options.sampling.draws
    if asked.chosen_logprobs and draws:
        raise RefusedError(
            "logprobs are those of the likeliest tokens, and temperature draws others: leave one of them out.",
            param="logprobs",
        )
    prompts, n = _prompts(served, asked, options.gen_length), asked.n or 1
    if len(prompts) * n > most:
        raise RefusedError(f"These are {len(prompts) * n} texts, and this server holds {most} at most: ask for fewer.")
    seed = asked.seed if asked.seed is not None else secrets.randbits(62) if draws else 0
    jobs = [
        Job(
            prompts[i // n],
            Kind(name, config),
            options,
            partial(tell, i),
            speed=speed,
            seed=seed,
            stream=i,
            stop=asked.stops,
            seconds=served.seconds,
            stands=bool(asked.stream),
            moments=isinstance(asked, LiveRequest),
            sure=asked.chosen_logprobs,
        )
        for i in range(len(prompts) * n)
    ]
    return jobs, limit


def _prompts(served: Served, asked: Asked, gen_length: int) -> list[Sequence[int]]:
    model, param = served.model, "messages" if isinstance(asked, ChatRequest) else "prompt"
    given: list[Any]
    if isinstance(asked, CompletionRequest):
        given = list(asked.prompts)
    else:
        assert isinstance(asked, ChatRequest | LiveRequest)
        talk = asked.messages if isinstance(asked, ChatRequest) else asked.prompt
        given = [talk if isinstance(talk, str) else [one.model_dump() for one in talk]]
    with _about(param):
        found: list[Sequence[int]] = [
            one if isinstance(one, list) and isinstance(one[0], int) else model.encode(one) for one in given
        ]
    for i, prompt in enumerate(found):
        name = f"Prompt {i}" if i else "The prompt"
        if served.max_prompt is not None and len(prompt) > served.max_prompt:
            raise RefusedError(
                f"{name} has {len(prompt)} tokens, and this server takes {served.max_prompt}: shorten it.",
                param=param,
                code="context_length_exceeded",
            )
        long = model.max_length is not None and len(prompt) + gen_length > model.max_length
        with _about(param, "context_length_exceeded" if long else None):
            check_prompt(model, prompt, gen_length, name)
    return found


def _speed(served: Served, asked: Asked, policy: Policy, name: str) -> float:
    param = "target_nfe" if asked.target_nfe is not None else "speed"
    if asked.speed is not None and asked.target_nfe is not None:
        raise RefusedError("Give one of speed and target_nfe.", param=param)
    with _about(param):
        wanted = asked.speed
        if asked.target_nfe is not None:
            if not policy.needs.speed or not isinstance(policy, LearnedPolicy):
                raise UnmaskError(f"The policy {name!r} has no speed to choose: leave target_nfe out.")
            wanted = served.table(policy, asked.block_length).for_nfe(asked.target_nfe)
        if wanted is None and name == next(iter(served.policies)):
            wanted = served.config.speed  # which the server was given for this one
        return (speeds_of(policy.needs, wanted, None, 1) or [0.0])[0]


def _options(served: Served, asked: Asked, policy: Policy, limit: int) -> tuple[Options, DecodeConfig]:
    """Of a region that holds `limit` tokens: a whole number of blocks, where a dLLM has none of its own."""
    names = ("temperature", "top_p", "block_length")
    changes = {name: value for name in names if (value := getattr(asked, name)) is not None}
    blocks = changes.get("block_length", served.config.block_length)
    whole = blocks if isinstance(blocks, int) and blocks > 0 and served.model.block_length is None else 1
    changes |= {"speed": None, "stop": (), "gen_length": -(-limit // whole) * whole}
    with _about("block_length" if asked.block_length is not None else "max_tokens"):
        config = decode_config(served.config, changes)
        options = config.resolve(served.model, policy=policy)
        check_budget(policy, options)
    if options.gen_length > served.max_tokens:
        filled = "" if options.gen_length == limit else f", in whole blocks {options.gen_length}"
        raise RefusedError(
            f"max_tokens is {limit}{filled}, and this server writes {served.max_tokens} at most: ask for fewer.",
            param="max_tokens",
        )
    return options, config
