"""dLLMs that attend in full within a block and causally between blocks, with an exact cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unmask.errors import UnmaskError
from unmask.models.decoder import StockDecoder
from unmask.models.key_values import KeyValues, Writer
from unmask.models.memory import Memory

GROWTH = 256  # positions that a cache grows by


@dataclass(frozen=True)
class BlockCache(Memory):
    """Keys and values of the blocks that are finished, at each token's own position.

    A pass writes the keys of its window in place, behind what is filled: they count from when `filled` says so, so that
    a step that fails changes nothing.

    Attributes:
        filled: positions whose keys are final, whole blocks of each row.
        last: hidden state of the last of them, which predicts the next token where logits are shifted.
        held: keys and values.
    """

    filled: Int[Tensor, " b"]
    last: Float[Tensor, "b h"] | None = None
    held: KeyValues = field(default_factory=KeyValues)

    def take(self, rows: Tensor) -> BlockCache:
        return BlockCache(self.filled[rows], None if self.last is None else self.last[rows], self.held.take(rows))

    def join(self, n: int) -> BlockCache:
        last = None if self.last is None else torch.cat([self.last, self.last.new_zeros(n, self.last.shape[1])])
        return BlockCache(torch.cat([self.filled, self.filled.new_zeros(n)]), last, self.held.join(n))


class _Writes:
    """What transformers' attention asks for its keys: puts those of this pass among those that are there."""

    is_compileable = False

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._writer.write(layer, key, value)

    def get_seq_length(self, *_: Any) -> int:
        return 0


class BlockCausalDecoder(StockDecoder):
    """The architecture under a block-causal mask: SDAR, LLaDA2, Fast-dLLM v2.

    Blocks of `block_length` are counted from a row's first token: the rest of a prompt that fills no block shares the
    first one with the region. A pass spans a window: from the first block that is not in the cache to the one that is
    decoded; what is finished goes into the cache in the same pass. Behind the region the last block is filled up with
    masks.

    Args:
        settings: of `StockDecoder`.

    Raises:
        UnmaskError: an attention implementation that takes no such mask, or layers on several devices.
    """

    block_length: int
    caches = ("exact",)

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        block_length: int,
        **settings: Any,
    ) -> None:
        super().__init__(name, network, tokenizer, **settings)
        attention, devices = network.config._attn_implementation, {str(p.device) for p in network.parameters()}
        if attention not in ("sdpa", "eager"):
            raise UnmaskError(
                f"{name!r} needs a mask between blocks, which {attention} does not take: use sdpa or eager."
            )
        if len(devices) > 1:
            raise UnmaskError(
                f"{name!r} is spread over {', '.join(sorted(devices))}, and a block-causal dLLM is decoded on one: "
                "leave out device_map, or load it in fewer bits."
            )
        self.block_length = block_length

    def memory(self, rows: int, cache: str = "none") -> BlockCache | None:
        if cache == "none":
            return None
        return BlockCache(torch.zeros(rows, dtype=torch.long, device=self.device))

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        return self._pass(tokens, attention, positions, None)[0]

    def advance(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "n h"], Memory | None]:
        return self._pass(tokens, attention, positions, memory if isinstance(memory, BlockCache) else None)

    def computed(
        self, attention: Bool[Tensor, "b t"], asked: Bool[Tensor, "b t"], memory: Memory | None
    ) -> Int[Tensor, " b"]:
        own = attention.cumsum(dim=1) - 1
        end = (own.masked_fill(~asked, 0).amax(dim=1) // self.block_length + 1) * self.block_length
        return end - memory.filled if isinstance(memory, BlockCache) else end

    def _pass(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        cache: BlockCache | None,
    ) -> tuple[Float[Tensor, "n h"], BlockCache | None]:
        row, own, first, end = self._asked(attention, positions)
        start = torch.zeros_like(end) if cache is None else cache.filled
        width, latest = torch.stack([(end - start).max(), start.max()]).tolist()  # one wait
        reach = latest + width  # keys that are looked at
        place = start[:, None] + torch.arange(width, device=tokens.device)
        column = place + (~attention).sum(dim=1, keepdim=True)
        inside = column < tokens.shape[1]
        ids = torch.where(inside, tokens.gather(1, column.clamp(max=tokens.shape[1] - 1)), self.mask_id)
        see = self._see(place, end, reach)
        writer = None if cache is None else Writer(cache.held, len(tokens), place, reach, growth=GROWTH)
        last = self._run(ids, place, see, None if writer is None else _Writes(writer))
        at = own - start[row] - int(self.shifted) * (own > 0)
        found = last[row, at.clamp(min=0)]
        if self.shifted and cache is not None and cache.last is not None:
            found = torch.where((at < 0)[:, None], cache.last[row], found)
        if cache is None or writer is None:
            return found.to(self.device), None
        filled = torch.maximum(first * self.block_length, start)
        return found.to(self.device), self._moved(cache, writer.key_values, filled, start, last)

    def _asked(
        self, attention: Bool[Tensor, "b t"], positions: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Of each position its row and own place; of each row the first block asked about and where the last ends."""
        b, t = attention.shape
        row = positions // t
        own = (attention.cumsum(dim=1) - 1)[row, positions % t]
        block = own // self.block_length
        none = torch.zeros(b, dtype=torch.long, device=attention.device)
        last = none.scatter_reduce(0, row, block, "amax", include_self=True)
        first = last.scatter_reduce(0, row, block, "amin", include_self=True)
        return row, own, first, (last + 1) * self.block_length

    def _see(self, place: Int[Tensor, "b w"], end: Int[Tensor, " b"], reach: int) -> Tensor:
        """The attention mask (b, 1, w, keys), as the attention implementation takes it."""
        key = torch.arange(reach, device=place.device)
        size = self.block_length
        see = (key // size <= (place // size)[..., None]) & (key < end[:, None, None])
        if self.network.config._attn_implementation == "eager":  # which adds its mask
            added = torch.zeros(see.shape, dtype=self.network.dtype, device=see.device)
            return added.masked_fill(~see, torch.finfo(added.dtype).min)[:, None]
        return see[:, None]

    def _run(self, ids: Tensor, place: Tensor, see: Tensor, writes: _Writes | None) -> Float[Tensor, "b w h"]:
        out: Float[Tensor, "b w h"] = self.network.base_model(
            input_ids=ids,
            attention_mask=see,
            position_ids=place,
            past_key_values=writes,
            use_cache=writes is not None,
        ).last_hidden_state
        return out

    def _moved(
        self,
        cache: BlockCache,
        held: KeyValues,
        filled: Int[Tensor, " b"],
        start: Int[Tensor, " b"],
        hidden: Float[Tensor, "b w h"],
    ) -> BlockCache:
        """The cache with all blocks before the ones that are decoded."""
        last = cache.last
        if self.shifted:
            rows = torch.arange(len(filled), device=filled.device)
            newest = hidden[rows, (filled - start - 1).clamp(min=0)]
            before = newest if last is None else last
            last = torch.where((filled > start)[:, None], newest, before)
        return BlockCache(filled, last, held)
