"""How distributions change from pass to pass, against the plain formula in float64."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.models.kl_history import KLHistory, divergence


def logits_of(n, v, scale, seed):
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.sampled_from([0.5, 5.0]), st.integers(0, 1000))
def test_kl_is_that_of_now_against_before(n, scale, seed):
    now, before = logits_of(n, 50, scale, seed), logits_of(n + 2, 50, scale, seed + 1)
    slot = torch.arange(n) + 2
    slot[0] = -1
    kl = divergence(now.clone(), now.softmax(dim=-1), before, slot)
    p, q = now.double().log_softmax(dim=-1), before[2:].double().log_softmax(dim=-1)
    expected = (p.exp() * (p - q)).sum(dim=-1)
    assert kl[0] == math.inf
    assert torch.allclose(kl[1:].double(), expected[1:], atol=1e-5, rtol=1e-5)
    assert (divergence(now.clone(), now.softmax(dim=-1), None, slot) == math.inf).all()


def test_kl_of_the_same_logits_is_zero_and_impossible_tokens_count_for_nothing():
    logits = logits_of(4, 20, 3.0, 0)
    logits[:, 7] = -torch.inf
    assert divergence(logits.clone(), logits.softmax(dim=-1), logits.clone(), torch.arange(4)).max() < 1e-6


def test_a_history_holds_the_last_changes_newest_first_and_knows_nothing_of_fresh_rows():
    history = KLHistory.begin(2, 3, 2, torch.device("cpu"))
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
    told = []
    for seed in range(3):
        reader = history.reader(rows, columns, (2, 3))
        logits = logits_of(3, 9, 1.0, seed)
        p = logits.softmax(dim=-1)
        found = torch.cat([reader.read(logits[:2].clone(), p[:2], 0), reader.read(logits[2:].clone(), p[2:], 2)])
        history = reader.remember(found)
        assert torch.equal(history.logits, logits)
        told.append(found)
    assert (told[0] == math.inf).all()
    assert torch.equal(history.kl[rows, columns], torch.stack([told[2], told[1]], dim=-1))
    assert (history.kl[0, :2] == math.inf).all()
    joined = history.take(torch.tensor([1])).join(1)
    assert torch.equal(joined.kl[0], history.kl[1])
    assert (joined.kl[1] == math.inf).all()
    assert joined.slot[1].tolist() == [-1] * 3
