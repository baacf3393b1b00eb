"""From hidden states to confidences, entropies and changes, a chunk at a time: no softmax over everything is ever held.

The vocabulary head runs inside the chunk, so that the logits of all positions are never held either, unless a policy
asks how they change from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.noise import gumbel
from unmask.types import Needs

HEAD_ELEMENTS = 2**25  # logits at a time, 128 MiB in float32: enough rows for the head to run at full speed
READ_ELEMENTS = 2**21  # of them read at a time on a CPU: what stays in its cache

Head = Callable[[Float[Tensor, "n h"]], Float[Tensor, "n v"]]
Carry = Callable[[Float[Tensor, "n v"]], Float[Tensor, "n c"]]


@dataclass(frozen=True)
class Readout:
    """What the logits of n positions say.

    Attributes:
        confidence: the k largest probabilities of the plain softmax.
        token: the likeliest token that is not banned.
        entropy: of the plain softmax, in nats; None unless needed.
        kl: KL(now || last), in nats, infinite where there is no last; None unless needed.
        logits: in the model's dtype; None unless the next step needs them.
        carried: what `carry` makes of the plain softmax; None without it.
    """

    confidence: Float[Tensor, "n k"]
    token: Int[Tensor, " n"]
    entropy: Float[Tensor, " n"] | None = None
    kl: Float[Tensor, " n"] | None = None
    logits: Float[Tensor, "n v"] | None = None
    carried: Float[Tensor, "n c"] | None = None


def read(
    head: Head,
    hidden: Float[Tensor, "n h"],
    needs: Needs,
    banned: Int[Tensor, " m"],
    vocabulary: int,
    last: Float[Tensor, "p v"] | None = None,
    slot: Int[Tensor, " n"] | None = None,
    carry: Carry | None = None,
) -> Readout:
    """Run the head and read its logits, chunk by chunk.

    Banned tokens count in the softmax, but are never chosen.

    Args:
        vocabulary: v, what the head gives for each position.
        last: the last step's logits, packed.
        slot: place of each position in `last`, -1 where it has none.
    """
    parts, kept, at = [], None, 0
    at_once = READ_ELEMENTS if hidden.device.type == "cpu" else HEAD_ELEMENTS
    scratch: Tensor | None = None  # as long as the first piece, and none is longer
    for chunk, indices in zip(*_split(vocabulary, HEAD_ELEMENTS, 256, hidden, slot), strict=True):
        logits = head(chunk)
        if needs.kl_history:
            kept = logits.new_empty(len(hidden), vocabulary) if kept is None else kept
            kept[at : at + len(chunk)] = logits
            at += len(chunk)
        for piece, where in zip(*_split(vocabulary, at_once, 1, logits, indices), strict=True):
            scratch = piece.new_empty(piece.shape, dtype=torch.float32) if scratch is None else scratch
            parts.append(_read_piece(piece, needs, banned, last, where, scratch, carry))
    return Readout(
        confidence=torch.cat([part.confidence for part in parts]),
        token=torch.cat([part.token for part in parts]),
        entropy=_joined([part.entropy for part in parts]),
        kl=_joined([part.kl for part in parts]),
        logits=kept,
        carried=_joined([part.carried for part in parts]),
    )


def _split(
    vocabulary: int, elements: int, least: int, values: Tensor, slot: Tensor | None
) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    """Cut positions into runs of about `elements` logits."""
    pieces = values.split(max(least, elements // vocabulary)) if len(values) else (values,)
    return pieces, slot.split([len(piece) for piece in pieces]) if slot is not None else [None] * len(pieces)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _read_piece(
    logits: Float[Tensor, "n v"],
    needs: Needs,
    banned: Int[Tensor, " m"],
    last: Float[Tensor, "p v"] | None,
    slot: Int[Tensor, " n"] | None,
    scratch: Float[Tensor, "s v"],
    carry: Carry | None,
) -> Readout:
    """Read a few rows, writing into `logits` and `scratch`: nothing of their size is allocated for float32 logits."""
    p = torch.softmax(logits, dim=-1, dtype=torch.float32, out=scratch[: len(logits)])
    kept = p[:, banned]
    p.index_fill_(1, banned, -1.0)  # not p[:, banned] = -1.0: that sends the number to the device and waits
    k = min(needs.top_k, p.shape[-1])
    best, index = p.max(dim=-1, keepdim=True) if k == 1 else p.topk(k, dim=-1)
    p[:, banned] = kept

    confidence = F.pad(best.clamp(min=0), (0, needs.top_k - k))
    z = logits.float()
    kl = entropy = None
    if needs.kl_history:
        kl = p.new_full((len(p),), torch.inf)
        if last is not None and slot is not None:
            before = last[slot.clamp(min=0)].float()
            # Both shifted by their largest, so that large logits cost no digits; -inf on both sides counts for nothing.
            z.sub_(z.amax(dim=-1, keepdim=True))
            before.sub_(before.amax(dim=-1, keepdim=True))
            change = z.sub_(before).mul_(p).nan_to_num_(nan=0.0).sum(dim=-1)
            change += before.exp_().sum(dim=-1).log() + p.amax(dim=-1).log()
            kl = torch.where(slot < 0, kl, change.clamp(min=0))
    if needs.entropy:
        entropy = torch.special.entr(p, out=z).sum(dim=-1)
    return Readout(confidence, index[:, 0], entropy, kl, carried=None if carry is None else carry(p))


def sample(
    head: Head,
    hidden: Float[Tensor, "n h"],
    banned: Int[Tensor, " m"],
    vocabulary: int,
    temperature: float,
    key: Int[Tensor, " n"],
    step: Int[Tensor, " n"],
    position: Int[Tensor, " n"],
) -> Int[Tensor, " n"]:
    """Draw tokens from softmax(logits / temperature) by Gumbel-max, each position from its own stream.

    Only the positions that are revealed are drawn, so the head runs once more on those: cheaper than keeping logits.
    """
    tokens = []
    rows = max(64, READ_ELEMENTS // vocabulary)
    for i in range(0, len(hidden), rows):
        z = head(hidden[i : i + rows])
        noise = gumbel(key[i : i + rows], step[i : i + rows], position[i : i + rows], z.shape[-1])
        noise.add_(z.float(), alpha=1 / temperature)
        noise.index_fill_(1, banned, -torch.inf)
        tokens.append(noise.argmax(dim=-1))
    return torch.cat(tokens) if tokens else key.new_empty(0)
