"""How the distribution of each position changes from pass to pass, for policies that ask for it (KLASS)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.models.memory import Memory, Reader, spread


@dataclass(frozen=True)
class KLHistory(Memory):
    """KL(this pass || the last pass), newest first, and the last pass's logits.

    Attributes:
        kl: in nats; infinite where a pass did not read the position.
        slot: index of the position's last logits in `logits`; -1 if the last pass did not read it.
        logits: of the last pass, packed, in the dLLM's dtype; None before the first.
    """

    kl: Float[Tensor, "b l s"]
    slot: Int[Tensor, "b l"]
    logits: Float[Tensor, "n v"] | None = None

    @classmethod
    def begin(cls, rows: int, gen_length: int, steps: int, device: torch.device) -> KLHistory:
        """Nothing is known yet."""
        kl = torch.full((rows, gen_length, steps), torch.inf, device=device)
        return KLHistory(kl, torch.full((rows, gen_length), -1, device=device))

    def take(self, rows: Tensor) -> KLHistory:
        return replace(self, kl=self.kl[rows], slot=self.slot[rows])

    def join(self, n: int) -> KLHistory:
        kl, slot = self.kl, self.slot
        kl = torch.cat([kl, kl.new_full((n, *kl.shape[1:]), torch.inf)])
        return replace(self, kl=kl, slot=torch.cat([slot, slot.new_full((n, slot.shape[1]), -1)]))

    def reader(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], shape: tuple[int, int]) -> Reader:
        slot = self.slot[rows, columns]
        kept: list[Tensor] = []

        def read(logits: Tensor, p: Tensor, before: int) -> Tensor:
            if not kept:
                kept.append(logits.new_empty(len(rows), logits.shape[-1]))
            kept[0][before : before + len(logits)] = logits
            return divergence(logits.float(), p, self.logits, slot[before : before + len(logits)])

        def remember(kl: Tensor) -> KLHistory:
            newest = spread(kl, shape, rows, columns, torch.inf)[..., None]
            index = torch.arange(len(rows), device=rows.device)
            history = torch.cat([newest, self.kl], dim=-1)[..., : self.kl.shape[-1]]
            return KLHistory(history, spread(index, shape, rows, columns, -1), kept[0] if kept else None)

        return Reader(read, remember)


def divergence(
    z: Float[Tensor, "n v"], p: Float[Tensor, "n v"], last: Float[Tensor, "m v"] | None, slot: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """KL(now || last) in nats, infinite where there is no last.

    Args:
        z: logits of now; overwritten.
        p: their softmax.
        last: logits of the last pass, packed.
        slot: index of each position in `last`, -1 where it has none.
    """
    if last is None:
        return p.new_full((len(p),), torch.inf)
    before = last[slot.clamp(min=0)].float()
    # Both shifted by their largest, so that large logits cost no digits; -inf on both sides counts for nothing.
    z.sub_(z.amax(dim=-1, keepdim=True))
    before.sub_(before.amax(dim=-1, keepdim=True))
    kl = z.sub_(before).mul_(p).nan_to_num_(nan=0.0).sum(dim=-1)
    kl += before.exp_().sum(dim=-1).log() + p.amax(dim=-1).log()
    return kl.clamp(min=0).masked_fill(slot < 0, torch.inf)
