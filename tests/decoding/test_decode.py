"""The properties that decoding must have (batches, progress, NFE), on a real network with random weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_tiny
from unmask.decoding.blocks import check_block_length, selectable
from unmask.decoding.decode import decode, generate
from unmask.decoding.readout import read
from unmask.errors import UnmaskError
from unmask.policies.base import Policy
from unmask.policies.confidence_threshold import ConfidenceThreshold
from unmask.policies.random_order import RandomOrder
from unmask.policies.top_k_confidence import TopKConfidence
from unmask.policies.transformer import TransformerPolicy
from unmask.types import Needs

TINY = make_tiny()
prompts_of_any_length = st.lists(
    st.lists(st.integers(4, len(TINY.tokenizer) - 1), min_size=1, max_size=12), min_size=1, max_size=6
)
rules = st.one_of(
    st.builds(ConfidenceThreshold, st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])),
    st.builds(TopKConfidence, st.integers(1, 4)),
)


class Stalled(Policy):
    """Never reveals anything."""

    type_name = "stalled"

    def select(self, observation):
        return torch.zeros_like(observation.selectable)

    def config(self):
        return {}


@settings(max_examples=30, deadline=None)
@given(prompts_of_any_length, rules, st.sampled_from([2, 4, 8]), st.integers(1, 6), st.booleans())
def test_each_row_gets_what_it_gets_alone(prompts, rule, block_length, batch_size, suppress_eos):
    options = {"gen_length": 8, "block_length": block_length, "suppress_eos": suppress_eos}
    together = decode(TINY, rule, prompts, batch_size=batch_size, **options)
    for i, prompt in enumerate(prompts):
        alone = decode(TINY, rule, [prompt], **options)
        assert torch.equal(together.tokens[i], alone.tokens[0])
        assert torch.equal(together.revealed_at[i], alone.revealed_at[0])
        assert together.nfe[i] == alone.nfe[0]


@settings(max_examples=20, deadline=None)
@given(prompts_of_any_length, st.sampled_from([2, 4, 8]), st.integers(0, 3))
def test_committed_tokens_stay_and_every_row_advances(prompts, block_length, seed):
    torch.manual_seed(seed)
    steps = []
    policy = TransformerPolicy()
    out = decode(TINY, policy, prompts, gen_length=8, block_length=block_length, seed=seed, callback=steps.append)
    committed = {}
    passes = torch.zeros(len(prompts), dtype=torch.long)
    for step in steps:
        assert step.action.any(dim=1).all()
        assert not (step.action & ~step.observation.selectable).any()
        region = step.before.tokens[:, -8:]
        for row, tokens, masked in zip(step.before.row.tolist(), region, step.before.masked, strict=True):
            before = committed.get(row)
            if before is not None:
                assert torch.equal(tokens[~before[1]], before[0][~before[1]])
            committed[row] = (tokens, masked)
            passes[row] += 1
    assert torch.equal(passes, out.nfe)
    assert out.complete.all()
    assert not (out.tokens == TINY.mask_id).any()


def test_a_random_row_depends_on_its_own_stream_only():
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    batched = decode(TINY, RandomOrder(1), prompts, gen_length=8, batch_size=3, seed=4)
    trickled = decode(TINY, RandomOrder(1), prompts, gen_length=8, batch_size=1, seed=4)
    assert torch.equal(batched.revealed_at, trickled.revealed_at)
    other = decode(TINY, RandomOrder(1), prompts, gen_length=8, batch_size=3, seed=5)
    assert not torch.equal(batched.revealed_at, other.revealed_at)


def test_a_stalled_row_costs_its_budget_and_is_incomplete():
    out = decode(TINY, Stalled(), [[5, 6], [7]], gen_length=4, max_steps=3)
    assert out.nfe.tolist() == [3, 3]
    assert not out.complete.any()
    assert (out.tokens == TINY.mask_id).all()
    assert (out.revealed_at == -1).all()


@pytest.mark.parametrize("block_length", [2, 8])
def test_nfe_of_one_position_a_step_is_the_region_length(block_length):
    out = decode(TINY, TopKConfidence(1), [[5, 6], [7, 8, 9]], gen_length=8, block_length=block_length)
    assert out.nfe.tolist() == [8, 8]
    assert sorted(out.revealed_at[0].tolist()) == list(range(8))


def test_blocks_are_filled_from_left_to_right():
    out = decode(TINY, TopKConfidence(1), [[5, 6]], gen_length=8, block_length=2)
    blocks = out.revealed_at[0].view(4, 2)
    assert (blocks[1:].min(dim=1).values > blocks[:-1].max(dim=1).values).all()


def test_selectable_is_each_rows_own_first_masked_block():
    masked = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    expected = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(selectable(masked, 2), expected)
    assert torch.equal(selectable(masked, 4), masked)


@pytest.mark.parametrize("top_k", [1, 3])
def test_confidences_are_those_of_the_plain_softmax(top_k):
    logits = torch.randn(50, 97, generator=torch.Generator().manual_seed(0)) * 4
    found = read(torch.clone, logits, Needs(top_k=top_k), torch.tensor([3]), 97)
    value, token = found.confidence, found.token
    plain = logits.softmax(dim=-1)
    plain[:, 3] = 0
    expected, index = plain.topk(top_k, dim=-1)
    assert torch.allclose(value, expected, atol=1e-6)
    assert torch.equal(token, index[:, 0])
    assert not (token == 3).any()


def test_suppressed_eos_waits_for_the_text_before_it():
    steps = []
    generate(
        TINY,
        TopKConfidence(1),
        ["hall: red?", "attic: blue gold?"],
        gen_length=8,
        suppress_eos=True,
        callback=steps.append,
    )
    for step in steps:
        eos = torch.isin(step.predicted, TINY.eos_ids) & step.observation.selectable
        text_before = (step.observation.selectable & ~eos).cumsum(1) > 0
        assert (step.observation.confidence[..., 0][eos & text_before] == 0).all()


def test_the_head_runs_only_where_asked():
    asked = []
    original = TINY.network.lm_head.forward
    TINY.network.lm_head.forward = lambda hidden: (asked.append(hidden.shape[1]), original(hidden))[1]
    try:
        decode(TINY, TopKConfidence(1), [[5, 6]], gen_length=8, block_length=2)
    finally:
        TINY.network.lm_head.forward = original
    assert asked == [2, 1] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gen_length": 8, "block_length": 3}, "block_length 3 does not divide gen_length 8: use a divisor such as 2."),
        ({"gen_length": 0}, "gen_length must be at least 1, not 0."),
        ({"gen_length": 95}, "Prompt 0 has 4 tokens and with gen_length 95 needs 99 positions, but the dLLM has 96"),
        ({"gen_length": 8, "batch_size": 0}, "batch_size and max_steps must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, message):
    with pytest.raises(UnmaskError) as refused:
        generate(TINY, ConfidenceThreshold(0.9), ["hall: red?"], **options)
    assert str(refused.value).startswith(message)


def test_no_prompt_is_refused():
    with pytest.raises(UnmaskError, match="No prompt was given"):
        generate(TINY, ConfidenceThreshold(0.9), [], gen_length=8)
    with pytest.raises(UnmaskError, match="Prompt 1 is empty"):
        generate(TINY, ConfidenceThreshold(0.9), ["hall: red?", " "], gen_length=8)


def test_nan_logits_are_refused():
    broken = make_tiny()
    with torch.no_grad():
        broken.network.lm_head.decoder.bias.fill_(torch.nan)
    with pytest.raises(UnmaskError, match="The dLLM .tiny. returned NaN logits"):
        generate(broken, ConfidenceThreshold(0.9), ["hall: red?"], gen_length=8)


def test_block_length_none_is_full_diffusion():
    assert check_block_length(32, None) == 32


def test_needs_union():
    assert Needs(1, "selectable").union(Needs(50, "region")) == Needs(50, "region")
