"""What passes have read, kept from decoding to decoding: the cells of a sweep meet the same rows again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from hashlib import blake2b

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.decoding.options import Options
from unmask.decoding.state import Reading
from unmask.models.base import MaskedDiffusionModel
from unmask.observation import Needs, Positions
from unmask.policies.base import Policy

LIMIT = 2**29  # bytes
OF_A_KEY = 256  # about, with its places in a list and a table
CPU = torch.device("cpu")


def memo_of(model: MaskedDiffusionModel, policies: Sequence[Policy]) -> Memo:
    """For decodings of the same prompts under each of these policies."""
    return Memo(model, reduce(Needs.union, (policy.needs for policy in policies), Needs()))


class Memo:
    """Readings of a dLLM by the tokens that it read, for many decodings of the same prompts.

    A pass depends on its tokens alone if the dLLM attends in full, no cache is kept, and the likeliest token is taken.
    NFE is what it would be: a pass that is read from here counts.

    Args:
        needs: what is kept of each reading; a policy that needs more is decoded without.
        limit: of the readings, in bytes; beyond it the oldest are forgotten.
    """

    def __init__(self, model: MaskedDiffusionModel, needs: Needs, limit: int = LIMIT) -> None:
        positions: Positions = "region" if needs.positions == "region" else "masked"
        self.needs = Needs(needs.top_k, positions, needs.entropy, needs.tokens)
        self._model, self._limit = model, limit
        self._slot: dict[bytes, int] = {}
        self._key: list[bytes] = []  # of each slot
        self._kept: Reading | None = None  # a row for each slot
        self._room, self._next = 0, 0

    def __len__(self) -> int:
        """Readings that are kept."""
        return len(self._slot)

    def serves(self, model: MaskedDiffusionModel, needs: Needs, options: Options) -> bool:
        """Whether such a decoding can take its readings from here."""
        enough = replace(needs, speed=False, block_step=False).union(self.needs) == self.needs
        alike = self._kept is None or self._kept.predicted.shape[1] == options.gen_length
        return enough and alike and model is self._model and not options.sampling.shown

    def read(
        self,
        look: Int[Tensor, "n w"],
        wanted: Bool[Tensor, "n l"],
        needs: Needs,
        run: Callable[[Int[Tensor, " m"]], Reading],
    ) -> tuple[Reading, int]:
        """What a pass reads of each row.

        Args:
            look: tokens, -1 at the left padding.
            wanted: where it is read; elsewhere it is zero.
            run: reads these rows, by what the memo needs.

        Returns:
            The reading of the n rows, and how many of them were run.
        """
        host = look.cpu().numpy()
        begins = (host < 0).sum(axis=1)
        keys = [blake2b(row[n:].tobytes(), digest_size=16).digest() for row, n in zip(host, begins, strict=True)]
        unknown: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in self._slot:
                unknown.setdefault(key, i)
        found: list[Reading] = []
        if len(unknown) < len(keys):
            assert self._kept is not None  # some are there
            found.append(self._kept.take(torch.tensor([self._slot.get(key, 0) for key in keys])).to(look.device))
        if unknown:
            fresh = run(torch.tensor(list(unknown.values()), device=look.device))
            place = {key: i for i, key in enumerate(unknown)}
            new = torch.tensor([i for i, key in enumerate(keys) if key in place], device=look.device)
            own = fresh.take(torch.tensor([place[key] for key in keys if key in place], device=look.device))
            found.append(found.pop().put(new, own) if found else own)
            self._keep(list(unknown), fresh.to(CPU))
        return found[0].only(needs, wanted), len(unknown)

    def _keep(self, keys: Sequence[bytes], fresh: Reading) -> None:
        """In the next slots; over the oldest once there is no more room."""
        if self._kept is None:
            values = [value for value in vars(fresh).values() if value is not None]
            self._room = max(1, self._limit // (OF_A_KEY + sum(value[0].nbytes for value in values)))
            self._kept = fresh.take(torch.zeros(0, dtype=torch.long))
        keys = keys[-self._room :]
        fresh = fresh.take(torch.arange(len(fresh.predicted))[-self._room :])
        slots = [(self._next + i) % self._room for i in range(len(keys))]
        if max(slots) >= len(self._key):
            more = min(self._room, max(max(slots) + 1, 2 * len(self._key))) - len(self._key)
            self._kept = self._kept.join(more)
            self._key += [b""] * more
        for key, slot in zip(keys, slots, strict=True):
            self._slot.pop(self._key[slot], None)
            self._key[slot], self._slot[key] = key, slot
        for name, value in vars(fresh).items():
            if value is not None:
                getattr(self._kept, name).index_copy_(0, torch.tensor(slots), value)
        self._next = (slots[-1] + 1) % self._room
