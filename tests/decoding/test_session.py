"""Rows that come, are given up and end by themselves: each as if it were alone."""

import pytest
import torch

from unmask.decoding.decode import advance, decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.session import Session
from unmask.models.auto import load_model
from unmask.noise import row_keys
from unmask.policies.auto import load_policy

WORDS = ["red", "blue", "gold", "green"]
PROMPTS = [f"{room}: {' '.join(WORDS[:n])}?" for room in ("hall", "attic") for n in (1, 2, 4)]


@pytest.fixture(
    scope="module", params=[("house-base", "house-base-full"), ("house-block-causal", "house-block-causal")]
)
def pair(request):
    model, policy = request.param
    return load_model(model), load_policy(policy)


def run(session, policy, ended, drops=(), stand=None):
    """Decode to the end; at each step in `drops`, in the middle of it or not, those rows are given up."""
    step = 0
    while len(session):
        for at, rows, observed in drops:
            if at == step:
                if observed:
                    session.observe()
                session.drop(rows)
        if not len(session):
            break
        gone = advance(session, policy)
        for done in gone.completions() if gone is not None else ():
            ended[done.index] = done
        if stand is not None:
            for row, tokens in session.standing().items():
                stand.setdefault(row, []).append(tokens)
        step += 1


@pytest.mark.parametrize("observed", [False, True])
def test_rows_that_are_given_up_leave_the_others_as_they_are(pair, observed):
    model, policy = pair
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    config = DecodeConfig(gen_length=32)
    whole = decode(model, policy, prompts, config, seed=7)
    session, ended = Session(model, policy.needs, config.resolve(model)), {}
    session.add(prompts, range(6), row_keys(7, torch.arange(6)))
    run(session, policy, ended, [(1, {0, 99}, observed), (1, {3}, observed), (2, {5}, observed)])
    assert sorted(ended) == [1, 2, 4]
    for i, done in ended.items():
        assert (done.tokens, done.nfe, done.positions) == (
            whole.tokens[i].tolist(),
            whole.nfe[i].item(),
            whole.positions[i].item(),
        )
    session.add(prompts[:2], range(2), row_keys(7, torch.arange(2)))
    session.drop({0, 1})
    assert (len(session), session.standing()) == (0, {})
    session.drop({0})


def test_what_stands_never_changes_and_ends_as_the_whole(pair):
    model, policy = pair
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    session, ended, stood = Session(model, policy.needs, DecodeConfig(gen_length=32).resolve(model)), {}, {}
    session.add(prompts, range(6), row_keys(0, torch.arange(6)))
    assert session.standing() == {i: [] for i in range(6)}
    run(session, policy, ended, stand=stood)
    assert any(len(tokens) for seen in stood.values() for tokens in seen), "else nothing was tested"
    for row, seen in stood.items():
        for shorter, longer in zip(seen, [*seen[1:], ended[row].tokens], strict=True):
            assert longer[: len(shorter)] == shorter
    assert not session._own


def test_each_row_ends_at_its_own_stop_string(pair):
    model, policy = pair
    prompts = [model.encode(PROMPTS[2])] * 3
    plain = decode(model, policy, prompts[:1], gen_length=32, streams=[0])[0]
    word = plain.text.split()[1]
    session, ended = Session(model, policy.needs, DecodeConfig(gen_length=32).resolve(model)), {}
    stops = [(), (word,), ("nothing of the kind",)]
    session.add(prompts, range(3), row_keys(0, torch.zeros(3, dtype=torch.long)), stops=stops)
    run(session, policy, ended)
    assert ended[1].ended == "stop" or ended[1].nfe == plain.nfe
    assert ended[1].nfe <= plain.nfe
    assert [ended[i].text for i in (0, 2)] == [plain.text] * 2
    alone = decode(model, policy, prompts[:1], gen_length=32, streams=[0], stop=(word,))[0]
    assert (ended[1].nfe, ended[1].tokens, ended[1].ended) == (alone.nfe, alone.tokens, alone.ended)
