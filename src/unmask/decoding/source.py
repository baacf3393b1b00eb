"""The prompts of a call: checked before anything is spent, then given out as rows of the batch become free."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.policies.base import Policy
from unmask.tasks.base import Example
from unmask.types import DecodingState


def encode_example(model: MaskedDiffusionModel, example: Example) -> list[int]:
    """Token ids of a task's prompt: through the chat template if both the task and the dLLM have a use for one."""
    chat = example.chat and model.has_chat_template
    return model.encode([{"role": "user", "content": example.prompt}] if chat else example.prompt, example.prefix)


class Source:
    """The prompts that wait, longest first and copies together: rows live at once need little padding and share passes.

    Rows draw from streams of their own, so the order changes no result.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        prompts: Sequence[Sequence[int]],
        gen_length: int,
        seed: int,
        streams: Sequence[int],
    ) -> None:
        self._model, self._prompts, self._gen_length = model, prompts, gen_length
        self._seed, self._streams = seed, streams
        first = {tuple(prompt): i for i, prompt in reversed(list(enumerate(prompts)))}
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), first[tuple(prompts[i])]))
        self._queue = iter(order)
        self._since: dict[int, float] = {}

    def next(self, places: int) -> DecodingState:
        """The next rows, at most `places` of them."""
        rows = list(islice(self._queue, places))
        self._since |= dict.fromkeys(rows, time.perf_counter())
        return begin(
            self._model,
            [self._prompts[row] for row in rows],
            self._gen_length,
            rows=rows,
            keys=row_keys(self._seed, torch.tensor([self._streams[row] for row in rows], dtype=torch.long)),
        )

    def seconds(self, rows: Sequence[int]) -> list[float]:
        """How long each row has been live."""
        now = time.perf_counter()
        return [now - self._since.pop(row) for row in rows]


def begin(
    model: MaskedDiffusionModel,
    prompts: Sequence[Sequence[int]],
    gen_length: int,
    *,
    rows: Sequence[int],
    keys: Int[Tensor, " b"],
) -> DecodingState:
    """Rows at their first step: the prompts left-padded to the longest, each with a region that is all masked."""
    width = max((len(prompt) for prompt in prompts), default=1)
    pads = [width - len(prompt) for prompt in prompts]
    filled = [
        [model.pad_id] * pad + list(prompt) + [model.mask_id] * gen_length
        for pad, prompt in zip(pads, prompts, strict=True)
    ]
    tokens = torch.tensor(filled, dtype=torch.long).view(len(rows), width + gen_length)
    attention = torch.arange(width + gen_length) >= torch.tensor(pads, dtype=torch.long)[:, None]
    nothing = torch.zeros(len(rows), dtype=torch.long, device=model.device)
    return DecodingState(
        tokens=tokens.to(model.device),
        attention=attention.to(model.device),
        masked=torch.ones(len(rows), gen_length, dtype=torch.bool, device=model.device),
        revealed_at=torch.full((len(rows), gen_length), -1, device=model.device),
        block_end=nothing,
        step=nothing,
        key=keys.to(model.device),
        row=torch.tensor(rows, dtype=torch.long, device=model.device),
        changed=nothing == 0,
    )


def check_prompts(
    model: MaskedDiffusionModel, prompts: Sequence[Sequence[int]], gen_length: int, batch_size: int, max_steps: int
) -> None:
    """Refuse what cannot be decoded, before anything is spent.

    Raises:
        UnmaskError: naming the prompt and the remedy.
    """
    if not prompts:
        raise UnmaskError("No prompt was given: pass at least one.")
    if batch_size < 1 or max_steps < 1:
        raise UnmaskError(f"batch_size and max_steps must be at least 1, not {batch_size} and {max_steps}.")
    for i, prompt in enumerate(prompts):
        check_prompt(model, prompt, gen_length, f"Prompt {i}")


def check_prompt(model: MaskedDiffusionModel, prompt: Sequence[int], gen_length: int, name: str) -> None:
    """As `check_prompts`, for one."""
    if not prompt:
        raise UnmaskError(f"{name} is empty: give it at least one token.")
    if model.max_length is not None and len(prompt) + gen_length > model.max_length:
        raise UnmaskError(
            f"{name} has {len(prompt)} tokens and with gen_length {gen_length} needs {len(prompt) + gen_length} "
            f"positions, but the dLLM has {model.max_length}: shorten one of them."
        )


def check_policy_fits(model: MaskedDiffusionModel, policy: Policy) -> None:
    """Refuse what is no dLLM or no policy, and a policy that asks for what the dLLM cannot show.

    Raises:
        UnmaskError: naming what it needs.
    """
    if not isinstance(model, MaskedDiffusionModel) or not isinstance(policy, Policy):
        raise UnmaskError("Pass a dLLM and a policy, as unmask.load_model(...) and unmask.load_policy(...) give them.")
    if policy.needs.hidden_states and model.hidden_size is None:
        raise UnmaskError(
            f"The policy {policy.type_name!r} needs hidden states, and the dLLM {model.name!r} gives none: "
            "use a policy that reads confidences."
        )
