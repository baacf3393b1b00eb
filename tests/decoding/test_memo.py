"""Passes shared between decodings of the same prompts: what is decoded is what would be decoded without."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.decoding.decode import decode
from unmask.decoding.memo import OF_A_KEY, Memo, memo_of
from unmask.decoding.options import DecodeConfig
from unmask.models.auto import load_model
from unmask.observation import Needs
from unmask.policies.auto import load_policy

MODEL = load_model("house-base")
PROMPTS = [
    MODEL.encode(text)
    for text in ("hall: red?", "attic: red blue gold?", "porch: green?", "hall: red?", "cellar: gold gold blue red?")
]
CELLS = [
    ("confidence_threshold:threshold=0.9", {"block_length": 8}),
    ("confidence_threshold:threshold=0.5", {}),
    ("confidence_threshold:threshold=0.5", {"suppress_eos": True}),
    ("top_k_confidence:k=2", {"block_length": 4}),
    ("entropy_bound:gamma=0.5", {"block_length": 16}),
    ("margin_threshold:threshold=0.3", {}),
    ("klass:threshold=0.7,kl=0.01", {}),  # needs distributions of the last pass: decoded without
    ("random_order", {}),
    ("confidence_threshold:threshold=0.7", {"block_length": 'adaptive:default=8,threshold=0.3,delimiters=[","]'}),
    ("house-base-full", {"speed": 0.0}),
    ("house-base-full", {"speed": 0.6}),
    ("house-base-full", {"speed": 0.6, "stop_at_eos": True}),
    ("house-base-block8", {"block_length": 8, "speed": 0.3}),
    ("confidence_threshold:threshold=0.6", {"temperature": 0.7}),  # drawn: decoded without
]


def decoded(cells, memo=None, batch_size=3):
    return [
        decode(MODEL, policy, PROMPTS, DecodeConfig(gen_length=32, batch_size=batch_size, **options), memo=memo, seed=5)
        for policy, options in cells
    ]


def same(a, b):
    assert torch.equal(a.revealed_at, b.revealed_at)
    assert torch.equal(a.nfe, b.nfe)
    assert torch.equal(a.positions, b.positions)
    assert (a.texts, a.passes) == (b.texts, b.passes)


CELLS = [(load_policy(policy), options) for policy, options in CELLS]
ALONE = decoded(CELLS)


@settings(max_examples=4, deadline=None)
@given(order=st.permutations(range(len(CELLS))), limit=st.sampled_from([1, 20_000, 2**20]), batch=st.integers(1, 6))
def test_decodings_that_share_passes_are_what_they_are_alone(order, limit, batch):
    memo = Memo(MODEL, memo_of(MODEL, [policy for policy, _ in CELLS]).needs, limit)
    together = decoded([CELLS[i] for i in order], memo, batch)
    for i, out in zip(order, together, strict=True):
        same(out, ALONE[i])
        assert out.passes_run <= out.passes


def test_the_second_time_nothing_is_run():
    plain = [cell for cell in CELLS if "temperature" not in cell[1] and not cell[0].needs.kl_history]
    memo = memo_of(MODEL, [policy for policy, _ in plain])
    first = decoded(plain, memo)
    assert sum(out.passes_run for out in first) == len(memo) < sum(out.passes for out in first)
    again = decoded(plain, memo)
    assert sum(out.passes_run for out in again) == 0
    for a, b in zip(again, first, strict=True):
        same(a, b)


def test_the_oldest_readings_are_forgotten():
    memo = Memo(MODEL, Needs(), limit=10 * (OF_A_KEY + 32 * (4 + 8)))  # ten rows of a confidence and a token
    policy = load_policy("top_k_confidence:k=1")
    decode(MODEL, policy, PROMPTS[:1], DecodeConfig(gen_length=32), memo=memo)
    assert len(memo) == 10
    again = decode(MODEL, policy, PROMPTS[:1], DecodeConfig(gen_length=32), memo=memo)
    assert again.passes_run == 32, "what comes next was forgotten before it came"


@pytest.mark.parametrize(
    ("needs", "options"),
    [
        (Needs(top_k=3), {}),
        (Needs(entropy=True), {}),
        (Needs(tokens=True), {}),
        (Needs(positions="region"), {}),
        (Needs(hidden_states=True), {}),
        (Needs(kl_history=1), {}),
        (Needs(age=True), {}),
        (Needs(differs=True), {}),
        (Needs(), {"gen_length": 16}),
        (Needs(), {"cfg_scale": 1.0}),
        (Needs(), {"temperature": 1.0, "confidence_of": "drawn"}),
        (Needs(), {"top_p": 0.9, "confidence_of": "sampling"}),
    ],
)
def test_what_needs_more_or_is_read_otherwise_is_decoded_without(needs, options):
    memo = Memo(MODEL, Needs(top_k=2))
    policy = load_policy("confidence_threshold:threshold=0.5")
    decode(MODEL, policy, PROMPTS, DecodeConfig(gen_length=32), memo=memo)
    assert memo.serves(MODEL, Needs(top_k=2, positions="masked", speed=True, block_step=True), resolved({}))
    assert not memo.serves(guided(MODEL, options), needs, resolved(options))


def guided(model, options):
    from unmask.models.guidance import Guided

    return Guided(model, options["cfg_scale"], 32) if "cfg_scale" in options else model


def resolved(options):
    return DecodeConfig(**{"gen_length": 32, **options}).resolve(MODEL)


def test_a_dllm_with_a_cache_is_decoded_without():
    model, policy = load_model("house-block-causal"), load_policy("house-block-causal")
    prompts = [model.encode("hall: red blue?"), model.encode("porch: gold?")]
    memo = memo_of(model, [policy])
    config = DecodeConfig(gen_length=32)
    same(decode(model, policy, prompts, config, memo=memo), decode(model, policy, prompts, config))
    assert len(memo) == 0
    plain = DecodeConfig(gen_length=32, cache="none")
    same(decode(model, policy, prompts, plain, memo=memo), decode(model, policy, prompts, plain))
