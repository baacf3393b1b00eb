"""The prompts of a call: checked before anything is spent, then given out as rows of the batch become free."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import SupportsIndex

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.tasks.base import Example


def encode_example(model: MaskedDiffusionModel, example: Example) -> list[int]:
    """Token ids of a task's prompt: through the chat template if both the task and the dLLM have a use for one."""
    chat = example.chat and model.has_chat_template
    return model.encode([{"role": "user", "content": example.prompt}] if chat else example.prompt, example.prefix)


class Source:
    """The prompts that wait, longest first and copies together: active rows need little padding and share passes.

    Rows draw from streams of their own, so the order changes no result.

    Args:
        streams: random stream of each prompt under the seed.
        speeds: of each prompt.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        seed: int,
        streams: Sequence[int],
        speeds: Sequence[float] | None = None,
    ) -> None:
        self._prompts, self._seed, self._streams, self._speeds = prompts, seed, streams, speeds
        first = {tuple(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}
        self.repeats = len(first) < len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), first[tuple(prompts[i])]))
        self._queue = iter(order)

    def next(self, n: int) -> tuple[list[Sequence[int]], list[int], Int[Tensor, " n"], list[float] | None]:
        """At most n prompts, as `Session.add` takes them."""
        rows = list(islice(self._queue, n))
        streams = torch.tensor([self._streams[row] for row in rows], dtype=torch.long)
        speeds = None if self._speeds is None else [self._speeds[row] for row in rows]
        return [self._prompts[row] for row in rows], rows, row_keys(self._seed, streams), speeds


def check_prompts(model: MaskedDiffusionModel, prompts: Sequence[Sequence[int]], gen_length: int) -> None:
    """Refuse what cannot be decoded, before anything is spent.

    Raises:
        UnmaskError: naming the prompt and the remedy.
    """
    if not prompts:
        raise UnmaskError("No prompt was given: pass at least one.")
    for i, prompt in enumerate(prompts):
        check_prompt(model, prompt, gen_length, f"Prompt {i}")


def check_prompt(model: MaskedDiffusionModel, prompt: Sequence[int], gen_length: int, name: str) -> None:
    """As `check_prompts`, for one."""
    if not prompt:
        raise UnmaskError(f"{name} is empty: give it at least one token.")
    for token in prompt:
        if isinstance(token, bool) or not isinstance(token, SupportsIndex) or not 0 <= token < model.vocab_size:
            raise UnmaskError(
                f"{name} holds {token!r}, which is no token id of {model.name!r}: give whole numbers from 0 to "
                f"{model.vocab_size - 1}, or a text."
            )
    if model.max_length is not None and len(prompt) + gen_length > model.max_length:
        raise UnmaskError(
            f"{name} has {len(prompt)} tokens and with gen_length {gen_length} needs {len(prompt) + gen_length} "
            f"positions, but the dLLM has {model.max_length}: shorten the prompt, or lower gen_length."
        )
