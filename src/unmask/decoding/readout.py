"""From hidden states to confidences and entropies, a chunk at a time: no softmax over everything is ever held.

The vocabulary head runs inside the chunk, so that the logits of all positions are never held either, unless a memory
keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unmask.models.memory import Reader
from unmask.noise import gumbel
from unmask.observation import Needs

HEAD_ELEMENTS = 2**25  # logits at a time, 128 MiB in float32: enough rows for the head to run at full speed
READ_ELEMENTS = 2**21  # of them read at a time on a CPU: what stays in its cache

Head = Callable[[Float[Tensor, "n h"]], Float[Tensor, "n v"]]


@dataclass(frozen=True)
class Readout:
    """What the logits of n positions say.

    Attributes:
        confidence: the k largest probabilities of the plain softmax.
        token: the likeliest token that is not banned.
        entropy: of the plain softmax, in nats; None unless needed.
        read: what each reader took, a row per position.
    """

    confidence: Float[Tensor, "n k"]
    token: Int[Tensor, " n"]
    entropy: Float[Tensor, " n"] | None
    read: Sequence[Tensor]


def read(
    head: Head,
    hidden: Float[Tensor, "n h"],
    needs: Needs,
    banned: Int[Tensor, " m"],
    vocabulary: int,
    readers: Sequence[Reader] = (),
) -> Readout:
    """Run the head and read its logits, chunk by chunk.

    Banned tokens count in the softmax, but are never chosen.

    Args:
        vocabulary: v, what the head gives for each position.
        readers: of memories that need the distributions.
    """
    parts, before = [], 0
    at_once = READ_ELEMENTS if hidden.device.type == "cpu" else HEAD_ELEMENTS
    scratch: Tensor | None = None  # as long as the first piece, and none is longer
    for chunk in _split(vocabulary, HEAD_ELEMENTS, 256, hidden):
        for piece in _split(vocabulary, at_once, 1, head(chunk)):
            scratch = piece.new_empty(piece.shape, dtype=torch.float32) if scratch is None else scratch
            parts.append(_read_piece(piece, needs, banned, scratch, readers, before))
            before += len(piece)
    return Readout(
        confidence=torch.cat([part.confidence for part in parts]),
        token=torch.cat([part.token for part in parts]),
        entropy=torch.cat([part.entropy for part in parts if part.entropy is not None]) if needs.entropy else None,
        read=[torch.cat(each) for each in zip(*(part.read for part in parts), strict=True)],
    )


def _split(vocabulary: int, elements: int, least: int, values: Tensor) -> Iterator[Tensor]:
    """Cut positions into runs of about `elements` logits."""
    return iter(values.split(max(least, elements // vocabulary)) if len(values) else (values,))


def _read_piece(
    logits: Float[Tensor, "n v"],
    needs: Needs,
    banned: Int[Tensor, " m"],
    scratch: Float[Tensor, "s v"],
    readers: Sequence[Reader],
    before: int,
) -> Readout:
    """Read a few rows, writing into `logits` and `scratch`: nothing of their size is allocated for float32 logits."""
    p = torch.softmax(logits, dim=-1, dtype=torch.float32, out=scratch[: len(logits)])
    kept = logits[:, banned]
    logits.index_fill_(1, banned, -torch.inf)
    k = min(needs.top_k, p.shape[-1])
    # By logits: beside a banned token that is nearly certain, all probabilities of the others may round to 0.
    best, index = logits.max(dim=-1, keepdim=True) if k == 1 else logits.topk(k, dim=-1)
    logits[:, banned] = kept

    confidence = F.pad(p.gather(1, index).masked_fill(best == -torch.inf, 0), (0, needs.top_k - k))
    taken = [reader.read(logits, p, before) for reader in readers]
    entropy = torch.special.entr(p, out=logits.float()).sum(dim=-1) if needs.entropy else None
    return Readout(confidence, index[:, 0], entropy, taken)


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
