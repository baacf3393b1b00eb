"""One forward pass of the active rows, read where it is wanted; rows that hold the same tokens can share one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unmask.decoding.blocks import Blocks
from unmask.decoding.memo import Memo
from unmask.decoding.readout import PLAIN, Drawn, Sampling, read
from unmask.decoding.state import DecodingState, Memories, Reading
from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Aim, spread
from unmask.observation import WIDER, Needs


@dataclass(frozen=True)
class Duplicates:
    """Sets of rows that are the same.

    Attributes:
        rows: one row of each set.
        of: index in `rows` of each row's set.
    """

    rows: Int[Tensor, " u"]
    of: Int[Tensor, " b"]


@dataclass(frozen=True)
class Pass:
    """What one forward pass gives.

    Attributes:
        reading: of each row.
        positions: that were computed of each row.
        memory: moved on; no row changed.
        rows_run: rows the dLLM ran; fewer than there are where rows share passes.
        hidden: what the head reads at the n positions that were read; None where rows share passes.
        slot: index of each position in `hidden`, -1 elsewhere.
        equal: rows that hold the same tokens; None where rows do not share passes.
    """

    reading: Reading
    positions: Int[Tensor, " b"]
    memory: Memories
    rows_run: int
    hidden: Float[Tensor, "n h"] | None = None
    slot: Int[Tensor, "b l"] | None = None
    equal: Duplicates | None = None


def run(
    model: MaskedDiffusionModel,
    state: DecodingState,
    needs: Needs,
    blocks: Blocks,
    share: bool = False,
    sampling: Sampling = PLAIN,
    memo: Memo | None = None,
) -> Pass:
    """Ask the dLLM once what it would write, and how confident it is, at the positions the policy needs.

    Args:
        share: rows that hold the same tokens share one pass, and a row that has not changed since its last one needs
            none: worth it where prompts are repeated and steps may reveal nothing, as in GRPO's roll-outs.
        sampling: how tokens are drawn, where the policy is to see that.
        memo: of other decodings, for rows that share.
    """
    ahead = state.ahead
    scope = blocks.scope(ahead, state.block_end)
    kept = [memory for memory in (state.memory.model, state.memory.kl) if memory is not None]
    positions = max([needs.positions, *(memory.positions for memory in kept)], key=WIDER.index)
    wanted = {"selectable": scope, "masked": state.masked, "region": torch.ones_like(scope)}[positions]
    if needs.differs:
        wanted = wanted | blocks.revisable(ahead, state.block_end)
    view = blocks.view(ahead, state.prompt_length)
    if view is not None:
        wanted = wanted & view
    if share and not kept:
        return _shared(model, state, wanted, needs, sampling, memo if view is None else None)
    memory = state.memory.model
    if memory is None:
        return _plain(model, state, wanted, needs, sampling)
    begins = ahead.int().argmax(dim=1) >= state.block_end
    memory = memory.aim(Aim(state.attention, state.masked, scope, begins, state.block_end))
    state = replace(state, memory=replace(state.memory, model=memory))
    if memory.view is None:
        return _plain(model, state, wanted, needs, sampling)
    wanted = wanted & memory.view
    last, found = state.memory.reading, _plain(model, state, wanted, needs, sampling)
    reading = found.reading if last is None else found.reading.over(last, wanted)
    return replace(found, reading=reading, memory=replace(found.memory, reading=reading))


def _plain(
    model: MaskedDiffusionModel,
    state: DecodingState,
    wanted: Bool[Tensor, "b l"],
    needs: Needs,
    sampling: Sampling,
) -> Pass:
    """One forward pass of every row, read at the wanted positions."""
    rows, columns = wanted.nonzero(as_tuple=True)
    shape = (len(state), state.gen_length)
    flat = rows * state.tokens.shape[1] + columns + state.prompt_width
    computed = model.computed(state.attention, _asked(state, wanted), state.memory.model)
    hidden, moved = model.advance(state.tokens, state.attention, flat, state.memory.model)
    kept = {name: memory for name, memory in vars(state.memory).items() if memory is not None}
    readers = {name: memory.reader(rows, columns, shape) for name, memory in kept.items()}
    present = {name: reader for name, reader in readers.items() if reader is not None}
    drawn = None
    if sampling.shown:
        drawn = Drawn(sampling, state.key[rows], state.step[rows], columns)
    found = read(model.head, hidden, needs, model.banned_ids, model.vocab_size, list(present.values()), drawn)
    remembered: dict[str, Any] = {"model": moved}
    remembered |= {
        name: reader.remember(taken) for (name, reader), taken in zip(present.items(), found.read, strict=True)
    }
    reading = Reading(
        confidence=spread(found.confidence, shape, rows, columns),
        predicted=spread(found.token, shape, rows, columns),
        entropy=None if found.entropy is None else spread(found.entropy, shape, rows, columns),
        tokens=None if found.tokens is None else spread(found.tokens, shape, rows, columns),
        hidden_states=spread(hidden, shape, rows, columns) if needs.hidden_states else None,
        age=torch.zeros(shape, dtype=torch.long, device=rows.device) if needs.age else None,
    )
    slot = spread(torch.arange(len(rows), device=rows.device), shape, rows, columns, -1)
    return Pass(reading, computed, replace(state.memory, **remembered), len(state), hidden, slot)


def _shared(
    model: MaskedDiffusionModel,
    state: DecodingState,
    wanted: Bool[Tensor, "b l"],
    needs: Needs,
    sampling: Sampling,
    memo: Memo | None,
) -> Pass:
    """`_plain` of one row of each set of equal ones, and of none that has been read as it is."""
    last = state.memory.reading
    changed = state.changed if last is not None else torch.ones_like(state.changed)
    tokens = state.tokens.masked_fill(~state.attention, -1)
    equal = deduplicate(torch.cat([tokens, torch.stack([state.block_end, state.given_up], dim=1)], dim=1), changed)
    unread = changed[equal.rows].nonzero()[:, 0]
    reading, rows_run = last and last.take(equal.rows), 0
    if len(unread):
        rows, alone = equal.rows[unread], replace(state, memory=Memories())
        if memo is None:
            fresh, rows_run = _plain(model, alone.take(rows), wanted[rows], needs, sampling).reading, len(rows)
        else:
            wider = memo.needs
            wide = torch.ones_like(state.masked) if wider.positions == "region" else state.masked

            def read(some: Int[Tensor, " m"]) -> Reading:
                return _plain(model, alone.take(rows[some]), wide[rows[some]], wider, sampling).reading

            fresh, rows_run = memo.read(tokens[rows], wanted[rows], needs, read)
        reading = reading.put(unread, fresh) if reading else fresh
    assert reading is not None  # without a last reading every row has changed
    reading = reading.take(equal.of)
    computed = model.computed(state.attention, _asked(state, wanted), None)  # as if it were alone
    return Pass(reading, computed, Memories(reading=reading), rows_run, equal=equal)


def _asked(state: DecodingState, wanted: Bool[Tensor, "b l"]) -> Bool[Tensor, "b t"]:
    """Columns of prompt and region."""
    return F.pad(wanted, (state.prompt_width, 0), value=False)


def deduplicate(look: Shaped[Tensor, "b w"], late: Bool[Tensor, " b"] | None = None) -> Duplicates:
    """Rows that look the same; each set is represented by its first row, preferably one that is not late."""
    unique, of = look.unique(dim=0, return_inverse=True)
    order = torch.arange(len(of), device=of.device)
    if late is not None:
        order = order + late * len(of)
    first = torch.full((len(unique),), 2 * len(of), device=of.device).scatter_reduce(0, of, order, "amin")
    return Duplicates(first % len(of), of)
