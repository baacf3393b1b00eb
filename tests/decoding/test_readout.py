"""What is read from logits, against the plain formulas over the whole vocabulary in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.decoding import readout
from unmask.decoding.readout import Drawn, Sampling, read, sample
from unmask.models.memory import Reader
from unmask.observation import Needs

BANNED = torch.tensor([3])


def logits_of(n, v, scale, seed, offset=0.0):
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed)) * scale + offset


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(6, 300),
    st.sampled_from([0.1, 1.0, 10.0, 50.0]),
    st.sampled_from([-300.0, 0.0, 300.0]),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_confidence_and_entropy_are_those_of_the_plain_softmax(n, v, scale, offset, top_k, seed):
    logits = logits_of(n, v, scale, seed, offset)
    found = read(torch.clone, logits, Needs(top_k=top_k, entropy=True), BANNED, v)
    plain = logits.double().softmax(dim=-1)
    allowed = plain.index_fill(-1, BANNED, -1)
    assert (found.confidence - allowed.topk(top_k, dim=-1).values).abs().max() < 1e-6
    best = logits.index_fill(-1, BANNED, -torch.inf)  # of equal ones any
    assert torch.equal(best.gather(1, found.token[:, None])[:, 0], best.amax(dim=-1))
    assert (found.entropy - torch.special.entr(plain).sum(dim=-1)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equally_likely_tokens_the_first_is_predicted_whatever_else_is_needed(dtype):
    logits = logits_of(200, 50, 1.0, 0).to(dtype)
    logits[:100, 40] = logits[:100, 20] = 9.0
    logits[50:150, 7] = 9.0
    one, two, five = (read(torch.clone, logits, Needs(top_k=k, tokens=True), BANNED, 50) for k in (1, 2, 5))
    assert one.token.tolist() == [20] * 50 + [7] * 100 + one.token.tolist()[150:]
    assert torch.equal(five.token, one.token)
    assert torch.equal(two.token, one.token)
    assert [sorted(row) for row in two.tokens[:50].tolist()] == [[20, 40]] * 50
    assert [sorted(row[:3]) for row in five.tokens[50:100].tolist()] == [[7, 20, 40]] * 50
    assert torch.equal(five.confidence[:, :2], two.confidence)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_likeliest_token_counts_where_all_that_are_allowed_round_to_nothing(top_k):
    logits = torch.full((1, 6), -300.0)
    logits[0, BANNED], logits[0, 4] = 0.0, -200.0
    found = read(torch.clone, logits, Needs(top_k=top_k), BANNED, 6)
    assert found.token.tolist() == [4]
    assert found.confidence.tolist() == [[0.0] * top_k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_change_nothing(monkeypatch, dtype):
    logits = logits_of(700, 30, 2.0, 0).to(dtype)
    needs = Needs(top_k=3, entropy=True)
    fed = torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
    seen = []

    def mix(z, p, before):
        seen.append(before)
        return p @ fed

    reader = Reader(mix, lambda taken: taken)
    whole = read(torch.clone, logits, needs, BANNED, 30, [reader])
    calls = []
    seen.clear()
    monkeypatch.setattr(readout, "HEAD_ELEMENTS", 300 * 30)
    monkeypatch.setattr(readout, "READ_ELEMENTS", 7 * 30)
    cut = read(lambda h: (calls.append(len(h)), h.clone())[1], logits, needs, BANNED, 30, [reader])
    assert torch.allclose(whole.read[0], logits.float().softmax(dim=-1) @ fed, atol=1e-5)
    assert torch.allclose(whole.read[0], cut.read[0], atol=1e-6)
    assert calls == [300, 300, 100]
    assert seen[:3] == [0, 7, 14]
    for name in ("confidence", "token", "entropy"):
        assert torch.allclose(getattr(whole, name).float(), getattr(cut, name).float(), atol=1e-6), name


def test_nothing_to_read_is_read():
    found = read(torch.clone, torch.zeros(0, 10), Needs(top_k=2, entropy=True), BANNED, 10)
    assert found.confidence.shape == (0, 2)
    assert found.entropy.shape == (0,)


def test_more_confidences_than_tokens_are_zero():
    found = read(torch.clone, torch.zeros(1, 4), Needs(top_k=6), BANNED, 4)
    assert found.confidence.tolist() == [[0.25, 0.25, 0.25, 0.0, 0.0, 0.0]]


def test_a_banned_token_that_towers_over_all_leaves_no_confidence():
    logits = torch.zeros(1, 6)
    logits[0, 3] = 500.0
    found = read(torch.clone, logits, Needs(entropy=True), BANNED, 6)
    assert found.token.item() != 3
    assert found.confidence.item() == 0
    assert found.entropy.item() == 0


def test_nan_shows():
    logits = torch.zeros(2, 10)
    logits[1, 4] = torch.nan
    found = read(torch.clone, logits, Needs(), BANNED, 10)
    assert found.confidence[:, 0].isnan().tolist() == [False, True]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_tempered_softmax(temperature):
    n = 40_000
    logits = torch.tensor([2.0, 1.0, 0.0, 5.0, -1.0, 0.5])
    key = torch.randint(0, 2**62, (n,), generator=torch.Generator().manual_seed(0))
    step, position = torch.arange(n) % 7, torch.arange(n) % 11
    drawn = sample(torch.clone, logits.expand(n, -1), BANNED, 6, Drawn(Sampling(temperature), key, step, position))
    expected = (logits.index_fill(0, BANNED, -torch.inf) / temperature).softmax(dim=0)
    share = torch.bincount(drawn, minlength=6) / n
    error = (expected * (1 - expected) / n).sqrt()
    assert share[3] == 0, "a banned token"
    assert ((share - expected).abs() <= 4.5 * error).all()


def test_a_draw_depends_on_key_step_and_position_alone():
    logits = logits_of(50, 40, 1.0, 0)
    key, step, position = torch.arange(50) * 977, torch.arange(50) % 5, torch.arange(50) % 8
    whole = sample(torch.clone, logits, BANNED, 40, Drawn(Sampling(1.0), key, step, position))
    for i in range(50):
        at = slice(i, i + 1)
        alone = sample(torch.clone, logits[at], BANNED, 40, Drawn(Sampling(1.0), key[at], step[at], position[at]))
        assert torch.equal(alone, whole[at])
    same = logits[:1].expand(50, -1)
    expected = sample(torch.clone, same, BANNED, 40, Drawn(Sampling(2.0), key, step, position))
    for moved in ((key + 1, step, position), (key, step + 1, position), (key, step, position + 1)):
        assert not torch.equal(sample(torch.clone, same, BANNED, 40, Drawn(Sampling(2.0), *moved)), expected)
