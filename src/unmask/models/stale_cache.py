"""Caches for dLLMs in which every position sees all others: keys and values are kept although they would have changed.

Every token that is revealed changes the keys of all others, so what is kept is stale until it is computed anew. The
kinds differ in what a pass computes:

- ``prefix`` (Fast-dLLM, arXiv 2505.22618): the first pass of a block computes everything; the others, all from the
  block's beginning on.
- ``dual`` (Fast-dLLM): the same, but the others compute the block alone.
- ``adaptive`` (after d2Cache, arXiv 2509.23094): only a row's first pass computes everything. The others compute the
  block's masked positions, those just revealed, and of the rest the ones that the last pass attended to most, by
  attention rollout.

What a pass does not compute keeps its last reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from unmask.models.base import MaskedDiffusionModel
from unmask.models.key_values import KeyValues, Writer
from unmask.models.memory import Aim, Memory

STALE = ("prefix", "dual", "adaptive")
ROLLOUT = 0.1  # share of the attention, beside what is computed anyway, whose positions are computed, too (d2Cache)


@dataclass(frozen=True)
class StaleCache(Memory):
    """Keys and values of all positions of each row, and which of them the coming pass computes.

    Attributes:
        kind: one of `STALE`.
        known: rows that a pass has computed in full.
        start: position of the region at which the row's current block began.
        held: keys and values.
        compute: columns of prompt and region that the coming pass computes; None until it is aimed.
        shown: positions of the region whose predictions it computes.
        shifted: as in `StockDecoder`: a position is predicted at the one before it.
        masked: positions that were masked at the last pass.
        attended: how much the last pass attended to each place of a row, by attention rollout (adaptive).
    """

    kind: str
    known: Bool[Tensor, " b"]
    start: Int[Tensor, " b"]
    shifted: bool = False
    held: KeyValues = field(default_factory=KeyValues)
    compute: Bool[Tensor, "b t"] | None = None
    shown: Bool[Tensor, "b l"] | None = None
    masked: Bool[Tensor, "b l"] | None = None
    attended: Float[Tensor, "b reach"] | None = None

    @classmethod
    def begin(cls, kind: str, rows: int, device: torch.device, shifted: bool = False) -> StaleCache:
        """Nothing is known yet."""
        nothing = torch.zeros(rows, dtype=torch.long, device=device)
        return StaleCache(kind, nothing.bool(), nothing, shifted)

    def take(self, rows: Tensor) -> StaleCache:
        taken: dict[str, Any] = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **taken, held=self.held.take(rows))

    def join(self, n: int) -> StaleCache:
        joined: dict[str, Any] = {
            name: torch.cat([value, value.new_zeros(n, *value.shape[1:])])
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **joined | {"compute": None, "shown": None}, held=self.held.join(n))

    def trim(self, columns: int) -> StaleCache:
        return replace(self, compute=None, shown=None)

    @property
    def view(self) -> Bool[Tensor, "b l"] | None:
        return self.shown

    def aim(self, at: Aim) -> StaleCache:
        everything = ~self.known if self.kind == "adaptive" else ~self.known | at.begins
        start = torch.where(everything, at.scope.int().argmax(dim=1), self.start)
        place = torch.arange(at.masked.shape[1], device=start.device)
        if self.kind == "prefix":
            view = place >= start[:, None]
        elif self.kind == "dual":
            view = (place >= start[:, None]) & (place < at.block_end[:, None])
        else:
            view = at.scope if self.masked is None else at.scope | (self.masked & ~at.masked)
        prompt = at.attention.shape[1] - at.masked.shape[1]
        compute = torch.nn.functional.pad(view, (prompt, 0), value=False)
        if self.kind == "adaptive" and self.attended is not None:
            compute = compute | self._most_attended(at.attention, compute)
        compute = (compute | everything[:, None]) & at.attention
        shown = compute[:, prompt:]
        if self.shifted:
            compute = (compute | torch.nn.functional.pad(compute[:, 1:], (0, 1), value=False)) & at.attention
        return replace(self, start=start, compute=compute, shown=shown, masked=at.masked)

    def _most_attended(self, attention: Bool[Tensor, "b t"], chosen: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
        """Columns that most of the attention went to, of those that are not chosen: at least one, up to `ROLLOUT`."""
        assert self.attended is not None
        own = (attention.cumsum(dim=1) - 1).clamp(min=0)
        rest = attention & ~chosen
        weight = self.attended.gather(1, own.clamp(max=self.attended.shape[1] - 1)) * rest
        share, order = (weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-12)).sort(
            dim=1, descending=True, stable=True
        )
        few = share.cumsum(dim=1) <= ROLLOUT
        few[:, 0] = True
        return torch.zeros_like(rest).scatter(1, order, few) & rest

    def computed(self, attention: Bool[Tensor, "b t"]) -> Int[Tensor, " b"]:
        assert self.compute is not None  # it was aimed
        return self.compute.sum(dim=1)

    def passed(
        self, network: PreTrainedModel, tokens: Int[Tensor, "b t"], attention: Bool[Tensor, "b t"], run: Body
    ) -> tuple[Float[Tensor, "b t h"], StaleCache]:
        """What a pass computes: its hidden states (nothing of worth elsewhere), and what is kept then.

        Rows that compute everything run apart from the others, which then need not be as wide.

        Args:
            network: whose attention it is.
            run: token ids, own positions (r, w) and an attention mask (r, 1, w, reach) -> hidden states.
        """
        assert self.compute is not None  # it was aimed
        own, lengths = (attention.cumsum(dim=1) - 1).clamp(min=0), attention.sum(dim=1)
        counts = self.compute.sum(dim=1)
        widths = torch.stack([counts, lengths], dim=1).tolist()  # the host waits once
        reach = max(length for _, length in widths)
        groups = [
            [row for row, (count, length) in enumerate(widths) if (count == length) is whole] for whole in (True, False)
        ]
        held, hidden = self.held, None
        attended = lengths.new_zeros(len(lengths), reach, dtype=torch.float32) if self.kind == "adaptive" else None
        for group in groups:
            if not group:
                continue
            rows = None if len(group) == len(widths) else torch.tensor(group, device=tokens.device)
            width = max(widths[row][0] for row in group)
            chosen, ids, place, length = (x if rows is None else x[rows] for x in (self.compute, tokens, own, lengths))
            column = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :width]
            real, place = chosen.gather(1, column), place.gather(1, column)
            see = (torch.arange(reach, device=tokens.device) < length[:, None])[:, None, None]
            writer = Writer(held, len(widths), place.masked_fill(~real, reach), reach, rows=rows)
            under_way = _UnderWay(writer, see, place, real if attended is not None else None)
            with _attending(network, under_way):
                last = run(ids.gather(1, column), place, see.expand(-1, -1, width, -1))
            held = writer.key_values
            hidden = last.new_zeros(*tokens.shape, last.shape[-1]) if hidden is None else hidden
            at = torch.arange(len(widths), device=tokens.device) if rows is None else rows
            hidden[at[:, None], column] = last
            if attended is not None:
                attended[at] = under_way.attended(length)
        assert hidden is not None  # there is an active row
        known = torch.ones_like(self.known)
        return hidden, replace(self, known=known, held=held, attended=attended)


Body = Callable[[Int[Tensor, "r w"], Int[Tensor, "r w"], Bool[Tensor, "r 1 w reach"]], Float[Tensor, "r w h"]]


class _UnderWay:
    """A pass of some rows, as its attention layers see it one after the other.

    Args:
        see: keys that are there.
        place: own positions of its tokens.
        real: tokens that are not there to fill up; None where nobody asks what is attended to.
    """

    def __init__(
        self, writer: Writer, see: Bool[Tensor, "r 1 1 reach"], place: Int[Tensor, "r w"], real: Tensor | None
    ) -> None:
        self._writer, self._see, self._place, self._real = writer, see, place, real
        self._layer = 0
        self._rollout: Tensor | None = None

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """One layer: as `sdpa`, over what is kept and what is fresh."""
        keys, values = self._writer.write(self._layer, key, value)
        self._layer += 1
        if self._real is not None:
            self._roll(query, keys, scaling)
        see = self._see.expand(-1, -1, query.shape[2], -1)
        out, _ = sdpa_attention_forward(module, query, keys, values, see, scaling=scaling, is_causal=False)
        return out

    def _roll(self, query: Tensor, keys: Tensor, scaling: float | None) -> None:
        """R <- (E + I) R, rows made to add up to 1: E is the heads' mean attention, I where nothing is computed."""
        keys = repeat_kv(keys, query.shape[1] // keys.shape[1]).float()
        scores = query.float() @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        seen = scores.masked_fill(~self._see, -torch.inf).softmax(dim=-1).mean(dim=1)
        reach = seen.shape[-1]
        if self._rollout is None:
            self._rollout = torch.eye(reach, device=seen.device).expand(len(seen), -1, -1).clone()
        old = self._rollout
        own = old.gather(1, self._place[..., None].expand(-1, -1, reach))
        mixed = (seen @ old + own) / 2
        # What fills up is written behind the last row, which is dropped.
        assert self._real is not None
        at = self._place.masked_fill(~self._real, reach)
        longer = torch.cat([old, old[:, :1]], dim=1)
        self._rollout = longer.scatter(1, at[..., None].expand(-1, -1, reach), mixed)[:, :reach]

    def attended(self, length: Int[Tensor, " r"]) -> Float[Tensor, "r reach"]:
        """How much all positions of a row together draw on each."""
        assert self._rollout is not None
        there = torch.arange(self._rollout.shape[1], device=length.device) < length[:, None]
        return (self._rollout * there[..., None]).sum(dim=1)


_UNDER_WAY: ContextVar[_UnderWay] = ContextVar("unmask_under_way")
_NAME = "unmask_stale"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What layers call while a cached pass is under way."""
    return _UNDER_WAY.get().attend(module, query, key, value, scaling), None


AttentionInterface.register(_NAME, _attention)


@contextmanager
def _attending(network: PreTrainedModel, under_way: _UnderWay) -> Iterator[None]:
    """Attention goes through `under_way`."""
    config, token = network.config, _UNDER_WAY.set(under_way)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _UNDER_WAY.reset(token)


def can_be_cached(network: PreTrainedModel) -> bool:
    """Its attention goes through transformers' interface, in full in every layer, and its weights lie on one device."""
    config = network.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    one_device = len({p.device for p in network.parameters()}) == 1
    return bool(type(network)._supports_attention_backend) and kinds == {"full_attention"} and one_device


@torch.no_grad()
def is_kept_well(model: MaskedDiffusionModel) -> bool:
    """A pass over a few positions gives what one over all of them gives: the network goes by the positions it is told.

    Some go by the order of the tokens, join neighbours, or read the mask in their own way.
    """
    tokens = torch.arange(6, device=model.device)[None] % model.vocab_size
    attention, places = torch.ones_like(tokens, dtype=torch.bool), torch.arange(6, device=model.device)
    some = (places >= 2) & (places < 4)
    cache = StaleCache.begin("dual", 1, model.device)
    try:
        plain = model.hidden(tokens, attention, places)
        _, filled = model.advance(tokens, attention, places, replace(cache, compute=attention))
        assert isinstance(filled, StaleCache)
        found, _ = model.advance(tokens, attention, places[some], replace(filled, compute=some[None]))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    width = 1e-3 if plain.dtype == torch.float32 else 5e-2
    return bool((found - plain[some]).abs().max() <= width * plain.float().std())
