"""The decode loop: heuristics, learned policies, training roll-outs, evaluation and generation all run here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from unmask.decoding.blocks import check_block_length
from unmask.decoding.step import observe, transition
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.types import DecodingState, Needs, Observation, Step, StepCallback, row_keys


@dataclass(frozen=True)
class Decoded:
    """What `decode` gives back, one entry a prompt, in the order of the prompts (n of them, region length l).

    Attributes:
        sequences: (n, l) token ids of the region; a position left masked holds the mask id.
        nfe: (n,) forward passes spent while the row still had masked positions.
        revealed_at: (n, l) step at which each position was revealed, from 0; -1 where it never was.
        complete: (n,) True if nothing is masked; False if the step budget was spent first.
        policy_seconds: time spent inside the policy, of `seconds` in all.
    """

    sequences: Tensor
    nfe: Tensor
    revealed_at: Tensor
    complete: Tensor
    seconds: float
    model_seconds: float
    policy_seconds: float
    model_rows: int


@dataclass(frozen=True)
class Generation(Decoded):
    """`Decoded`, with the texts: up to the first EOS, special tokens left out."""

    texts: list[str]


def generate(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[str] | str,
    *,
    gen_length: int,
    block_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    max_steps: int | None = None,
    suppress_eos: bool = False,
    callback: StepCallback | None = None,
) -> Generation:
    """Complete prompts with a dLLM, revealing positions as the policy says.

    Args:
        prompts: texts of any lengths.
        gen_length: positions of the generation region, all masked at first.
        block_length: semi-autoregressive block; None is full diffusion.
        batch_size: live rows at most; a row that ends makes room for the next prompt.
        seed: of the policies that draw; row i of a call draws from its own stream.
        max_steps: step budget of a row, gen_length by default.
        suppress_eos: see `unmask.decoding.step.observe`.
        callback: called with each `Step`.

    Raises:
        UnmaskError: no prompt, a prompt too long for the dLLM, a block length that does not divide the region.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    decoded = decode(
        model,
        policy,
        [model.encode(text) for text in texts],
        gen_length=gen_length,
        block_length=block_length,
        batch_size=batch_size,
        seed=seed,
        max_steps=max_steps,
        suppress_eos=suppress_eos,
        callback=callback,
    )
    return Generation(**vars(decoded), texts=[model.text(row) for row in decoded.sequences.tolist()])


@torch.no_grad()
def decode(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    gen_length: int,
    block_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    max_steps: int | None = None,
    suppress_eos: bool = False,
    callback: StepCallback | None = None,
    also_observe: Needs | None = None,
    first_row: int = 0,
) -> Decoded:
    """`generate` on token ids.

    Args:
        also_observe: widens what is computed, for callbacks that record more than the policy needs.
        first_row: random stream of the first prompt; row i of a longer call is replayed alone with first_row = i.
    """
    block_length = check_block_length(gen_length, block_length)
    max_steps = gen_length if max_steps is None else max_steps
    check_prompts(model, prompts, gen_length, batch_size, max_steps)
    needs = policy.needs.union(also_observe) if also_observe else policy.needs
    policy.place(model.device)

    n, device, start = len(prompts), model.device, time.perf_counter()
    sequences = torch.full((n, gen_length), model.mask_id, device=device)
    revealed_at = torch.full((n, gen_length), -1, device=device)
    nfe = torch.zeros(n, dtype=torch.long, device=device)
    model_seconds = policy_seconds = 0.0
    model_rows = 0

    queue = iter(range(n))
    state = _admit(model, prompts, queue, batch_size, gen_length, seed, first_row)
    while len(state.row):
        t0 = time.perf_counter()
        observation, predicted = observe(model, state, needs, block_length, suppress_eos)
        t1 = time.perf_counter()
        action = policy.select(_narrow(observation, policy.needs)) & observation.selectable
        t2 = time.perf_counter()
        model_seconds, policy_seconds, model_rows = (
            model_seconds + t1 - t0,
            policy_seconds + t2 - t1,
            model_rows + len(state.row),
        )
        if callback is not None:
            callback(Step(state, observation, predicted, action))

        revealed_at[state.row] = torch.where(action, state.step[:, None], revealed_at[state.row])
        state = transition(state, predicted, action)
        ended = ~state.masked.any(dim=1) | (state.step >= max_steps)
        if bool(ended.any()):
            gone = state.take(ended)
            sequences[gone.row] = gone.tokens[:, -gen_length:]
            nfe[gone.row] = gone.step
            fresh = _admit(model, prompts, queue, int(ended.sum()), gen_length, seed, first_row)
            state = _refill(_trim(state.take(~ended)), fresh, model.pad_id)
    return Decoded(
        sequences=sequences,
        nfe=nfe,
        revealed_at=revealed_at,
        complete=(revealed_at >= 0).all(dim=1),
        seconds=time.perf_counter() - start,
        model_seconds=model_seconds,
        policy_seconds=policy_seconds,
        model_rows=model_rows,
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
        if not prompt:
            raise UnmaskError(f"Prompt {i} is empty: give it at least one token.")
        if model.max_length is not None and len(prompt) + gen_length > model.max_length:
            raise UnmaskError(
                f"Prompt {i} has {len(prompt)} tokens and with gen_length {gen_length} needs "
                f"{len(prompt) + gen_length} positions, but the dLLM has {model.max_length}: shorten one of them."
            )


def _admit(
    model: MaskedDiffusionModel,
    prompts: Sequence[Sequence[int]],
    queue: Iterator[int],
    places: int,
    gen_length: int,
    seed: int,
    first_row: int,
) -> DecodingState:
    rows = list(islice(queue, places))
    width = max((len(prompts[row]) for row in rows), default=1)
    tokens = torch.full((len(rows), width + gen_length), model.mask_id)
    attention = torch.ones(len(rows), width + gen_length, dtype=torch.bool)
    for i, row in enumerate(rows):
        pad = width - len(prompts[row])
        tokens[i, :pad], attention[i, :pad] = model.pad_id, False
        tokens[i, pad:width] = torch.tensor(prompts[row])
    index = torch.tensor(rows, dtype=torch.long)
    return DecodingState(
        tokens=tokens.to(model.device),
        attention=attention.to(model.device),
        masked=torch.ones(len(rows), gen_length, dtype=torch.bool, device=model.device),
        step=torch.zeros(len(rows), dtype=torch.long, device=model.device),
        key=row_keys(seed, index + first_row).to(model.device),
        row=index.to(model.device),
    )


def _narrow(observation: Observation, needs: Needs) -> Observation:
    """What the policy declared, and no more."""
    confidence = observation.confidence[..., : needs.top_k]
    if needs.positions == "selectable":
        confidence = confidence.masked_fill(~observation.selectable[..., None], 0.0)
    return replace(observation, confidence=confidence)


def _trim(state: DecodingState) -> DecodingState:
    """Drop columns that are padding in every row that is left."""
    if not len(state.row):
        return state
    first = int(state.attention.any(dim=0).int().argmax())
    return replace(state, tokens=state.tokens[:, first:], attention=state.attention[:, first:])


def _refill(live: DecodingState, fresh: DecodingState, pad_id: int) -> DecodingState:
    """Put new rows into the freed places, left-padding to the longest live prompt."""
    if not len(fresh.row):
        return live
    if not len(live.row):
        return fresh
    width = max(live.tokens.shape[1], fresh.tokens.shape[1])
    a, b = _widen(live, width, pad_id), _widen(fresh, width, pad_id)
    return DecodingState(*(torch.cat([x, y]) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)))


def _widen(state: DecodingState, width: int, pad_id: int) -> DecodingState:
    extra = (width - state.tokens.shape[1], 0)
    return replace(
        state,
        tokens=torch.nn.functional.pad(state.tokens, extra, value=pad_id),
        attention=torch.nn.functional.pad(state.attention, extra, value=False),
    )
