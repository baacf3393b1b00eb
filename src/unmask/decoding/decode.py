"""The decode loop: heuristics, learned policies, training roll-outs, evaluation and generation all run here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Required, TypedDict, Unpack

import torch
from torch import Tensor

from unmask.decoding.blocks import AdaptiveBlocks, Blocks, make_blocks, parse_block_length
from unmask.decoding.step import RUNNING, after_eos, decide, ended, observe, transition, write
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.policies.base import Policy
from unmask.types import DecodingState, Needs, Step, StepCallback

Ending = Literal["complete", "eos", "budget"]
ENDINGS: tuple[Ending, ...] = ("complete", "eos", "budget")  # in the order of `unmask.decoding.step`


class DecodeOptions(TypedDict, total=False):
    """How to decode; what each means stands in `generate`."""

    gen_length: Required[int]
    block_length: int | AdaptiveBlocks | None
    batch_size: int
    temperature: float
    seed: int
    max_steps: int | None
    stop_at_eos: bool
    suppress_eos: bool
    callback: StepCallback | None
    also_observe: Needs | None
    streams: Sequence[int] | None


@dataclass(frozen=True)
class Completion:
    """One finished prompt.

    Attributes:
        index: its place among the prompts.
        text: up to the first EOS, special tokens left out.
        tokens: token ids of the region; a position left masked holds the mask id.
        nfe: forward passes spent while it was live.
        revealed_at: step at which each position was revealed, from 0; -1 where it never was.
        seconds: from its first forward pass to its last, shared with the rows beside it.
        ended: ``complete`` (nothing is masked), ``eos`` (text and EOS stand, the rest was not decoded), or ``budget``
            (the steps were spent first).
    """

    index: int
    text: str
    tokens: list[int]
    nfe: int
    revealed_at: list[int]
    seconds: float
    ended: Ending


@dataclass(frozen=True)
class Decoded:
    """What `decode` gives back, one entry a prompt, in the order of the prompts (n of them, region length l).

    Attributes:
        tokens: (n, l) token ids of the region; a position left masked holds the mask id.
        nfe: (n,) forward passes spent while the row was live.
        revealed_at: (n, l) step at which each position was revealed, from 0; -1 where it never was.
        seconds: of each row, as in `Completion`.
        ended: why each row ended, as in `Completion`.
        total_seconds: of the whole call, of which `model_seconds` in the dLLM and `policy_seconds` in the policy (on an
            accelerator, work still queued counts for who waits for it).
        model_rows: NFE of all rows together; rows that share a pass count each.
    """

    tokens: Tensor
    nfe: Tensor
    revealed_at: Tensor
    seconds: list[float]
    ended: list[Ending]
    total_seconds: float
    model_seconds: float
    policy_seconds: float
    model_rows: int

    @property
    def complete(self) -> Tensor:
        """(n,) False where the step budget was spent with masks left."""
        return torch.tensor([ending != "budget" for ending in self.ended], device=self.nfe.device)


@dataclass(frozen=True)
class Generation(Decoded):
    """`Decoded`, with the texts: up to the first EOS, special tokens left out. Indexing gives a `Completion`."""

    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Completion]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Completion:
        return Completion(
            index=range(len(self))[index],
            text=self.texts[index],
            tokens=self.tokens[index].tolist(),
            nfe=int(self.nfe[index]),
            revealed_at=self.revealed_at[index].tolist(),
            seconds=self.seconds[index],
            ended=self.ended[index],
        )


def generate(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[str] | str,
    *,
    gen_length: int,
    block_length: int | AdaptiveBlocks | None = None,
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
        prompts: texts of any lengths.
        gen_length: positions of the generation region, all masked at first.
        block_length: semi-autoregressive block; None is full diffusion; `AdaptiveBlocks` end with a line.
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
    check_policy_fits(model, policy)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    decoded = decode(
        model,
        policy,
        [model.encode(text) for text in texts],
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
    model: MaskedDiffusionModel, policy: Policy, prompts: Sequence[Sequence[int]], **options: Unpack[DecodeOptions]
) -> Decoded:
    """`generate` on token ids.

    Args:
        options: those of `generate`, and
            also_observe: widens what is computed, for callbacks that record more than the policy needs;
            streams: random stream of each prompt, its place by default; so prompt i of a longer call is replayed alone
            with streams = [i].
    """
    start, totals = time.perf_counter(), _Totals()
    batches = list(_decode(model, policy, prompts, totals, **options))
    order = torch.cat([batch.row for batch in batches]).argsort()
    why = torch.cat([batch.why for batch in batches])[order].tolist()
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
    )


@dataclass
class _Totals:
    model_seconds: float = 0.0
    policy_seconds: float = 0.0
    model_rows: int = 0

    def add(self, model_seconds: float, policy_seconds: float, rows: int) -> None:
        self.model_seconds += model_seconds
        self.policy_seconds += policy_seconds
        self.model_rows += rows


@dataclass(frozen=True)
class _Ended:
    """Rows that ended in the same step."""

    row: Tensor
    tokens: Tensor
    nfe: Tensor
    revealed_at: Tensor
    why: Tensor
    seconds: list[float]

    def completions(self, model: MaskedDiffusionModel) -> Iterable[Completion]:
        rows = zip(self.row.tolist(), self.tokens.tolist(), self.nfe.tolist(), self.revealed_at.tolist(), strict=True)
        for (index, tokens, nfe, revealed_at), code, seconds in zip(rows, self.why.tolist(), self.seconds, strict=True):
            yield Completion(index, model.text(tokens), tokens, nfe, revealed_at, seconds, ENDINGS[code - 1])


def _decode(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    totals: _Totals,
    *,
    gen_length: int,
    block_length: int | AdaptiveBlocks | None = None,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    max_steps: int | None = None,
    stop_at_eos: bool = True,
    suppress_eos: bool = False,
    callback: StepCallback | None = None,
    also_observe: Needs | None = None,
    streams: Sequence[int] | None = None,
) -> Iterator[_Ended]:
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
    return _loop(plan, _Source(model, prompts, gen_length, seed, streams or range(len(prompts))), totals)


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
def _loop(plan: _Plan, source: _Source, totals: _Totals) -> Iterator[_Ended]:
    """The loop. On an accelerator a step waits twice: to index the positions asked about, and to learn who ended."""
    model, policy = plan.model, plan.policy
    state = source.next(plan.batch_size)
    while len(state):
        t0 = time.perf_counter()
        observed = observe(model, state, plan.needs, plan.blocks, plan.suppress_eos, plan.share)
        t1 = time.perf_counter()
        action = decide(policy, observed)
        t2 = time.perf_counter()
        seen = observed.observation
        written = write(model, observed, action, plan.temperature)
        if plan.callback is not None:
            plan.callback(Step(state, seen, observed.predicted, written, action))
        totals.add(t1 - t0, t2 - t1, len(state))

        state = transition(observed.state, written, action)
        why, broken = _arrive(ended(state, model.eos_ids, plan.max_steps, plan.stop_at_eos), seen.confidence)
        if broken:
            raise UnmaskError(
                f"The dLLM {model.name!r} returned NaN logits: load it with dtype float32 or bfloat16, "
                "or check its weights."
            )
        over = why != RUNNING
        if over.any():
            gone = state.take(over.to(model.device))
            yield _Ended(
                row=gone.row,
                tokens=after_eos(gone.region, model.eos_ids) if plan.stop_at_eos else gone.region,
                nfe=gone.step,
                revealed_at=gone.revealed_at,
                why=why[over],
                seconds=source.seconds(gone.row.tolist()),
            )
            state = state.take(~over.to(model.device)).trim()
            fresh = source.next(plan.batch_size - len(state))
            if len(fresh):
                state = state.join(fresh, model.pad_id) if len(state) else fresh


def _arrive(why: Tensor, confidence: Tensor) -> tuple[Tensor, bool]:
    """Bring what the host must know over in one copy: why each row ended, and whether a confidence is NaN."""
    both = torch.cat([why, confidence.isnan().any().long()[None]]).cpu()
    return both[:-1], bool(both[-1])


class _Source:
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
        model, length = self._model, self._gen_length
        self._since |= dict.fromkeys(rows, time.perf_counter())
        width = max((len(self._prompts[row]) for row in rows), default=1)
        pads = [width - len(self._prompts[row]) for row in rows]
        filled = [
            [model.pad_id] * pad + list(self._prompts[row]) + [model.mask_id] * length
            for pad, row in zip(pads, rows, strict=True)
        ]
        tokens = torch.tensor(filled, dtype=torch.long).view(len(rows), width + length).to(model.device)
        attention = torch.arange(width + length) >= torch.tensor(pads, dtype=torch.long)[:, None]
        index = torch.tensor(rows, dtype=torch.long)
        streams = torch.tensor([self._streams[row] for row in rows], dtype=torch.long)
        nothing = torch.zeros(len(rows), dtype=torch.long, device=model.device)
        return DecodingState(
            tokens=tokens,
            attention=attention.to(model.device),
            masked=torch.ones(len(rows), length, dtype=torch.bool, device=model.device),
            revealed_at=torch.full((len(rows), length), -1, device=model.device),
            block_end=nothing,
            step=nothing,
            key=row_keys(self._seed, streams).to(model.device),
            row=index.to(model.device),
            changed=nothing == 0,
        )

    def seconds(self, rows: Sequence[int]) -> list[float]:
        """How long each row has been live."""
        now = time.perf_counter()
        return [now - self._since.pop(row) for row in rows]


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
