"""Distributions over sets of positions, given a policy's logits (arXiv 2512.09106, section 3 and appendix).

An action is written as *picks*: 0 at positions that stay masked, and where one is revealed its place in the order of
picking, from 1. Bernoulli actions have no order, so theirs are all 1. Everything is batched, row by row, and
likelihoods are float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.noise import further
from unmask.policies.ranking import topk_positions

NEVER = -1e9  # logit of what cannot be picked; finite, so that gradients stay so


class Actions(ABC):
    """A distribution over the sets of selectable positions of a row.

    Attributes:
        ordered: its likelihoods depend on the order of picking.
    """

    ordered: ClassVar[bool] = False

    @abstractmethod
    def sample(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], noise: Float[Tensor, "b l"]
    ) -> Int[Tensor, "b l"]:
        """Picks drawn with uniform numbers in (0, 1)."""

    @abstractmethod
    def mode(self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """The likeliest picks."""

    @abstractmethod
    def log_prob(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        """Joint log-likelihood of a step's picks, in nats; 0 in rows with nothing selectable."""

    @abstractmethod
    def entropy(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        """Entropy in nats, or, where no closed form exists, an estimate from picks that is right in the mean."""

    def drawn(self, force_progress: bool) -> Actions:
        """The distribution that roll-outs draw from; only a distribution that can reveal nothing has two."""
        return self

    def kl(
        self,
        logits: Float[Tensor, "b l"],
        reference: Float[Tensor, "b l"],
        selectable: Bool[Tensor, "b l"],
        picks: Int[Tensor, "b l"],
    ) -> Float[Tensor, " b"]:
        """KL(this || reference) in nats, estimated from picks drawn from this: r - 1 - log r with r the ratio of the
        reference's likelihood to this one's, which is right in the mean and never negative (arXiv 2402.03300, eq. 4).
        """
        log_ratio = self.log_prob(reference, selectable, picks) - self.log_prob(logits, selectable, picks)
        return log_ratio.exp() - 1 - log_ratio


@dataclass(frozen=True)
class Bernoulli(Actions):
    """Each selectable position is revealed with probability sigmoid(logit), independently.

    Attributes:
        force_progress: a row that draws nothing reveals its largest logit ("bernoulli-argmax", the paper's evaluation);
            training draws plainly. Likelihoods are those of what is drawn.
    """

    force_progress: bool = True

    def drawn(self, force_progress: bool) -> Bernoulli:
        return Bernoulli(force_progress)

    def sample(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], noise: Float[Tensor, "b l"]
    ) -> Int[Tensor, "b l"]:
        drawn = (noise < torch.sigmoid(logits)) & selectable
        if self.force_progress:
            drawn |= topk_positions(logits, selectable, 1) & ~drawn.any(dim=1, keepdim=True)
        return drawn.long()

    def mode(self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        likeliest = (logits > 0) & selectable
        if not self.force_progress:
            return likeliest.long()
        forced = topk_positions(logits, selectable, 1)
        plain, alone = (_set_log_prob(logits, selectable, action) for action in (likeliest, forced))
        alone = torch.logaddexp(alone, _nothing(logits, selectable))
        return torch.where((alone >= plain)[:, None], forced, likeliest).long()

    def log_prob(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        logits, action = logits.float(), picks > 0
        plain = _set_log_prob(logits, selectable, action)
        if not self.force_progress:
            return plain
        forced = (action == topk_positions(logits.detach(), selectable, 1)).all(dim=1)
        with_forced = torch.where(forced, torch.logaddexp(plain, _nothing(logits, selectable)), plain)
        impossible = selectable.any(dim=1) & ~action.any(dim=1)
        return torch.where(selectable.any(dim=1), with_forced, 0.0).masked_fill(impossible, -torch.inf)

    def entropy(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        logits = logits.float()
        each = F.softplus(logits) - logits * torch.sigmoid(logits)
        plain = torch.where(selectable, each, 0.0).sum(dim=1)
        if not self.force_progress:
            return plain
        nothing = _nothing(logits, selectable)
        alone = _set_log_prob(logits, selectable, topk_positions(logits.detach(), selectable, 1))
        both = torch.logaddexp(nothing, alone)
        merged = plain + nothing.exp() * nothing + alone.exp() * alone - both.exp() * both
        return torch.where(selectable.any(dim=1), merged, 0.0)

    def kl(
        self,
        logits: Float[Tensor, "b l"],
        reference: Float[Tensor, "b l"],
        selectable: Bool[Tensor, "b l"],
        picks: Int[Tensor, "b l"],
    ) -> Float[Tensor, " b"]:
        """Exact for plain draws: the sum of the positions' divergences. With forced progress estimated, as above."""
        if self.force_progress:
            return super().kl(logits, reference, selectable, picks)
        logits, reference = logits.float(), reference.float()
        each = torch.sigmoid(logits) * (logits - reference) + F.softplus(reference) - F.softplus(logits)
        return torch.where(selectable, each, 0.0).sum(dim=1)


@dataclass(frozen=True)
class DPLS(Actions):
    """Dynamic Plackett-Luce sampling: positions are picked one by one without replacement, until STOP.

    The first pick ~ softmax(logits) over selectable positions, so that a step always reveals something; each further
    one ~ softmax over the remaining positions and STOP. The likelihood is that of the ordered picks.

    Attributes:
        stop_logit: of STOP.
    """

    ordered: ClassVar[bool] = True
    stop_logit: float = 0.0

    def sample(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], noise: Float[Tensor, "b l"]
    ) -> Int[Tensor, "b l"]:
        """A race: position i arrives after an exponential time of rate exp(logit i - STOP's). STOP, of rate 1, starts
        when the first has arrived; by memorylessness the others' remaining times are then fresh, and who beats STOP is
        picked.
        """
        arrival = (-noise.log()).log() - self._against_stop(logits)  # log of the times
        arrival = arrival.masked_fill(~selectable, torch.inf)
        first = arrival.amin(dim=1)
        stop = torch.logaddexp(first, (-further(noise).log()).log())
        picked = selectable & (arrival <= torch.maximum(stop, first)[:, None])
        return torch.where(picked, _places(arrival) + 1, 0)

    def mode(self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """The likeliest ordered picks of any number are the largest logits, falling: only their number is open."""
        logits = self._against_stop(logits)
        place = _places(-_only(logits, selectable))
        ordered = _only(logits, selectable).sort(dim=1, descending=True).values
        first, further_picks, stop = _conditionals(ordered)
        so_far = torch.cat([first, further_picks[:, 1:]], dim=1).cumsum(dim=1)
        count = selectable.sum(dim=1, keepdim=True)
        number = torch.arange(logits.shape[1], device=logits.device) + 1
        total = (so_far + stop).masked_fill(number > count, -torch.inf)
        taken = (place <= total.argmax(dim=1, keepdim=True)) & selectable
        return torch.where(taken, place + 1, 0)

    def log_prob(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        count = (picks > 0).sum(dim=1, keepdim=True)
        against = _only(self._against_stop(logits), selectable)
        first, further_picks, stop = _conditionals(_picked_first(against, picks))
        number = torch.arange(logits.shape[1], device=logits.device) + 1
        rest = torch.where((number > 1) & (number <= count), further_picks, 0.0).sum(dim=1)
        ends = torch.where(number == count, stop, 0.0).sum(dim=1)
        some = selectable.any(dim=1)
        joint = torch.where(some, first[:, 0] + rest + ends, 0.0)
        return joint.masked_fill(some & (count[:, 0] == 0), -torch.inf)

    def entropy(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        """The entropies of the choices met along these picks, summed: its mean over picks is the entropy."""
        count = (picks > 0).sum(dim=1, keepdim=True)
        x = _picked_first(_only(self._against_stop(logits), selectable), picks)
        left = x.flip(1).logcumsumexp(1).flip(1)  # of what is left before each pick
        top = x.amax(dim=1, keepdim=True)
        below = ((top - x).clamp(min=1e-30).log() + x).flip(1).logcumsumexp(1).flip(1)
        mean = top - (below - left).exp()  # of the logits left, under their softmax
        before = F.pad(left, (0, 1), value=NEVER)
        with_stop = torch.logaddexp(before, torch.zeros_like(before))
        each = with_stop - (before - with_stop).exp() * F.pad(mean, (0, 1))
        number = torch.arange(x.shape[1] + 1, device=x.device)  # picks already made
        along = torch.where((number >= 1) & (number <= count), each, 0.0).sum(dim=1)
        return torch.where(selectable.any(dim=1), left[:, 0] - mean[:, 0] + along, 0.0)

    def _against_stop(self, logits: Float[Tensor, "b l"]) -> Float[Tensor, "b l"]:
        return logits.float() - self.stop_logit  # the first pick is the same whatever is taken off


@dataclass(frozen=True)
class Likeliest(Actions):
    """All mass on the likeliest picks of another distribution."""

    inner: Actions

    def sample(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], noise: Float[Tensor, "b l"]
    ) -> Int[Tensor, "b l"]:
        return self.mode(logits, selectable)

    def mode(self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        return self.inner.mode(logits, selectable)

    def log_prob(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        same = (picks == self.mode(logits, selectable)).all(dim=1)
        return torch.zeros_like(logits[:, 0]).masked_fill(~same, -torch.inf)

    def entropy(
        self, logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], picks: Int[Tensor, "b l"]
    ) -> Float[Tensor, " b"]:
        return torch.zeros_like(logits[:, 0])


def _set_log_prob(
    logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], action: Bool[Tensor, "b l"]
) -> Float[Tensor, " b"]:
    signed = torch.where(action, logits, -logits).float()
    return torch.where(selectable, F.logsigmoid(signed), 0.0).sum(dim=1)


def _nothing(logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> Float[Tensor, " b"]:
    return _set_log_prob(logits, selectable, torch.zeros_like(selectable))


def _only(logits: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    return logits.float().masked_fill(~selectable, NEVER)


def _places(rising: Float[Tensor, "b l"]) -> Int[Tensor, "b l"]:
    """Each position's place, from 0, by rising value."""
    return rising.argsort(dim=1, stable=True).argsort(dim=1)


def _picked_first(x: Float[Tensor, "b l"], picks: Int[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    """Values in the order of picking, those not picked behind."""
    last = torch.iinfo(picks.dtype).max
    return x.gather(1, picks.masked_fill(picks == 0, last).argsort(dim=1, stable=True))


def _conditionals(
    ordered: Float[Tensor, "b l"],
) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b l"], Float[Tensor, "b l"]]:
    """Log-probabilities along an order of logits: of the first pick; of each as a further one; of STOP after it."""
    left = ordered.flip(1).logcumsumexp(1).flip(1)
    with_stop = torch.logaddexp(F.pad(left, (0, 1), value=NEVER), left.new_zeros(()))
    return ordered[:, :1] - left[:, :1], ordered - with_stop[:, :-1], -with_stop[:, 1:]
