"""Bernoulli and DPLS against enumeration: likelihood, frequencies, mode, entropy, divergence."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import UnmaskError
from unmask.noise import row_keys, uniform
from unmask.policies import ConfidenceThreshold, TransformerConfig, TransformerPolicy, load_policy
from unmask.policies.actions import DPLS, Bernoulli, Likeliest
from unmask.testing import check_policy

VECTORS = Path(__file__).parent.parent / "vectors" / "released_layout_policy.json"
PLAIN, FORCED = Bernoulli(force_progress=False), Bernoulli(force_progress=True)
EVERY = [PLAIN, FORCED, DPLS()]


def outcomes(actions, selectable):
    """Every action a row can take, as picks."""
    free = [i for i, may in enumerate(selectable) if may]
    if isinstance(actions, DPLS):
        orders = [order for k in range(1, len(free) + 1) for order in itertools.permutations(free, k)]
    else:
        orders = [order for k in range(len(free) + 1) for order in itertools.combinations(free, k)]
        if actions.force_progress and free:
            orders = orders[1:]
    picks = torch.zeros(max(len(orders), 1), len(selectable), dtype=torch.long)
    for row, order in enumerate(orders):
        for place, position in enumerate(order):
            picks[row, position] = place + 1 if isinstance(actions, DPLS) else 1
    return picks


def by_hand(actions, logits, picks):
    """The likelihood of one action, from its definition, with Python's numbers."""
    p = torch.sigmoid(logits.double())
    if isinstance(actions, DPLS):
        left, likelihood = logits.double().exp(), 1.0
        order = sorted((place, i) for i, place in enumerate(picks.tolist()) if place)
        for number, (_, i) in enumerate(order):
            likelihood *= left[i] / (left.sum() + (1 if number else 0))
            left[i] = 0
        return float(likelihood / (left.sum() + 1))
    plain = float(torch.where(picks > 0, p, 1 - p).prod())
    if not actions.force_progress:
        return plain
    largest = torch.zeros_like(picks)
    largest[logits.argmax()] = 1
    return plain + (float((1 - p).prod()) if torch.equal(picks, largest) else 0.0)


rows = st.lists(st.tuples(st.integers(-60, 60).map(lambda x: x / 10), st.booleans()), min_size=1, max_size=4)


@pytest.mark.parametrize("actions", EVERY, ids=str)
@settings(max_examples=60, deadline=None)
@given(row=rows)
def test_likelihood_mode_and_entropy_match_enumeration(actions, row):
    logits = torch.tensor([logit for logit, _ in row]) + torch.arange(len(row)) * 0.013  # no two the same
    may = [selectable for _, selectable in row]
    picks = outcomes(actions, may)
    n = len(picks)
    many, selectable = logits.expand(n, -1), torch.tensor(may).expand(n, -1)
    log_prob = actions.log_prob(many, selectable, picks)
    assert log_prob.dtype == torch.float32
    probability = log_prob.double().exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-5)
    only = logits.masked_fill(~torch.tensor(may), -torch.inf)
    for one, found in zip(picks, probability, strict=True):
        if any(may):
            assert found.item() == pytest.approx(by_hand(actions, only, one), rel=1e-4, abs=1e-9)
    exact = -torch.xlogy(probability, probability).sum().item()
    along = (probability * actions.entropy(many, selectable, picks)).sum().item()
    assert along == pytest.approx(exact, abs=1e-4)
    mode = actions.mode(many[:1], selectable[:1])
    assert actions.log_prob(many[:1], selectable[:1], mode).item() == pytest.approx(log_prob.max().item(), abs=1e-5)


@pytest.mark.parametrize("actions", EVERY, ids=str)
def test_frequencies_match_the_likelihoods(actions):
    n = 100_000
    logits = torch.tensor([0.5, -1.0, 9.0, 1.2, -0.3])
    selectable = torch.tensor([True, True, False, True, True])
    noise = uniform(row_keys(3, torch.arange(n)), torch.zeros(n, dtype=torch.long), 5)
    drawn = actions.sample(logits.expand(n, -1), selectable.expand(n, -1), noise)
    assert not drawn[:, 2].any()
    code = drawn @ 6 ** torch.arange(5)
    picks = outcomes(actions, selectable.tolist())
    expected = actions.log_prob(logits.expand(len(picks), -1), selectable.expand(len(picks), -1), picks).exp()
    seen = 0.0
    for one, p in zip(picks, expected.tolist(), strict=True):
        share = (code == one @ 6 ** torch.arange(5)).float().mean().item()
        seen += share
        assert share == pytest.approx(p, abs=4.5 * (p * (1 - p) / n) ** 0.5 + 1e-6)
    assert seen == pytest.approx(1.0)


@pytest.mark.parametrize("actions", EVERY, ids=str)
def test_a_row_does_not_hang_on_its_neighbours(actions):
    generator = torch.Generator().manual_seed(0)
    logits, noise = (torch.randn(6, 7, generator=generator), torch.rand(6, 7, generator=generator))
    selectable = torch.rand(6, 7, generator=generator) < 0.6
    selectable[2] = False
    picks = actions.sample(logits, selectable, noise)
    assert not (picks[2] > 0).any()
    for row in range(6):
        part = slice(row, row + 1)
        assert torch.equal(actions.sample(logits[part], selectable[part], noise[part]), picks[part])
        for f in (actions.log_prob, actions.entropy):
            together, alone = f(logits, selectable, picks)[part], f(logits[part], selectable[part], picks[part])
            assert torch.allclose(together, alone, atol=1e-6)
    assert actions.log_prob(logits, selectable, picks)[2] == 0
    assert actions.entropy(logits, selectable, picks)[2] == 0


@pytest.mark.parametrize("actions", EVERY, ids=str)
def test_gradients_are_finite_where_positions_are_out_of_reach(actions):
    logits = torch.tensor([[80.0, -80.0, 3.0], [0.0, 1.0, 2.0]], requires_grad=True)
    selectable = torch.tensor([[True, True, False], [False, False, False]])
    picks = torch.tensor([[1, 0, 0], [0, 0, 0]])
    actions.log_prob(logits, selectable, picks).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~selectable] == 0).all()


@pytest.mark.parametrize("actions", EVERY, ids=str)
def test_entropy_has_a_finite_gradient_over_a_whole_region(actions):
    logits = torch.zeros(1, 256, requires_grad=True)
    picks = torch.zeros(1, 256, dtype=torch.long)
    picks[0, 0] = 1
    actions.entropy(logits, torch.ones(1, 256, dtype=torch.bool), picks).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("actions", [FORCED, DPLS()], ids=str)
def test_what_cannot_happen_has_no_likelihood(actions):
    selectable = torch.tensor([[True, True]])
    nothing = torch.zeros(1, 2, dtype=torch.long)
    assert actions.log_prob(torch.zeros(1, 2), selectable, nothing).item() == -torch.inf


def test_dpls_and_bernoulli_likelihoods_of_the_vectors():
    told = json.loads(VECTORS.read_text())["loglik"]
    logits, selectable = torch.tensor(told["utilities"]), torch.tensor(told["selectable"]) > 0
    picks = torch.zeros_like(selectable, dtype=torch.long)
    for row, order in enumerate(told["dpls_order"]):
        for place, position in enumerate(order):
            if position >= 0:
                picks[row, position] = place + 1
    assert torch.allclose(DPLS().log_prob(logits, selectable, picks), torch.tensor(told["dpls"]), atol=1e-5)
    found = PLAIN.log_prob(logits, selectable, torch.tensor(told["bernoulli_action"]))
    assert torch.allclose(found, torch.tensor(told["bernoulli"]), atol=1e-5)


@pytest.mark.parametrize("actions", EVERY, ids=str)
def test_divergence_matches_enumeration(actions):
    logits, reference = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([-0.3, 0.4, 0.9])
    picks = outcomes(actions, [True] * 3)
    n = len(picks)
    selectable = torch.ones(n, 3, dtype=torch.bool)
    p, q = (actions.log_prob(x.expand(n, -1), selectable, picks) for x in (logits, reference))
    exact = (p.exp() * (p - q)).sum().item()
    each = actions.kl(logits.expand(n, -1), reference.expand(n, -1), selectable, picks)
    assert (p.exp() * each).sum().item() == pytest.approx(exact, abs=1e-5)
    assert (each >= 0).all()


def test_forced_progress_takes_the_largest_selectable_logit_of_a_row_that_drew_nothing():
    logits = torch.tensor([[-30.0, -20.0, 50.0], [-30.0, 30.0, 50.0]])
    may = torch.tensor([[True, True, False], [True, True, False]])
    noise = torch.full((2, 3), 0.5)
    assert FORCED.sample(logits, may, noise).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert PLAIN.sample(logits, may, noise).tolist()[0] == [0, 0, 0]


def test_the_mode_can_be_the_forced_position_alone():
    # sigmoid(0.1) = 0.525 each: both have 0.276 together, the larger alone 0.249 + nothing 0.226
    logits, may = torch.tensor([[0.11, 0.1]]), torch.ones(1, 2, dtype=torch.bool)
    assert PLAIN.mode(logits, may).tolist() == [[1, 1]]
    assert FORCED.mode(logits, may).tolist() == [[1, 0]]


def test_dpls_policies_decode_save_and_keep_the_contract(tmp_path):
    torch.manual_seed(0)
    policy = TransformerPolicy(TransformerConfig(actions="dpls"))
    check_policy(policy)
    check_policy(load_policy({"type": "temperature", "policy": policy, "tau": 0.5}))
    with pytest.raises(UnmaskError, match="use temperature with DPLS"):
        load_policy({"type": "beta_scaling", "policy": policy, "beta": 2.0})


def test_mode_leaves_no_chance():
    torch.manual_seed(0)
    policy = load_policy({"type": "mode", "policy": TransformerPolicy()})
    assert not policy.stochastic
    check_policy(policy)
    likeliest = Likeliest(DPLS())
    logits, may = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool)
    picks = likeliest.sample(logits, may, torch.rand(1, 2))
    assert torch.equal(picks, DPLS().mode(logits, may))
    assert likeliest.log_prob(logits, may, picks).item() == 0
    assert likeliest.log_prob(logits, may, picks.flip(1)).item() == -torch.inf
    assert likeliest.entropy(logits, may, picks).item() == 0
    with pytest.raises(UnmaskError, match="changes the logits of a learned policy"):
        load_policy({"type": "mode", "policy": ConfidenceThreshold(0.9)})
