"""Keys and values of attention layers, each at its token's own position, for whatever cache keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class KeyValues:
    """Of some rows.

    Attributes:
        layers: of each layer, keys and then values, (2, b, heads, capacity, d); nothing before the first pass.
    """

    layers: tuple[Tensor, ...] = ()

    def take(self, rows: Tensor) -> KeyValues:
        """The rows named by a boolean mask or by indices, in that order."""
        return KeyValues(tuple(layer[:, rows] for layer in self.layers))

    def join(self, n: int) -> KeyValues:
        """With n fresh rows behind."""
        return KeyValues(
            tuple(torch.cat([layer, layer.new_zeros(2, n, *layer.shape[2:])], dim=1) for layer in self.layers)
        )


class Writer:
    """One pass over some rows puts its keys and values among those that are there, and looks at them all.

    They are written in place: what a pass overwrites, it would compute again if it were repeated.

    Args:
        held: of all rows.
        batch: how many those are.
        place: own position of each token of the pass; `reach` where it is nobody's.
        reach: positions that are looked at.
        rows: those of the pass, None for all.
        growth: positions that buffers grow by at least.
    """

    def __init__(
        self,
        held: KeyValues,
        batch: int,
        place: Int[Tensor, "r w"],
        reach: int,
        *,
        rows: Int[Tensor, " r"] | None = None,
        growth: int = 1,
    ) -> None:
        self._layers, self._batch, self._place, self._reach = list(held.layers), batch, place, reach
        self._rows, self._growth = rows, growth
        self._at = torch.arange(batch, device=place.device) if rows is None else rows

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer up to `reach`, (r, heads, reach, d) each."""
        kept = self._room(layer, key)
        for buffer, fresh in zip(kept, (key, value), strict=True):
            buffer.transpose(1, 2)[self._at[:, None], self._place] = fresh.transpose(1, 2)
        seen = kept if self._rows is None else kept[:, self._rows]
        keys, values = seen[..., : self._reach, :]
        return keys, values

    @property
    def key_values(self) -> KeyValues:
        """With what was written."""
        return KeyValues(tuple(self._layers))

    def _room(self, layer: int, like: Tensor) -> Tensor:
        """The layer's buffer, with a place behind those that are looked at."""
        held = self._layers[layer] if layer < len(self._layers) else None
        if held is not None and held.shape[3] > self._reach:
            return held
        capacity = -(-(self._reach + 1) // self._growth) * self._growth
        grown = like.new_zeros(2, self._batch, like.shape[1], capacity, like.shape[3])
        if held is None:
            self._layers.append(grown)
        else:
            grown[..., : held.shape[3], :] = held
            self._layers[layer] = grown
        return grown
