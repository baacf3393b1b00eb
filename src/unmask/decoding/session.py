"""The body of the decode loop: rows come, are observed by one forward pass, revealed, and end.

`unmask.generate`, roll-outs, evaluation, the environment and serving are faces of a `Session`; there is no second loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.memo import Memo
from unmask.decoding.options import Options
from unmask.decoding.passes import Duplicates, Pass, deduplicate, run
from unmask.decoding.results import Ended
from unmask.decoding.state import DecodingState, Memories, Step, StepCallback, begin
from unmask.decoding.step import (
    BUDGET,
    RUNNING,
    STOP,
    after_eos,
    ended,
    hold_back_eos,
    observation_of,
    refuse_nan,
    transition,
    write,
)
from unmask.errors import UnmaskError, is_out_of_memory
from unmask.models.base import MaskedDiffusionModel
from unmask.models.guidance import Guided
from unmask.noise import uniform
from unmask.observation import Needs, Observation


@dataclass
class Totals:
    """What decoding took so far.

    Attributes:
        model_seconds: in the dLLM. On an accelerator, queued work counts for whoever waits for it.
        policy_seconds: in the policy, counted in the same way.
        passes: forward passes: the NFE of all rows together; rows that share a pass count each.
        passes_run: rows that the dLLM really ran; a pass that rows share counts once, one read from a memo not at all.
    """

    model_seconds: float = 0.0
    policy_seconds: float = 0.0
    passes: int = 0
    passes_run: int = 0


@dataclass
class _Own:
    """What the host knows of an active row.

    Attributes:
        since: when it was added.
        stop: texts at which it ends.
        looked: positions that were searched for them.
    """

    since: float
    stop: tuple[str, ...]
    looked: int = 0


class Session:
    """Rows that are being decoded. Each is decoded as if it were alone.

    On an accelerator the host waits for a step twice: to index the positions that are read, and to learn who ended
    (transformers' masks wait once more). Shared passes and drawn tokens, and steps in which rows end, wait more often:
    `tests/device` holds the counts.

    Args:
        needs: what observations must hold.
        share: rows with equal tokens share a forward pass, as in `unmask.decoding.passes.run`.
        callback: called with each `Step`.
        totals: counted into; a fresh one by default.
        memo: of other decodings of these prompts, where it serves this one.

    Raises:
        UnmaskError: guidance for a dLLM or a policy that it does not go with.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        needs: Needs,
        options: Options,
        *,
        share: bool = False,
        callback: StepCallback | None = None,
        totals: Totals | None = None,
        memo: Memo | None = None,
    ) -> None:
        if options.cfg_scale > 0:
            if needs.hidden_states:
                raise UnmaskError(
                    "cfg_scale mixes two passes, and this policy reads hidden states of one: leave it out."
                )
            if options.cache != "none":
                raise UnmaskError(
                    "cfg_scale runs the dLLM twice a pass, and a cache holds the keys of one: leave it out, or set "
                    'cache = "none".'
                )
            model = Guided(model, options.cfg_scale, options.gen_length)
        self.model, self.needs, self.options = model, needs, options
        self.totals = totals or Totals()
        self._memo = memo if memo is not None and memo.serves(model, needs, options) else None
        # Drawn tokens part rows; a row that is revised may look like one that goes on.
        self._share = (share or self._memo is not None) and not options.sampling.draws and options.post_steps is None
        self._callback = callback
        self._state: DecodingState | None = None
        self._before: DecodingState | None = None  # the pass that was observed
        self._pass: Pass | None = None
        self._observation: Observation | None = None
        self._own: dict[int, _Own] = {}

    def __len__(self) -> int:
        """Active rows."""
        return 0 if self._state is None else len(self._state)

    @property
    def rows(self) -> Int[Tensor, " b"]:
        """The index that each active row was added under, in the order of observations."""
        return self._active.row

    def duplicates(self) -> Duplicates | None:
        """Rows last observed that no policy can tell apart; None where rows do not share passes."""
        if self._pass is None or self._pass.equal is None:
            return None
        told = [self._pass.equal.of, self._active.step]
        if self.needs.speed:
            told.append(self._active.speed.view(torch.int32))
        if self.needs.block_step:
            told.append(self._active.block_step)
        return deduplicate(torch.stack(told, dim=1))

    @property
    def _active(self) -> DecodingState:
        if self._state is None:
            raise UnmaskError("There are no active rows: add prompts first.")
        return self._state

    def add(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        keys: Int[Tensor, " n"],
        speeds: Sequence[float] | None = None,
        stops: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        """Begin rows: token ids, an index of the caller's for each, each one's random stream, and its speed.

        Args:
            speeds: by default that of the options, or else 0.
            stops: texts at which each row ends; by default those of the options. `Ended.texts` is cut at the options'
                alone.
        """
        if not prompts:
            return
        fresh = begin(
            self.model,
            prompts,
            self.options.gen_length,
            rows=rows,
            keys=keys,
            blocks=self.options.blocks,
            speeds=[self.options.speed or 0.0] * len(prompts) if speeds is None else speeds,
            kl_history=self.needs.kl_history,
            cache=self.options.cache,
        )
        self._forget_pass()
        joined = fresh
        if self._state is not None:
            with self.enough_memory():
                joined = self._state.join(fresh, self.model.pad_id)
        now, ends = time.perf_counter(), [self.options.stop] * len(rows) if stops is None else stops
        self._own |= {row: _Own(now, stop) for row, stop in zip(rows, ends, strict=True)}
        self._state = joined

    def drop(self, rows: Collection[int]) -> None:
        """Give up active rows, by the indices that they were added under; the others go on as if alone."""
        if self._state is None:
            return
        self._forget_pass()
        kept = [i for i, row in enumerate(self._state.row.tolist()) if row not in rows]
        left = torch.tensor(kept, dtype=torch.long).to(self._state.row.device)
        self._state = self._state.take(left).trim() if kept else None
        for row in rows:
            self._own.pop(row, None)

    def standing(self) -> dict[int, list[int]]:
        """The tokens of each active row up to its first open position: no later pass changes them.

        While a block is revised nothing of its row stands, not even what stood before it.
        """
        if self._state is None:
            return {}
        state = self._before if self._before is not None and self._pass is not None else self._state
        found = torch.cat([state.row[:, None], self._standing(state)[:, None], state.region], dim=1)
        return {row: tokens[:n] for row, n, *tokens in found.tolist()}  # one wait

    def _standing(self, state: DecodingState) -> Int[Tensor, " b"]:
        lengths = (state.open.cumsum(dim=1) == 0).sum(dim=1)
        return lengths if self.options.post_steps is None else lengths.masked_fill(state.in_block, 0)

    def _forget_pass(self) -> None:
        """A pass that was observed and not acted on is of the rows of then: they are observed anew."""
        if self._pass is not None:
            self._state = self._before
        self._pass = self._observation = None

    @contextmanager
    def enough_memory(self) -> Iterator[None]:
        """
        Raises:
            UnmaskError: torch says that the device's memory is full.
        """
        try:
            yield
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
            raise UnmaskError(_too_large(self.model, self._active)) from e

    @torch.no_grad()
    def observe(self) -> Observation:
        """One forward pass of the active rows, unless nothing has changed since the last one.

        Raises:
            UnmaskError: too little memory.
        """
        if self._observation is not None:
            return self._observation
        state, options, started = self._active, self.options, time.perf_counter()
        with self.enough_memory():
            last = run(self.model, state, self.needs, options.blocks, self._share, options.sampling, self._memo)
        reading = last.reading
        ahead = state.ahead
        scope = options.blocks.scope(ahead, state.block_end) & state.open
        block_end = options.blocks.end(ahead, state.block_end, reading.predicted, reading.confidence[..., 0])
        block_step = state.block_step * (block_end == state.block_end)
        selectable = scope & (torch.arange(state.gen_length, device=scope.device) < block_end[:, None])
        if options.suppress_eos:
            reading = hold_back_eos(reading, selectable, self.model.eos_ids, self.model.vocab_size)
        kl = last.memory.kl.kl if last.memory.kl is not None else None
        noise = uniform(state.key, state.step, state.gen_length)
        speed = state.speed if self.needs.speed else None
        in_block = block_step if self.needs.block_step else None
        differs = None
        if self.needs.differs:
            other = (reading.predicted != state.region) & ~state.masked
            differs = options.blocks.revisable(ahead, state.block_end) & other
        observation = observation_of(reading, state.masked, selectable, state.step, noise, kl, speed, in_block, differs)
        if state.memory.model is not None:  # which may have read more than the policy needs
            observation = observation.only(self.needs)
        self._before = state
        self._state = replace(state, block_end=block_end, block_step=block_step, memory=last.memory)
        self._pass, self._observation = last, observation
        self.totals.model_seconds += time.perf_counter() - started
        self.totals.passes += len(state)
        self.totals.passes_run += last.rows_run
        return observation

    @torch.no_grad()
    def reveal(self, picks: Int[Tensor, "b l"], edits: Bool[Tensor, "b l"] | None = None) -> Ended | None:
        """Reveal what a policy has picked of what `observe` showed, and overwrite what it revises.

        Args:
            picks: above 0 where a position is revealed; only selectable ones may be.
            edits: revealed positions that take the predicted token; only those that differ may be.

        Returns:
            The rows that ended, which are no longer active; None if none did.

        Raises:
            UnmaskError: the dLLM's logits were NaN; edits without an observation of what differs.
        """
        observation, state, last = self.observe(), self._active, self._pass
        assert last is not None
        action = picks > 0
        if edits is not None:
            if observation.differs is None:
                raise UnmaskError("Edits are given, and what differs was not observed: let needs have differs.")
            edits = edits & observation.differs
        with self.enough_memory():
            written = write(self.model, state, last, action, self.options.sampling)
        if self._callback is not None:
            self._callback(Step(state, observation, last.reading.predicted, written, action, picks, edits))
        posts = self.options.post_steps
        state = transition(state, written, action, last.positions, self.options.max_block_steps, edits, posts)
        why = ended(
            state, self.model.eos_ids, self.options.max_steps, self.options.stop_at_eos, waits=posts is not None
        )
        # What the host must know comes over in one copy: why each row ended, and whether a confidence is NaN.
        *codes, nan = torch.cat([why, observation.confidence.isnan().any().long()[None]]).tolist()
        refuse_nan(bool(nan), self.model)
        if any(own.stop for own in self._own.values()):
            codes = self._stopped(state, codes)
        self._state, self._pass, self._observation = state, None, None
        if all(code == RUNNING for code in codes):
            return None
        # Indices from the host: a mask would be counted anew, by a wait, for each of the state's tensors.
        gone = replace(state, memory=Memories()).take(_indices(codes, lambda code: code != RUNNING, state))
        left = _indices(codes, lambda code: code == RUNNING, state)
        self._state = state.take(left).trim() if len(left) else None
        tokens = after_eos(gone.region, self.model.eos_ids) if self.options.stop_at_eos else gone.region
        rows = gone.row.tolist()
        now = time.perf_counter()
        return Ended(
            row=gone.row,
            tokens=tokens,
            say=partial(self.options.text, self.model),
            nfe=gone.step,
            positions=gone.positions,
            full_passes=gone.full_passes,
            equivalents=gone.positions / gone.attention.sum(dim=1),
            revealed_at=gone.revealed_at,
            why=[code for code in codes if code != RUNNING],
            seconds=[now - self._own.pop(row).since for row in rows],
        )

    def _stopped(self, state: DecodingState, codes: Sequence[int]) -> list[int]:
        """With STOP for running rows whose text stands up to a stop string."""
        standing = self._standing(state)
        found = list(codes)
        for i, (row, n) in enumerate(torch.stack([state.row, standing], dim=1).tolist()):
            own = self._own[row]
            if codes[i] != RUNNING or n == own.looked or not own.stop:
                continue
            own.looked = n
            tokens = state.region[i, :n].tolist()
            text = self.model.text(tokens)
            if any(stop in text for stop in own.stop):
                found[i] = BUDGET if self.model.mask_id in tokens else STOP  # what is given up is not complete
        return found


def _too_large(model: MaskedDiffusionModel, state: DecodingState) -> str:
    rows, width = state.tokens.shape
    remedy = f"try batch_size {rows // 2}" if rows > 1 else "take a smaller dtype, fewer bits, or a shorter gen_length"
    return f"{model.device} has too little memory for a pass of {rows} rows of {width} positions: {remedy}."


def _indices(codes: Sequence[int], wanted: Callable[[int], bool], state: DecodingState) -> Int[Tensor, " n"]:
    return torch.tensor([i for i, code in enumerate(codes) if wanted(code)], dtype=torch.long).to(state.row.device)
