"""One step of decoding, pure: observe (one dLLM forward pass), then transition. Training and evaluation share it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unmask.decoding.blocks import Blocks
from unmask.decoding.readout import read, sample
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import uniform
from unmask.policies.base import LearnedPolicy, Policy
from unmask.types import DecodingState, History, Needs, Observation, Reading

RUNNING, COMPLETE, EOS, BUDGET = range(4)  # why a row ended


@dataclass(frozen=True)
class Observed:
    """What one forward pass gives.

    Attributes:
        state: the rows, their block, history and reading moved on; no token changed.
        predicted: the likeliest token of each position that was asked about, 0 elsewhere.
        hidden: what the head reads at the n positions asked about; None where rows share passes.
        slot: each position's place in `hidden`, -1 elsewhere.
        asked: rows that the dLLM ran; fewer than there are where rows share passes.
        copies: where rows share passes, one row of each set that a policy cannot tell apart, and which of these each
            row is.
    """

    state: DecodingState
    observation: Observation
    predicted: Int[Tensor, "b l"]
    hidden: Float[Tensor, "n h"] | None
    slot: Int[Tensor, "b l"] | None
    asked: int
    copies: tuple[Int[Tensor, " u"], Int[Tensor, " b"]] | None


def observe(
    model: MaskedDiffusionModel,
    state: DecodingState,
    needs: Needs,
    blocks: Blocks,
    suppress_eos: bool = False,
    share: bool = False,
) -> Observed:
    """Ask the dLLM once what it would write, and how sure it is, at the positions the policy needs.

    Args:
        suppress_eos: a position whose likeliest token is EOS gets confidence 0 (and the entropy of knowing nothing)
            while an earlier masked position predicts something else (LLaDA's `confidence_eos_eot_inf`; ours lets go of
            the EOS tail once the text before it stands, instead of revealing it one position a step).
        share: rows that hold the same tokens share one pass, and a row that has not changed since its last one needs
            none: worth it where prompts are repeated and steps may reveal nothing, as in GRPO's roll-outs.
    """
    length = state.gen_length
    scope = blocks.scope(state.masked, state.block_end)
    wanted = {"selectable": scope, "masked": state.masked, "region": torch.ones_like(scope)}[needs.positions]
    if model.carries:
        wanted = wanted | state.masked  # all that the next step will want to hear of
    hidden = slot = copies = None
    asked = len(state)
    if share and not needs.kl_history and not model.carries:
        reading, copies, asked = _shared_pass(model, state, wanted, needs)
        state = replace(state, reading=reading, changed=torch.zeros_like(state.changed))
    else:
        reading, state, hidden, slot = _pass(model, state, wanted, needs)

    confidence, entropy = reading.confidence, reading.entropy
    block_end = blocks.end(state.masked, state.block_end, reading.predicted, confidence[..., 0])
    may = scope & (torch.arange(length, device=scope.device) < block_end[:, None])
    if suppress_eos:
        held = _held_back(reading.predicted, may, model.eos_ids)
        confidence = confidence.masked_fill(held[..., None], 0.0)
        entropy = None if entropy is None else entropy.masked_fill(held, math.log(model.vocab_size))
    observation = Observation(
        confidence=confidence,
        masked=state.masked,
        selectable=may,
        step_fraction=state.step.to(torch.float32) / length,
        noise=uniform(state.key, state.step, length),
        entropy=entropy,
        kl=state.history.kl if state.history else None,
        hidden_states=reading.hidden_states,
    )
    if model.carries:
        observation = observation.only(needs)
    return Observed(
        replace(state, block_end=block_end),
        observation,
        reading.predicted,
        hidden,
        slot,
        asked,
        copies,
    )


def _pass(
    model: MaskedDiffusionModel, state: DecodingState, wanted: Bool[Tensor, "b l"], needs: Needs
) -> tuple[Reading, DecodingState, Float[Tensor, "n h"], Int[Tensor, "b l"]]:
    """One forward pass of every row, read at the wanted positions.

    Returns:
        The reading, the rows with their history and what the dLLM carries moved on (where it is needed), the hidden
        states, and each position's place in them.
    """
    rows, columns = wanted.nonzero(as_tuple=True)
    flat = rows * state.tokens.shape[1] + columns + state.prompt_width
    hidden = model.hidden(state.tokens, state.attention, flat, state.carried)
    last = state.history
    found = read(
        model.head,
        hidden,
        needs,
        model.banned_ids,
        model.vocab_size,
        last=last.logits if last else None,
        slot=last.slot[rows, columns] if last else None,
        carry=model.carry if model.carries else None,
    )

    def spread(values: Tensor, empty: float = 0) -> Tensor:
        return values.new_full((*wanted.shape, *values.shape[1:]), empty).index_put((rows, columns), values)

    slot = spread(torch.arange(len(rows), device=rows.device), -1)
    history = None
    if found.kl is not None:
        newest = spread(found.kl, torch.inf)[..., None]
        kl = torch.cat([newest, last.kl], dim=-1) if last else newest.expand(*wanted.shape, needs.kl_history)
        history = History(kl[..., : needs.kl_history], slot, found.logits)
    reading = Reading(
        confidence=spread(found.confidence),
        predicted=spread(found.token),
        entropy=None if found.entropy is None else spread(found.entropy),
        hidden_states=spread(hidden) if needs.hidden_states else None,
    )
    carried = None if found.carried is None else spread(found.carried)
    return reading, replace(state, history=history, carried=carried), hidden, slot


def _shared_pass(
    model: MaskedDiffusionModel, state: DecodingState, wanted: Bool[Tensor, "b l"], needs: Needs
) -> tuple[Reading, tuple[Int[Tensor, " u"], Int[Tensor, " b"]], int]:
    """`_pass` of one row of each set of equal ones, and of none that has been read as it is.

    Returns:
        The reading of all rows, and the `copies` and `asked` of `Observed`.
    """
    look = torch.cat([state.tokens.masked_fill(~state.attention, -1), state.block_end[:, None]], dim=1)
    asked, of = one_of_each(look, state.changed)
    unread = state.changed[asked].nonzero()[:, 0]
    reading = state.reading and state.reading.take(asked)
    if len(unread):
        rows = asked[unread]
        new = _pass(model, replace(state, reading=None).take(rows), wanted[rows], needs)[0]
        reading = reading.put(unread, new) if reading else new
    assert reading is not None  # a row without a reading has changed
    return reading.take(of), one_of_each(torch.stack([of, state.step], dim=1), state.changed), len(unread)


def one_of_each(look: Shaped[Tensor, "b w"], late: Bool[Tensor, " b"]) -> tuple[Int[Tensor, " u"], Int[Tensor, " b"]]:
    """One row of each set that looks the same, preferably not a late one, and which of them each row is."""
    unique, of = look.unique(dim=0, return_inverse=True)
    place = torch.arange(len(of), device=of.device) + late * len(of)
    first = torch.full((len(unique),), 2 * len(of), device=of.device).scatter_reduce(0, of, place, "amin")
    return first % len(of), of


def decide(policy: Policy, observed: Observed) -> Int[Tensor, "b l"]:
    """What the policy reveals, as picks (`unmask.policies.actions`); a rule's all have the first place.

    The network of a learned policy runs once for rows that are equal; each draws by itself.
    """
    seen = observed.observation.only(policy.needs)
    if not isinstance(policy, LearnedPolicy):
        return (policy.select(seen) & seen.selectable).long()
    if observed.copies is None:
        logits = policy.logits(seen)
    else:
        rows, of = observed.copies
        logits = policy.logits(seen.take(rows))[of]
    return policy.actions.sample(logits, seen.selectable, seen.noise) * seen.selectable


def write(
    model: MaskedDiffusionModel, observed: Observed, action: Bool[Tensor, "b l"], temperature: float
) -> Int[Tensor, "b l"]:
    """The token each revealed position takes: the likeliest, or one drawn at a token temperature above 0."""
    if temperature == 0:
        return observed.predicted
    assert observed.hidden is not None  # drawn tokens part rows, so that they do not share passes
    assert observed.slot is not None
    rows, columns = action.nonzero(as_tuple=True)
    state = observed.state
    drawn = sample(
        model.head,
        observed.hidden[observed.slot[rows, columns]],
        model.banned_ids,
        model.vocab_size,
        temperature,
        state.key[rows],
        state.step[rows],
        columns,
    )
    return observed.predicted.index_put((rows, columns), drawn)


def transition(state: DecodingState, written: Int[Tensor, "b l"], action: Bool[Tensor, "b l"]) -> DecodingState:
    """Write the dLLM's tokens at the revealed positions; everything else stays."""
    region = torch.where(action, written, state.region)
    return replace(
        state,
        tokens=torch.cat([state.tokens[:, : state.prompt_width], region], dim=1),
        masked=state.masked & ~action,
        revealed_at=torch.where(action, state.step[:, None], state.revealed_at),
        step=state.step + 1,
        changed=action.any(dim=1),
    )


def ended(state: DecodingState, eos_ids: Int[Tensor, " e"], max_steps: int, stop_at_eos: bool) -> Int[Tensor, " b"]:
    """Why each row ends here: COMPLETE (nothing masked), EOS, BUDGET, or RUNNING if it does not."""
    why = torch.where(state.step >= max_steps, BUDGET, RUNNING)
    if stop_at_eos:
        nothing_masked_before = state.masked.cumsum(dim=1) == 0
        why = why.masked_fill((torch.isin(state.region, eos_ids) & nothing_masked_before).any(dim=1), EOS)
    return why.masked_fill(~state.masked.any(dim=1), COMPLETE)


def after_eos(tokens: Int[Tensor, "b l"], eos_ids: Int[Tensor, " e"]) -> Int[Tensor, "b l"]:
    """Each row with its first EOS repeated to the end."""
    eos = torch.isin(tokens, eos_ids)
    first = tokens.gather(1, eos.int().argmax(dim=1, keepdim=True))
    return torch.where(eos.cumsum(dim=1) > 0, first, tokens)


def _held_back(
    predicted: Int[Tensor, "b l"], may: Bool[Tensor, "b l"], eos_ids: Int[Tensor, " e"]
) -> Bool[Tensor, "b l"]:
    eos = torch.isin(predicted, eos_ids) & may
    text_before = (may & ~eos).cumsum(dim=1) > 0
    return eos & text_before
