"""The decode loop: heuristics, learned policies, training roll-outs, evaluation and generation all run here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack, cast

import torch
from torch import Tensor

from unmask.decoding.blocks import AdaptiveBlocks, Blocks, make_blocks, parse_block_length
from unmask.decoding.results import ENDINGS, Completion, Decoded, Ended, Generation
from unmask.decoding.source import Source, check_policy_fits, check_prompts
from unmask.decoding.step import RUNNING, after_eos, decide, ended, observe, transition, write
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.base import Policy
from unmask.types import Needs, Step, StepCallback


class DecodeOptions(TypedDict, total=False):
    """How to decode; what each means stands in `generate`."""

    gen_length: Required[int]
    block_length: int | str | AdaptiveBlocks | None
    batch_size: int
    temperature: float
    seed: int
    max_steps: int | None
    stop_at_eos: bool
    suppress_eos: bool
    callback: StepCallback | None
    also_observe: Needs | None
    streams: Sequence[int] | None


Prompt = str | Sequence[Message] | Sequence[int]


def generate(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Prompt] | str,
    *,
    gen_length: int,
    block_length: int | str | AdaptiveBlocks | None = None,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    max_steps: int | None = None,
    stop_at_eos: bool = True,
    suppress_eos: bool = False,
    callback: StepCallback | None = None,
) -> Generation:
    """Complete prompts with a dLLM, revealing positions as the policy says.

    Args:
        prompts: of any lengths, each a text, the messages of a chat (``[{"role": "user", "content": ...}]``, put
            through the tokenizer's chat template), or token ids.
        gen_length: positions of the generation region, all masked at first.
        block_length: semi-autoregressive block; None is full diffusion; `AdaptiveBlocks` (or
            ``adaptive:default=32``) end with a line.
        batch_size: live rows at most; a row that ends makes room for the next prompt.
        temperature: of the tokens; 0 takes the likeliest. What a policy sees is the plain softmax at any temperature.
        seed: of tokens drawn and of policies that draw; row i of a call draws from its own streams.
        max_steps: step budget of a row, gen_length by default.
        stop_at_eos: end a row once its text and the EOS behind it stand; the rest becomes EOS. Off, it is decoded to
            the last position, as in the paper, and counted so in `nfe`.
        suppress_eos: see `unmask.decoding.step.observe`.
        callback: called with each `Step`.

    Raises:
        UnmaskError: no prompt, a prompt too long for the dLLM, a block length that does not divide the region.
    """
    check_policy_fits(model, policy)  # before the tokenizer is asked
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    decoded = decode(
        model,
        policy,
        [_tokens_of(model, prompt) for prompt in given],
        gen_length=gen_length,
        block_length=block_length,
        batch_size=batch_size,
        temperature=temperature,
        seed=seed,
        max_steps=max_steps,
        stop_at_eos=stop_at_eos,
        suppress_eos=suppress_eos,
        callback=callback,
    )
    return Generation(**vars(decoded), texts=[model.text(row) for row in decoded.tokens.tolist()])


def _tokens_of(model: MaskedDiffusionModel, prompt: Prompt) -> Sequence[int]:
    if isinstance(prompt, str):
        return model.encode(prompt)
    # A list of messages is a chat, one of numbers is tokens; an empty one is refused with the other empty prompts.
    if len(prompt) and isinstance(prompt[0], Mapping):
        return model.encode(cast(Sequence[Message], prompt))
    return cast(Sequence[int], prompt)


def stream(
    model: MaskedDiffusionModel, policy: Policy, prompts: Sequence[Sequence[int]], **options: Unpack[DecodeOptions]
) -> Iterator[Completion]:
    """Decode token ids, yielding each prompt as it ends, which is not the order of the prompts.

    Raises:
        UnmaskError: as `generate`, before the first prompt is decoded.
    """
    batches = _decode(model, policy, prompts, _Totals(), **options)
    return (completion for batch in batches for completion in batch.completions(model))


def decode(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    on_ended: Callable[[int, int], None] | None = None,
    on_batch: Callable[[Ended], None] | None = None,
    **options: Unpack[DecodeOptions],
) -> Decoded:
    """`generate` on token ids.

    Args:
        on_ended: called with the number of prompts that have ended and of all, when some have.
        on_batch: called with those that end in the same step.
        options: those of `generate`, and two more. ``also_observe`` widens what is computed, for callbacks that record
            more than the policy needs. ``streams`` is the random stream of each prompt, its place by default; so prompt
            i of a longer call is replayed alone with streams = [i].
    """
    start, totals = time.perf_counter(), _Totals()
    batches: list[Ended] = []
    done = 0
    for batch in _decode(model, policy, prompts, totals, **options):
        batches.append(batch)
        done += len(batch.row)
        if on_batch is not None:
            on_batch(batch)
        if on_ended is not None:
            on_ended(done, len(prompts))
    order = torch.cat([batch.row for batch in batches]).argsort()
    why = torch.cat([batch.why for batch in batches])[order.cpu()].tolist()
    seconds = [s for batch in batches for s in batch.seconds]
    return Decoded(
        tokens=torch.cat([batch.tokens for batch in batches])[order],
        nfe=torch.cat([batch.nfe for batch in batches])[order],
        revealed_at=torch.cat([batch.revealed_at for batch in batches])[order],
        seconds=[seconds[i] for i in order.tolist()],
        ended=[ENDINGS[code - 1] for code in why],
        total_seconds=time.perf_counter() - start,
        model_seconds=totals.model_seconds,
        policy_seconds=totals.policy_seconds,
        model_rows=totals.model_rows,
        model_rows_run=totals.model_rows_run,
    )


@dataclass
class _Totals:
    model_seconds: float = 0.0
    policy_seconds: float = 0.0
    model_rows: int = 0
    model_rows_run: int = 0

    def add(self, model_seconds: float, policy_seconds: float, rows: int, rows_run: int) -> None:
        self.model_seconds += model_seconds
        self.policy_seconds += policy_seconds
        self.model_rows += rows
        self.model_rows_run += rows_run


def _decode(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    totals: _Totals,
    *,
    gen_length: int,
    block_length: int | str | AdaptiveBlocks | None = None,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    max_steps: int | None = None,
    stop_at_eos: bool = True,
    suppress_eos: bool = False,
    callback: StepCallback | None = None,
    also_observe: Needs | None = None,
    streams: Sequence[int] | None = None,
) -> Iterator[Ended]:
    """Check everything now, decode as the iterator is read."""
    check_policy_fits(model, policy)
    blocks = make_blocks(parse_block_length(block_length), gen_length, model)
    budget = gen_length if max_steps is None else max_steps
    check_prompts(model, prompts, gen_length, batch_size, budget)
    if not temperature >= 0:
        raise UnmaskError(f"temperature must be 0 (the likeliest token) or above, not {temperature}.")
    policy.place(model.device)
    plan = _Plan(
        model=model,
        policy=policy,
        needs=policy.needs.union(also_observe) if also_observe else policy.needs,
        blocks=blocks,
        batch_size=batch_size,
        temperature=temperature,
        max_steps=budget,
        stop_at_eos=stop_at_eos,
        suppress_eos=suppress_eos,
        callback=callback,
        share=temperature == 0 and len({tuple(prompt) for prompt in prompts}) < len(prompts),
    )
    return _loop(plan, Source(model, prompts, gen_length, seed, streams or range(len(prompts))), totals)


@dataclass(frozen=True)
class _Plan:
    """What a call asked for, checked."""

    model: MaskedDiffusionModel
    policy: Policy
    needs: Needs
    blocks: Blocks
    batch_size: int
    temperature: float
    max_steps: int
    stop_at_eos: bool
    suppress_eos: bool
    callback: StepCallback | None
    share: bool


@torch.no_grad()
def _loop(plan: _Plan, source: Source, totals: _Totals) -> Iterator[Ended]:
    """The loop.

    On an accelerator a step waits three times: to index the positions asked about, to learn who ended, and, in
    transformers, to see whether there is padding. Drawn tokens wait once more, shared passes three times more, and a
    step in which rows end, eight times more. `tests/device` holds these counts.
    """
    model, policy = plan.model, plan.policy
    state = source.next(plan.batch_size)
    while len(state):
        t0 = time.perf_counter()
        observed = observe(model, state, plan.needs, plan.blocks, plan.suppress_eos, plan.share)
        t1 = time.perf_counter()
        picks = decide(policy, observed)
        action = picks > 0
        t2 = time.perf_counter()
        seen = observed.observation
        written = write(model, observed, action, plan.temperature)
        if plan.callback is not None:
            plan.callback(Step(state, seen, observed.predicted, written, action, picks))
        totals.add(t1 - t0, t2 - t1, len(state), observed.asked)

        state = transition(observed.state, written, action)
        why, broken = _arrive(ended(state, model.eos_ids, plan.max_steps, plan.stop_at_eos), seen.confidence)
        if broken:
            raise UnmaskError(
                f"The dLLM {model.name!r} returned NaN logits: load it with dtype float32 or bfloat16, "
                "or check its weights."
            )
        over = why != RUNNING
        if over.any():
            gone = state.take(over.nonzero()[:, 0].to(model.device))  # by a mask, each tensor would wait
            yield Ended(
                row=gone.row,
                tokens=after_eos(gone.region, model.eos_ids) if plan.stop_at_eos else gone.region,
                nfe=gone.step,
                revealed_at=gone.revealed_at,
                why=why[over],
                seconds=source.seconds(gone.row.tolist()),
            )
            state = state.take((~over).nonzero()[:, 0].to(model.device)).trim()
            fresh = source.next(plan.batch_size - len(state))
            if len(fresh):
                state = state.join(fresh, model.pad_id) if len(state) else fresh


def _arrive(why: Tensor, confidence: Tensor) -> tuple[Tensor, bool]:
    """Bring what the host must know over in one copy: why each row ended, and whether a confidence is NaN."""
    both = torch.cat([why, confidence.isnan().any().long()[None]]).cpu()
    return both[:-1], bool(both[-1])
