"""`unmask.generate`: prompts in, texts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig, check_policy_fits, decode_config
from unmask.decoding.results import Generation
from unmask.decoding.state import StepCallback
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.base import Policy

Ids = Sequence[int] | Tensor | np.ndarray
Prompt = str | Sequence[Message] | Ids


def generate(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Prompt] | Tensor | np.ndarray | str,
    config: DecodeConfig | None = None,
    *,
    speed: float | Sequence[float] | Tensor | np.ndarray | None = None,
    seed: int = 0,
    callback: StepCallback | None = None,
    **options: Any,
) -> Generation:
    """Complete prompts with a dLLM, revealing positions as the policy says.

    Args:
        model: from `unmask.load_model`.
        policy: from `unmask.load_policy`, or any `unmask.policies.Policy`.
        prompts: of any lengths, each a text, the messages of a chat (``[{"role": "user", "content": ...}]``, put
            through the tokenizer's chat template), or token ids.
        config: how to decode; by default policies see the plain softmax at any token temperature.
        speed: from 0 (slow, careful) to 1 (fast), of all prompts or of each, for a policy with a speed
            (`policy.speed_for` finds the one for a number of forward passes); by default the config's, or else 0.
        seed: of tokens drawn and of policies that draw; row i of a call draws from its own streams.
        callback: called with each `Step`.
        options: fields of `DecodeConfig`, such as ``gen_length=256, block_length=32``; they override `config`.

    Returns:
        The completions, in the order of the prompts: ``out.texts``, ``out.nfe``.

    Raises:
        UnmaskError: no prompt, a prompt too long for the dLLM, a block length that does not divide the region, an
            unknown option, a speed for a policy that has none.
    """
    check_policy_fits(model, policy)  # before the tokenizer is asked
    if not isinstance(prompts, Sequence | Tensor | np.ndarray):
        raise UnmaskError(f"The prompts are a {type(prompts).__name__}: give a text, or a list of prompts.")
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    tokens = [tokens_of(model, prompt, f"Prompt {i}") for i, prompt in enumerate(given)]
    speed = speed.tolist() if isinstance(speed, Tensor | np.ndarray) else speed
    each = list(speed) if isinstance(speed, Sequence) else None
    if each is None and speed is not None:
        options["speed"] = speed
    return decode(model, policy, tokens, decode_config(config, options), speeds=each, seed=seed, callback=callback)


def tokens_of(model: MaskedDiffusionModel, prompt: Prompt, name: str) -> Sequence[int]:
    """Token ids of a text, of the messages of a chat, or of token ids.

    Args:
        name: of the prompt, for messages.

    Raises:
        UnmaskError: it is none of them; the tokenizer does not take it.
    """
    if isinstance(prompt, str):
        return model.encode(prompt)
    if isinstance(prompt, Mapping):
        raise UnmaskError(f"{name} is one message of a chat: put each chat into a list of its own, as in [chat].")
    if isinstance(prompt, Tensor | np.ndarray) and prompt.ndim:
        return list(prompt.tolist())
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
        raise UnmaskError(
            f"{name} is {prompt!r}: give a text, the messages of a chat, or a list of token ids; one list of ids "
            "is one prompt, as in [ids]."
        )
    # A list of messages is a chat, one of numbers is tokens; an empty one is refused with the other empty prompts.
    if len(prompt) and isinstance(prompt[0], Mapping):
        return model.encode(cast(Sequence[Message], prompt))
    return cast(Sequence[int], prompt)
