"""One step of decoding as pure functions: what the policy sees, what it decides, what that changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.passes import Duplicates, Pass
from unmask.decoding.readout import Drawn, Sampling, read, sample
from unmask.decoding.state import DecodingState, Reading
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import spread
from unmask.noise import row_keys, uniform
from unmask.observation import Needs, Observation
from unmask.policies.base import Policy, StochasticPolicy

ROUNDING = 1e-3  # of probabilities in half precision
RUNNING, COMPLETE, EOS, BUDGET, STOP = range(5)  # why a row ended


def see(
    logits: Float[Tensor, "b l v"] | None = None,
    *,
    needs: Needs,
    masked: Bool[Tensor, "b l"],
    step: Int[Tensor, " b"] | int = 0,
    selectable: Bool[Tensor, "b l"] | None = None,
    key: Int[Tensor, " b"] | None = None,
    probabilities: Float[Tensor, "b l k"] | None = None,
    entropy: Float[Tensor, "b l"] | None = None,
    banned_ids: Sequence[int] = (),
    speed: Float[Tensor, " b"] | float = 0.0,
    block_step: Int[Tensor, " b"] | None = None,
    standing: Int[Tensor, "b l"] | None = None,
) -> Observation:
    """What a policy sees of a forward pass that somebody else ran: a serving engine, a pipeline, a notebook.

    Give `logits`, or the probabilities an engine has kept of them.

    Args:
        logits: of each position of the region (or of the engine's block), aligned: those at i predict the token at i.
        needs: of the policy.
        masked: positions not revealed yet.
        step: decoding steps each row has taken in this region.
        selectable: positions the policy may reveal; all masked ones by default (full diffusion).
        key: each row's random stream (`unmask.noise.row_keys`); by default that of the row's index under seed 0.
        probabilities: the k largest of the plain softmax, largest first, those of banned tokens left out.
        entropy: of the plain softmax, in nats; computed from logits.
        banned_ids: tokens that are never written, the mask token above all.
        speed: of each row, or of all, for a policy with a speed.
        block_step: steps each row has taken in its block, for a policy that needs them; by default `step`, as where the
            region is one block.
        standing: for a policy that revises, the tokens that it may overwrite; -1 elsewhere, as at a prompt.

    Returns:
        What `unmask.generate` would show the policy, on the tensors' device.

    Raises:
        UnmaskError: neither logits nor probabilities, or both; NaN among them; the policy needs what they do not tell.
    """
    shown = logits if probabilities is None else probabilities
    if shown is None or (logits is not None and probabilities is not None):
        raise UnmaskError("Give either logits or the top-k probabilities of each position.")
    _check_shapes(
        masked,
        shown,
        selectable=selectable,
        entropy=entropy,
        standing=standing,
        step=step,
        key=key,
        speed=speed,
        block_step=block_step,
    )
    kinds = {"hidden states": needs.hidden_states, "the KL history": needs.kl_history}
    kinds["the tokens of its confidences"] = needs.tokens and logits is None
    kinds["logits and the tokens that stand"] = needs.differs and (logits is None or standing is None)
    absent = [name for name, wanted in kinds.items() if wanted]
    if absent or (logits is None and needs.entropy and entropy is None):
        missing = absent[0] if absent else "entropies"
        raise UnmaskError(f"The policy needs {missing}, which nobody gave: use a policy that reads confidences.")
    length, device = masked.shape[1], masked.device
    steps = torch.full((len(masked),), step, device=device) if isinstance(step, int) else step
    if logits is not None:
        banned = torch.tensor(list(banned_ids), dtype=torch.long, device=device)
        reading = _read_all(logits, needs, banned)
    else:
        if shown.shape[-1] < needs.top_k:
            raise UnmaskError(f"The policy needs the {needs.top_k} largest probabilities per position: give as many.")
        nothing = torch.zeros_like(masked, dtype=torch.long)
        reading = Reading(shown[..., : needs.top_k].float(), nothing, entropy)
    _check_values(reading, logits is not None)
    keys = row_keys(0, torch.arange(len(masked), device=device)) if key is None else key
    may = masked if selectable is None else selectable & masked
    speeds = torch.full((len(masked),), speed, device=device) if isinstance(speed, float | int) else speed
    in_block = steps if block_step is None else block_step
    noise = uniform(keys, steps, length)
    reading = replace(reading, age=torch.zeros_like(masked, dtype=torch.long))  # all of it was read now
    differs = None if standing is None else (standing >= 0) & ~masked & (reading.predicted != standing)
    seen = observation_of(reading, masked, may, steps, noise, speed=speeds, block_step=in_block, differs=differs)
    return seen.only(needs)


def _check_shapes(masked: Tensor, shown: Tensor, **others: Tensor | float | None) -> None:
    """
    Raises:
        UnmaskError: a tensor that does not have a value for each position, or for each row.
    """
    if masked.ndim != 2 or masked.dtype != torch.bool:
        raise UnmaskError(
            f"masked is a {masked.dtype} of shape {tuple(masked.shape)}: give one boolean per row and position, (b, l)."
        )
    b, length = masked.shape
    if shown.ndim != 3 or shown.shape[:2] != masked.shape:
        raise UnmaskError(
            f"The logits or probabilities have shape {tuple(shown.shape)}, and masked {(b, length)}: give "
            f"({b}, {length}, n), the numbers of each position."
        )
    for name, value in others.items():
        wanted = (b, length) if name in ("selectable", "entropy", "standing") else (b,)
        if isinstance(value, Tensor) and tuple(value.shape) != wanted:
            raise UnmaskError(f"{name} has shape {tuple(value.shape)}: give {wanted}.")


def _check_values(reading: Reading, from_logits: bool) -> None:
    """
    Raises:
        UnmaskError: NaN; probabilities outside [0, 1] or not in their order.
    """
    p, entropy = reading.confidence, reading.entropy
    unsure = entropy.isnan().any() if entropy is not None else torch.zeros((), dtype=torch.bool, device=p.device)
    outside = ((p < 0) | (p > 1 + ROUNDING)).any()
    rising = (p.diff(dim=-1) > ROUNDING).any()
    nan, unsure, outside, rising = torch.stack([p.isnan().any(), unsure, outside, rising]).tolist()  # one wait
    if from_logits and (nan or unsure):
        raise UnmaskError("The logits hold NaN: run the dLLM in float32 or bfloat16, or check its weights.")
    if nan or unsure:
        what = "probabilities" if nan else "entropies"
        raise UnmaskError(f"The {what} hold NaN: run the dLLM in float32 or bfloat16, or check what computes them.")
    if outside or rising:
        told = "are not all in [0, 1]" if outside else "are not sorted"
        raise UnmaskError(f"The probabilities {told}: give those of the plain softmax, largest first.")


def _read_all(logits: Float[Tensor, "b l v"], needs: Needs, banned: Int[Tensor, " m"]) -> Reading:
    b, length, vocabulary = logits.shape
    found = read(torch.clone, logits.flatten(0, 1), needs, banned, vocabulary)
    rows, columns = (
        index.flatten()
        for index in torch.meshgrid(
            torch.arange(b, device=logits.device), torch.arange(length, device=logits.device), indexing="ij"
        )
    )
    shape = (b, length)
    return Reading(
        spread(found.confidence, shape, rows, columns),
        spread(found.token, shape, rows, columns),
        None if found.entropy is None else spread(found.entropy, shape, rows, columns),
        None if found.tokens is None else spread(found.tokens, shape, rows, columns),
    )


def observation_of(
    reading: Reading,
    masked: Bool[Tensor, "b l"],
    selectable: Bool[Tensor, "b l"],
    step: Int[Tensor, " b"],
    noise: Float[Tensor, "b l"],
    kl: Float[Tensor, "b l s"] | None = None,
    speed: Float[Tensor, " b"] | None = None,
    block_step: Int[Tensor, " b"] | None = None,
    differs: Bool[Tensor, "b l"] | None = None,
) -> Observation:
    """The reading of a pass with where the rows stand."""
    return Observation(
        confidence=reading.confidence,
        masked=masked,
        selectable=selectable,
        step_fraction=step.to(torch.float32) / masked.shape[1],
        noise=noise,
        entropy=reading.entropy,
        tokens=reading.tokens,
        kl=kl,
        hidden_states=reading.hidden_states,
        speed=speed,
        block_step=block_step,
        age=reading.age,
        differs=differs,
    )


def refuse_nan(found: bool, model: MaskedDiffusionModel) -> None:
    """
    Raises:
        UnmaskError: the dLLM's logits were found to be NaN.
    """
    if found:
        raise UnmaskError(
            f"The dLLM {model.name!r} returned NaN logits: load it with dtype float32 or bfloat16, "
            "or check its weights."
        )


def hold_back_eos(
    reading: Reading, selectable: Bool[Tensor, "b l"], eos_ids: Int[Tensor, " e"], vocabulary: int
) -> Reading:
    """The reading where EOS waits for the text before it (LLaDA's `confidence_eos_eot_inf`).

    A position whose likeliest token is EOS gets confidence 0 and the entropy of knowing nothing while an earlier
    selectable position predicts something else. Unlike LLaDA's, the EOS tail is let go once the text before it stands,
    instead of being revealed one position per step.
    """
    eos = torch.isin(reading.predicted, eos_ids) & selectable
    held = eos & ((selectable & ~eos).cumsum(dim=1) > 0)
    entropy = reading.entropy
    return replace(
        reading,
        confidence=reading.confidence.masked_fill(held[..., None], 0.0),
        entropy=None if entropy is None else entropy.masked_fill(held, math.log(vocabulary)),
    )


def decide(policy: Policy, observation: Observation, duplicates: Duplicates | None = None) -> Int[Tensor, "b l"]:
    """What the policy reveals, as picks (`unmask.policies.actions`); a rule's picks are all 1.

    Args:
        duplicates: rows that are equal: the network of a stochastic policy runs once for each set; each row draws by
            itself.
    """
    seen = observation.only(policy.needs)
    if not isinstance(policy, StochasticPolicy):
        return (policy.select(seen) & seen.selectable).long()
    logits = policy.logits(seen) if duplicates is None else policy.logits(seen.take(duplicates.rows))[duplicates.of]
    return policy.actions.sample(logits, seen.selectable, seen.noise) * seen.selectable


def revise(policy: Policy, observation: Observation) -> Bool[Tensor, "b l"] | None:
    """Revealed positions that the policy overwrites with what is predicted there; None of one that never does."""
    if not policy.needs.differs:
        return None
    seen = observation.only(policy.needs)
    assert seen.differs is not None  # the loop gives what is needed
    return policy.revise(seen) & seen.differs


def write(
    model: MaskedDiffusionModel, state: DecodingState, last: Pass, action: Bool[Tensor, "b l"], sampling: Sampling
) -> Int[Tensor, "b l"]:
    """The token each revealed position takes: what the pass chose, or one drawn now at a token temperature above 0."""
    predicted = last.reading.predicted
    if not sampling.draws or sampling.shown:  # then they were drawn before the policy was asked
        return predicted
    assert last.hidden is not None  # rows with drawn tokens do not share passes
    assert last.slot is not None
    rows, columns = action.nonzero(as_tuple=True)
    how = Drawn(sampling, state.key[rows], state.step[rows], columns)
    drawn = sample(model.head, last.hidden[last.slot[rows, columns]], model.banned_ids, model.vocab_size, how)
    return predicted.index_put((rows, columns), drawn)


def transition(
    state: DecodingState,
    written: Int[Tensor, "b l"],
    action: Bool[Tensor, "b l"],
    computed: Int[Tensor, " b"],
    max_block_steps: int | None = None,
    edits: Bool[Tensor, "b l"] | None = None,
    post_steps: int | None = None,
) -> DecodingState:
    """Write the dLLM's tokens at the revealed and the revised positions; everything else stays.

    Args:
        computed: positions of each row that the pass has computed.
        max_block_steps: a row that has taken so many in its block leaves the rest of it masked for good.
        edits: revealed positions that are revised; `revealed_at` stays.
        post_steps: passes that a block in which nothing is masked may get for that; it is over after one that changes
            nothing.
    """
    region = torch.where(action if edits is None else action | edits, written, state.region)
    given_up = state.given_up
    if max_block_steps is not None:
        given_up = torch.where(state.block_step + 1 >= max_block_steps, state.block_end, given_up)
    after = replace(
        state,
        tokens=torch.cat([state.tokens[:, : state.prompt_width], region], dim=1),
        masked=state.masked & ~action,
        revealed_at=torch.where(action, state.step[:, None], state.revealed_at),
        step=state.step + 1,
        block_step=state.block_step + 1,
        given_up=given_up,
        positions=state.positions + computed,
        full_passes=state.full_passes + (computed >= state.attention.sum(dim=1)),
        post_step=torch.full_like(state.post_step, -1),
    )
    if post_steps is None:
        return after
    had = state.post_step + 1  # with nothing masked, this pass included
    changed = state.post_step < 0 if edits is None else (state.post_step < 0) | edits.any(dim=1)
    over = after.in_block | (given_up >= state.block_end) | ~changed | (had >= post_steps)
    return replace(after, post_step=torch.where(over, -1, had))


def ended(
    state: DecodingState, eos_ids: Int[Tensor, " e"], max_steps: int, stop_at_eos: bool, waits: bool = False
) -> Int[Tensor, " b"]:
    """Why each row ends here: COMPLETE (nothing masked), EOS, BUDGET, or RUNNING if it does not.

    Args:
        waits: only the budget ends a row within a block, as revising may still change what stands there.
    """
    left = state.open
    why = torch.where((state.step >= max_steps) | ~left.any(dim=1), BUDGET, RUNNING)
    if stop_at_eos:
        eos = torch.isin(state.region, eos_ids)
        why = why.masked_fill((eos & (left.cumsum(dim=1) == 0)).any(dim=1), BUDGET)  # with what is given up
        why = why.masked_fill((eos & (state.masked.cumsum(dim=1) == 0)).any(dim=1), EOS)
    why = why.masked_fill(~state.masked.any(dim=1), COMPLETE)
    return why.masked_fill(state.in_block & (state.step < max_steps), RUNNING) if waits else why


def after_eos(tokens: Int[Tensor, "b l"], eos_ids: Int[Tensor, " e"]) -> Int[Tensor, "b l"]:
    """Each row with its first EOS repeated to the end."""
    eos = torch.isin(tokens, eos_ids)
    first = tokens.gather(1, eos.int().argmax(dim=1, keepdim=True))
    return torch.where(eos.cumsum(dim=1) > 0, first, tokens)
