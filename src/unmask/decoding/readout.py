"""From hidden states to confidences and entropies, a chunk at a time: no softmax over everything is ever held.

The vocabulary head runs inside the chunk, so that the logits of all positions are never held either, unless a memory
keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

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
ConfidenceOf = Literal["likeliest", "drawn", "sampling"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; see `DecodeConfig`."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    confidence_of: ConfidenceOf = "likeliest"

    @property
    def draws(self) -> bool:
        """Tokens are drawn, not the likeliest taken."""
        return self.temperature > 0

    @property
    def filters(self) -> bool:
        """Some tokens are left out."""
        return self.top_p < 1 or self.top_k is not None

    @property
    def shown(self) -> bool:
        """What a policy sees depends on it: tokens are drawn before it is asked."""
        return (self.draws and self.confidence_of == "drawn") or (
            self.confidence_of == "sampling" and (self.draws or self.filters)
        )

    def scores(self, logits: Float[Tensor, "n v"], banned: Int[Tensor, " m"]) -> Float[Tensor, "n v"]:
        """Logits of the distribution that tokens are drawn from, a fresh tensor: top-p first, then top-k, as Dream."""
        z = logits.float() / self.temperature if self.draws else logits.float().clone()
        z.index_fill_(1, banned, -torch.inf)
        if self.top_p < 1:
            ordered, index = z.sort(dim=-1, descending=True, stable=True)
            p = ordered.softmax(dim=-1)
            beyond = p.cumsum(dim=-1) - p > self.top_p  # the one that reaches top_p stays
            z = z.scatter(1, index, ordered.masked_fill(beyond, -torch.inf))
        if self.top_k is not None and self.top_k < z.shape[-1]:
            z = z.masked_fill(z < z.topk(self.top_k, dim=-1).values[:, -1:], -torch.inf)
        return z


PLAIN = Sampling()


@dataclass(frozen=True)
class Drawn:
    """How the tokens of n positions are drawn: each from its own stream."""

    sampling: Sampling
    key: Int[Tensor, " n"]
    step: Int[Tensor, " n"]
    position: Int[Tensor, " n"]

    def tokens(self, logits: Float[Tensor, "m v"], banned: Int[Tensor, " k"], before: int = 0) -> Int[Tensor, " m"]:
        """By Gumbel-max from softmax(logits / temperature), for the positions from `before` on."""
        part, sampling = slice(before, before + len(logits)), self.sampling
        noise = gumbel(self.key[part], self.step[part], self.position[part], logits.shape[-1])
        if sampling.filters:
            return noise.add_(sampling.scores(logits, banned)).argmax(dim=-1)
        noise.add_(logits.float(), alpha=1 / sampling.temperature)
        return noise.index_fill_(1, banned, -torch.inf).argmax(dim=-1)


@dataclass(frozen=True)
class Readout:
    """What the logits of n positions say.

    Attributes:
        confidence: the k largest probabilities of the plain softmax, or what `DecodeConfig.confidence_of` asks for.
        token: the likeliest token that is not banned, or the one that was drawn.
        entropy: of the plain softmax, in nats, or of the distribution that was drawn from; None unless needed.
        read: what each reader took, a row per position.
        tokens: of each confidence, the token that it is of; None unless needed.
    """

    confidence: Float[Tensor, "n k"]
    token: Int[Tensor, " n"]
    entropy: Float[Tensor, " n"] | None
    read: Sequence[Tensor]
    tokens: Int[Tensor, "n k"] | None = None


def read(
    head: Head,
    hidden: Float[Tensor, "n h"],
    needs: Needs,
    banned: Int[Tensor, " m"],
    vocabulary: int,
    readers: Sequence[Reader] = (),
    drawn: Drawn | None = None,
) -> Readout:
    """Run the head and read its logits, chunk by chunk.

    Banned tokens count in the softmax, but are never chosen.

    Args:
        vocabulary: v, what the head gives for each position.
        readers: of memories that need the distributions.
        drawn: how tokens are drawn, if a policy is to see that.
    """
    parts, before = [], 0
    at_once = READ_ELEMENTS if hidden.device.type == "cpu" else HEAD_ELEMENTS
    scratch: Tensor | None = None  # as long as the first piece, and none is longer
    for chunk in _split(vocabulary, HEAD_ELEMENTS, 256, hidden):
        for piece in _split(vocabulary, at_once, 1, head(chunk)):
            scratch = piece.new_empty(piece.shape, dtype=torch.float32) if scratch is None else scratch
            parts.append(_read_piece(piece, needs, banned, scratch, readers, before, drawn))
            before += len(piece)
    return Readout(
        confidence=torch.cat([part.confidence for part in parts]),
        token=torch.cat([part.token for part in parts]),
        entropy=torch.cat([part.entropy for part in parts if part.entropy is not None]) if needs.entropy else None,
        read=[torch.cat(each) for each in zip(*(part.read for part in parts), strict=True)],
        tokens=torch.cat([part.tokens for part in parts if part.tokens is not None]) if needs.tokens else None,
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
    drawn: Drawn | None,
) -> Readout:
    """Read a few rows, writing into `logits` and `scratch`: nothing of their size is allocated for float32 logits."""
    p = torch.softmax(logits, dim=-1, dtype=torch.float32, out=scratch[: len(logits)])
    kept = logits[:, banned]
    logits.index_fill_(1, banned, -torch.inf)
    k = min(needs.top_k, p.shape[-1])
    # By logits: beside a banned token that is nearly certain, all probabilities of the others may round to 0.
    best, index = _likeliest(logits, k)
    logits[:, banned] = kept
    shown = None if drawn is None else _read_drawn(logits, p, needs, banned, drawn, before)

    confidence = F.pad(p.gather(1, index).masked_fill(best == -torch.inf, 0), (0, needs.top_k - k))
    taken = [reader.read(logits, p, before) for reader in readers]
    entropy = torch.special.entr(p, out=logits.float()).sum(dim=-1) if needs.entropy else None
    tokens = F.pad(index, (0, needs.top_k - k)) if needs.tokens else None
    if shown is not None:
        entropy = entropy if shown.entropy is None else shown.entropy
        return Readout(shown.confidence, shown.token, entropy, taken, shown.tokens)
    return Readout(confidence, index[:, 0], entropy, taken, tokens)


def _likeliest(logits: Float[Tensor, "n v"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits and their tokens; of equal ones, as half precision has them, the first leads for every k."""
    best, first = logits.max(dim=-1, keepdim=True)
    if k == 1:
        return best, first
    best, index = logits.topk(k, dim=-1)
    slot = (index == first).float().argmax(dim=1, keepdim=True)  # 0 where more are equal than k, and it is none of them
    return best, torch.cat([first, index.scatter(1, slot, index[:, :1])[:, 1:]], dim=1)


def _read_drawn(
    logits: Float[Tensor, "n v"],
    plain: Float[Tensor, "n v"],
    needs: Needs,
    banned: Int[Tensor, " m"],
    drawn: Drawn,
    before: int,
) -> Readout:
    """A few rows as `DecodeConfig.confidence_of` has them; the entropy is None where it stays the plain one's.

    Args:
        plain: softmax of the logits.
    """
    sampling = drawn.sampling
    scores = sampling.scores(logits, banned)
    token = drawn.tokens(logits, banned, before) if sampling.draws else scores.argmax(dim=-1)
    of_drawn = sampling.confidence_of == "drawn"
    p = plain if of_drawn else scores.softmax(dim=-1)
    own = p.gather(1, token[:, None])
    k = min(needs.top_k, p.shape[-1])
    if k == 1:
        confidence, index = own, token[:, None]
    elif of_drawn:  # and the likeliest of the others
        others = p.scatter(1, token[:, None], -1.0).index_fill(1, banned, -1.0).topk(k - 1, dim=-1)
        confidence = torch.cat([own, others.values.clamp(min=0)], dim=1)
        index = torch.cat([token[:, None], others.indices], dim=1)
    else:
        confidence, index = p.topk(k, dim=-1)
    entropy = None if of_drawn or not needs.entropy else torch.special.entr(p).sum(dim=-1)
    missing = (0, needs.top_k - k)
    tokens = F.pad(index, missing) if needs.tokens else None
    return Readout(F.pad(confidence, missing), token, entropy, (), tokens)


def sample(
    head: Head,
    hidden: Float[Tensor, "n h"],
    banned: Int[Tensor, " m"],
    vocabulary: int,
    drawn: Drawn,
) -> Int[Tensor, " n"]:
    """Draw tokens, each position's from its own stream.

    Only the positions that are revealed are drawn, so the head runs once more on those: cheaper than keeping logits.
    """
    tokens = []
    rows = max(64, READ_ELEMENTS // vocabulary)
    for i in range(0, len(hidden), rows):
        tokens.append(drawn.tokens(head(hidden[i : i + rows]), banned, i))
    return torch.cat(tokens) if tokens else drawn.key.new_empty(0)
