"""`check_actions`: the known distributions pass, and each way to break the contract is named."""

import pytest
import torch
import torch.nn.functional as F

from unmask.errors import UnmaskError
from unmask.policies.actions import DPLS, Bernoulli, Likeliest
from unmask.testing import check_actions

PLAIN = Bernoulli(force_progress=False)


@pytest.mark.parametrize(
    "actions", [PLAIN, Bernoulli(), DPLS(), Likeliest(DPLS()), Likeliest(PLAIN), Likeliest(Bernoulli())], ids=str
)
def test_known_distributions_pass(actions):
    check_actions(actions)


class One(Bernoulli):
    """Exactly one position, by a softmax; broken in one way each below."""

    def sample(self, logits, selectable, noise):
        return DPLS().sample(logits, selectable, noise).eq(1).long()

    def mode(self, logits, selectable):
        best = logits.masked_fill(~selectable, -torch.inf).argmax(dim=1)
        return F.one_hot(best, logits.shape[1]) * selectable.any(dim=1, keepdim=True)

    def log_prob(self, logits, selectable, picks):
        each = logits.masked_fill(~selectable, -1e9).log_softmax(dim=1)
        found = torch.where(picks > 0, each, 0.0).sum(dim=1)
        possible = (picks > 0).sum(dim=1) == 1
        return torch.where(selectable.any(dim=1), found.masked_fill(~possible, -torch.inf), 0.0)

    def entropy(self, logits, selectable, picks):
        each = logits.masked_fill(~selectable, -1e9).log_softmax(dim=1)
        return torch.where(selectable, -each * each.exp(), 0.0).sum(dim=1)

    def kl(self, logits, reference, selectable, picks):
        p, q = (x.masked_fill(~selectable, -1e9).log_softmax(dim=1) for x in (logits, reference))
        return torch.where(selectable, p.exp() * (p - q), 0.0).sum(dim=1)


def test_a_distribution_of_ones_own_passes():
    check_actions(One())


class Booleans(One):
    def sample(self, logits, selectable, noise):
        return super().sample(logits, selectable, noise) > 0


class Unmasked(One):
    def sample(self, logits, selectable, noise):
        return super().sample(logits, torch.ones_like(selectable), noise)


class Misnumbered(DPLS):
    def sample(self, logits, selectable, noise):
        picks = super().sample(logits, selectable, noise)
        return torch.where(picks > 1, picks + 1, picks)


class Impossible(One):
    def log_prob(self, logits, selectable, picks):
        found = super().log_prob(logits, selectable, picks)
        return torch.where(selectable.any(dim=1), found.masked_fill(picks[:, -1] > 0, -torch.inf), 0.0)


class OneNumber(One):
    def log_prob(self, logits, selectable, picks):
        return super().log_prob(logits, selectable, picks).sum()


class Unnormalised(One):
    def log_prob(self, logits, selectable, picks):
        return super().log_prob(logits, selectable, picks) - 0.1 * selectable.any(dim=1)


class Sharper(One):
    def sample(self, logits, selectable, noise):
        return super().sample(2 * logits, selectable, noise)


class Smallest(One):
    def mode(self, logits, selectable):
        return super().mode(-logits, selectable)


class TwiceTheEntropy(One):
    def entropy(self, logits, selectable, picks):
        return 2 * super().entropy(logits, selectable, picks)


class NegativeKL(One):
    def kl(self, logits, reference, selectable, picks):
        return -super().kl(logits, reference, selectable, picks)


class KLFromItself(One):
    def kl(self, logits, reference, selectable, picks):
        return super().kl(logits, reference, selectable, picks) + 0.5


class OfTheBatch(One):
    def log_prob(self, logits, selectable, picks):
        return super().log_prob(logits - logits.mean(dim=0), selectable, picks)


class Haunted(One):
    def entropy(self, logits, selectable, picks):
        return super().entropy(logits, selectable, picks) + ~selectable.any(dim=1)


class Infinite(One):
    def entropy(self, logits, selectable, picks):
        p = logits.masked_fill(~selectable, -torch.inf).softmax(dim=1)
        return torch.where(selectable & (p > 0), -p * p.log(), 0.0).sum(dim=1)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (Booleans, "must give picks as an integer tensor of the shape of selectable"),
        (Unmasked, "picked a position that is not selectable: mask its logit"),
        (Misnumbered, "must number its picks 1, 2, 3 in their order, or all 1 if they have none"),
        (Impossible, "gives picks that it drew no finite likelihood: let log_prob be of what sample draws"),
        (OneNumber, r"must give one number per row from log_prob, not \(\)"),
        (Unnormalised, "has likelihoods that sum to 0.905 over all picks: normalise them"),
        (Sharper, r"draws \[.*\] with frequency 0.* where its likelihood is 0.*: let log_prob be of what sample draws"),
        (Smallest, "has a mode that is less likely than other picks: return the likeliest"),
        (TwiceTheEntropy, "has a mean entropy of .* nats where enumeration gives .*: correct entropy"),
        (NegativeKL, "has a KL of -.* nats, below 0 in the mean: correct kl"),
        (KLFromItself, "has a KL of 0.500 nats, other than 0 from itself: correct kl"),
        (OfTheBatch, "gives a row another log_prob alone than in a batch: let no row look at another"),
        (Haunted, "must give log_prob 0 and entropy 0 to a row with nothing selectable"),
        (Infinite, "has a gradient of entropy that is not finite: mask with a finite number"),
    ],
)
def test_each_broken_promise_is_named(actions, message):
    with pytest.raises(UnmaskError, match=f"^The distribution {actions.__name__} {message}"):
        check_actions(actions())
