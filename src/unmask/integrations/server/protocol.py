"""OpenAI's completions and chat completions as they come in: what is read, what is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, ConfigDict, field_validator

from unmask.decoding.blocks import BlockLength

Stop = Annotated[str, MinLen(1)]
Ids = Annotated[list[Annotated[int, Ge(0)]], MinLen(1)]
MOST_CHOICES, MOST_STOPS = 16, 16
LONGEST = 1000  # characters of a block length


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(BaseModel):
    """What both endpoints read; `speed`, `target_nfe`, `block_length` and `policy` go beyond OpenAI's.

    Attributes:
        neutral: values of parameters that are not supported which ask for nothing.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "frequency_penalty": (0, None),
        "presence_penalty": (0, None),
        "logit_bias": ({}, None),
    }

    model: str
    max_tokens: Annotated[int, Ge(1), Le(2**20)] | None = None
    temperature: Annotated[float, Ge(0), Le(2)] | None = None
    top_p: Annotated[float, Gt(0), Le(1)] | None = None
    n: Annotated[int, Ge(1), Le(MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], MaxLen(MOST_STOPS)] | None = None
    seed: Annotated[int, Ge(-(2**63)), Le(2**63 - 1)] | None = None
    user: str | None = None
    speed: Annotated[float, Ge(0), Le(1)] | None = None
    target_nfe: Annotated[float, Gt(0)] | None = None
    block_length: BlockLength = None
    policy: str | None = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None

    @field_validator("block_length", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str) and len(value) > LONGEST:
            raise ValueError(f"has {len(value)} characters, and {LONGEST} are enough")
        return value

    @field_validator("*")
    @classmethod
    def _supported(cls, value: Any, info: Any) -> Any:
        neutral = cls.neutral.get(info.field_name)
        if neutral is not None and not any(value is known or value == known for known in neutral):
            raise ValueError("is not supported by this server: leave it out")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def region(self) -> int | None:
        """Tokens to write at most."""
        return self.max_tokens

    @property
    def chosen_logprobs(self) -> bool:
        """Whether log-probabilities are asked for."""
        return False


class CompletionRequest(Asked):
    """Body of ``/v1/completions``."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        **Asked.neutral,
        "best_of": (None, 1),
        "echo": (None, False),
        "suffix": (None, ""),
    }
    prompt: str | Ids | Annotated[list[str | Ids], MinLen(1), MaxLen(256)]
    logprobs: Annotated[int, Ge(0), Le(1)] | None = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One after the other."""
        given: Any = self.prompt
        return given if isinstance(given, list) and not isinstance(given[0], int) else [given]

    @property
    def chosen_logprobs(self) -> bool:
        return self.logprobs is not None


class ChatMessage(BaseModel):
    """One message; templates may know more fields than these."""

    model_config = ConfigDict(extra="allow")
    role: Annotated[str, MinLen(1)]
    content: str | list[dict[str, Any]]


class ChatRequest(Asked):
    """Body of ``/v1/chat/completions``."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        **Asked.neutral,
        "tools": (None, []),
        "tool_choice": (None, "none", "auto"),
        "parallel_tool_calls": (None, True, False),
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "response_format": (None, {"type": "text"}),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "reasoning_effort": (None,),
        "verbosity": (None,),
        "web_search_options": (None,),
    }
    messages: Annotated[list[ChatMessage], MinLen(1)]
    max_completion_tokens: Annotated[int, Ge(1), Le(2**20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Ge(0), Le(1)] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    @property
    def region(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def chosen_logprobs(self) -> bool:
        return bool(self.logprobs)


class LiveRequest(Asked):
    """Body of ``/live``, which the page at ``/`` reads: one prompt, step by step."""

    prompt: str | Annotated[list[ChatMessage], MinLen(1)]
