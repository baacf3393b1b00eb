"""dLLMs that attend in full within a block and causally between blocks, with an exact cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unmask.errors import UnmaskError
from unmask.models.decoder import StockDecoder
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
        values: of each layer, keys and then values; None before the first pass.
        moved: how the last pass leaves it.
    """

    filled: Int[Tensor, " b"]
    last: Float[Tensor, "b h"] | None = None
    values: Float[Tensor, "layers 2 b heads capacity d"] | None = None
    moved: list[BlockCache] = field(default_factory=list)

    def take(self, rows: Tensor) -> BlockCache:
        values = None if self.values is None else self.values[:, :, rows]
        return BlockCache(self.filled[rows], None if self.last is None else self.last[rows], values)

    def join(self, n: int) -> BlockCache:
        def longer(values: Tensor | None, dim: int) -> Tensor | None:
            if values is None:
                return None
            shape = [*values.shape[:dim], n, *values.shape[dim + 1 :]]
            return torch.cat([values, values.new_zeros(shape)], dim=dim)

        filled = torch.cat([self.filled, self.filled.new_zeros(n)])
        return BlockCache(filled, longer(self.last, 0), longer(self.values, 2))

    def advance(self) -> BlockCache:
        assert self.moved  # a pass has been run
        return self.moved[-1]

    def room(self, capacity: int, shape: tuple[int, int, int], like: Tensor) -> Tensor:
        """Buffers of at least this capacity, with what is filled.

        Args:
            shape: layers, heads and width of a head.
            like: of the same dtype and device.
        """
        held = 0 if self.values is None else self.values.shape[4]
        if self.values is not None and held >= capacity:
            return self.values
        layers, heads, width = shape
        more = -(-capacity // GROWTH) * GROWTH
        grown = like.new_zeros(layers, 2, len(self.filled), heads, more, width)
        if self.values is not None:
            grown[..., :held, :] = self.values
        return grown


class _Writes:
    """What transformers' attention asks for its keys: puts those of this pass among those that are there."""

    is_compileable = False

    def __init__(self, cache: BlockCache, place: Int[Tensor, "b w"], reach: int, shape: tuple[int, int, int]) -> None:
        self._cache, self._place, self._reach, self._shape = cache, place, reach, shape
        self._rows = torch.arange(len(place), device=place.device)[:, None]
        self.values: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.values is None:
            self.values = self._cache.room(self._reach, self._shape, key)
        for kept, fresh in zip(self.values[layer], (key, value), strict=True):
            kept.transpose(1, 2)[self._rows, self._place] = fresh.transpose(1, 2)
        keys, values = self.values[layer][..., : self._reach, :]
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0


class BlockCausalDecoder(StockDecoder):
    """The architecture under a block-causal mask: SDAR, LLaDA2, Fast-dLLM v2.

    Blocks of `block_length` are counted from a row's first token: the rest of a prompt that fills no block shares the
    first one with the region. A pass spans a window: from the first block that is not in the cache to the one that is
    decoded; what is finished goes into the cache in the same pass. Behind the region the last block is filled up with
    masks.

    Args:
        caches: keep keys and values of finished blocks from pass to pass.
        settings: of `StockDecoder`.

    Raises:
        UnmaskError: an attention implementation that takes no such mask, or layers on several devices.
    """

    block_length: int

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        block_length: int,
        caches: bool = True,
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
        self.block_length, self.caches = block_length, caches

    def memory(self, rows: int) -> BlockCache | None:
        if not self.caches:
            return None
        return BlockCache(torch.zeros(rows, dtype=torch.long, device=self.device))

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        cache = memory if isinstance(memory, BlockCache) else None
        row, own, first, end = self._asked(attention, positions)
        start = torch.zeros_like(end) if cache is None else cache.filled
        width, latest = torch.stack([(end - start).max(), start.max()]).tolist()  # one wait
        reach = latest + width  # keys that are looked at
        place = start[:, None] + torch.arange(width, device=tokens.device)
        column = place + (~attention).sum(dim=1, keepdim=True)
        inside = column < tokens.shape[1]
        ids = torch.where(inside, tokens.gather(1, column.clamp(max=tokens.shape[1] - 1)), self.mask_id)
        see = self._see(place, end, reach)
        if cache is None:
            last = self._run(ids, place, see, None)
        else:
            writes = _Writes(cache, place, reach, self._shape())
            last = self._run(ids, place, see, writes)
            filled = torch.maximum(first * self.block_length, start)
            cache.moved[:] = [self._moved(cache, writes, filled, start, last)]
        at = own - start[row] - int(self.shifted) * (own > 0)
        found = last[row, at.clamp(min=0)]
        if self.shifted and cache is not None and cache.last is not None:
            found = torch.where((at < 0)[:, None], cache.last[row], found)
        return found.to(self.device)

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
        writes: _Writes,
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
        return replace(cache, filled=filled, last=last, values=writes.values, moved=[])

    def _shape(self) -> tuple[int, int, int]:
        config = self.network.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return config.num_hidden_layers, config.num_key_value_heads, width
