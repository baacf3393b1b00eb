"""The properties that decoding must have (batches, progress, NFE), on a real network with random weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_tiny
from tests.oracle import RULES, plain_loop, plain_rule
from unmask.decoding.blocks import AdaptiveBlocks, FixedBlocks, check_block_length
from unmask.decoding.decode import decode, stream
from unmask.decoding.generate import generate
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.observation import Needs
from unmask.policies import (
    KLASS,
    ConfidenceThreshold,
    EntropyBound,
    Factor,
    FixedSchedule,
    MarginThreshold,
    MarginTopK,
    MaxReveal,
    Policy,
    RandomOrder,
    RisingThreshold,
    TopKConfidence,
    TransformerPolicy,
    load_policy,
    topk_positions,
)

TINY = make_tiny()
prompts_of_any_length = st.lists(
    st.lists(st.integers(4, len(TINY.tokenizer) - 1), min_size=1, max_size=12), min_size=1, max_size=6
)
deterministic = st.one_of(
    st.builds(ConfidenceThreshold, st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])),
    st.builds(TopKConfidence, st.integers(1, 4)),
    st.builds(Factor, st.sampled_from([0.5, 1.0, 2.0])),
    st.builds(MarginTopK, st.integers(1, 3)),
    st.builds(MarginThreshold, st.sampled_from([0.1, 0.5])),
    st.builds(EntropyBound, st.sampled_from([0.0, 0.1, 2.0]), st.sampled_from(["entropy", "confidence", "margin"])),
    st.builds(KLASS, st.sampled_from([0.1, 0.5]), st.sampled_from([0.1, 1.0]), st.integers(1, 2)),
    st.builds(RisingThreshold, st.sampled_from([0.1, 0.5]), st.sampled_from([0.2, 0.9])),
    st.just(FixedSchedule((1, 3, 2))),
    st.builds(lambda rule: MaxReveal(rule, 2), st.builds(ConfidenceThreshold, st.just(0.1))),
)
blocks = st.sampled_from([2, 4, 8, AdaptiveBlocks(default=3, delimiters=(".", ",", "red"), threshold=0.1, window=0.5)])


def ids_of(model):
    return {"mask_id": model.mask_id, "pad_id": model.pad_id, "first_position": model.first_position}


def same_row(together, i, alone):
    assert torch.equal(together.tokens[i], alone.tokens[0])
    assert torch.equal(together.revealed_at[i], alone.revealed_at[0])
    assert together.nfe[i] == alone.nfe[0]
    assert together.ended[i] == alone.ended[0]


EAGER_TO_END = make_tiny()
with torch.no_grad():
    EAGER_TO_END.network.lm_head.decoder.bias[EAGER_TO_END.eos_ids[0]] += 20.0


class Stalled(Policy):
    """Never reveals anything."""

    type_name = "stalled"

    def select(self, observation):
        return torch.zeros_like(observation.selectable)

    def config(self):
        return {}


@settings(max_examples=15, deadline=None)
@given(prompts_of_any_length, deterministic, blocks, st.integers(1, 6), st.booleans(), st.booleans())
def test_each_row_gets_what_it_gets_alone(prompts, rule, block_length, batch_size, suppress_eos, stop_at_eos):
    options = {"gen_length": 8, "block_length": block_length, "suppress_eos": suppress_eos, "stop_at_eos": stop_at_eos}
    together = decode(TINY, rule, prompts, batch_size=batch_size, **options)
    for i, prompt in enumerate(prompts):
        same_row(together, i, decode(TINY, rule, [prompt], **options))


@settings(max_examples=8, deadline=None)
@given(prompts_of_any_length, blocks, st.integers(1, 6), st.sampled_from([0.0, 0.7, 2.0]), st.integers(0, 9))
def test_a_rows_draws_do_not_depend_on_its_neighbours(prompts, block_length, batch_size, temperature, seed):
    torch.manual_seed(0)
    policy = TransformerPolicy()
    options = {"gen_length": 8, "block_length": block_length, "temperature": temperature, "seed": seed}
    repeated = [*prompts, *prompts]  # copies share forward passes as long as they hold the same tokens
    together = decode(TINY, policy, repeated, batch_size=batch_size, **options)
    for i, prompt in enumerate(repeated):
        same_row(together, i, decode(TINY, policy, [prompt], streams=[i], **options))


def test_copies_of_a_prompt_share_passes_and_differ_by_their_draws(monkeypatch):
    rows, original = [], TINY.hidden

    def counted(tokens, *args):
        rows.append(len(tokens))
        return original(tokens, *args)

    monkeypatch.setattr(TINY, "hidden", counted)
    out = decode(TINY, RandomOrder(2), [[5, 6, 7]] * 6 + [[8, 9]] * 2, gen_length=8, batch_size=8)
    assert rows[0] == 2, "eight rows, two prompts"
    assert max(rows) > 2
    assert out.passes_run == sum(rows) < out.passes == int(out.nfe.sum())
    assert len(out.revealed_at[:6].unique(dim=0)) > 1


class EveryThirdStep(Policy):
    """Reveals two positions at steps 0, 3, 6, ..., and nothing in between."""

    type_name = "every_third_step"

    def select(self, observation):
        step = (observation.step_fraction * observation.masked.shape[1]).round().long()
        return (
            topk_positions(observation.confidence[..., 0], observation.selectable, 2, exact=True)
            & (step % 3 == 0)[:, None]
        )

    def config(self):
        return {}


def test_a_step_that_reveals_nothing_counts_but_asks_nothing_again(monkeypatch):
    prompts = [[5, 6, 7]] * 3 + [[8, 9]] + [[10, 11, 12]]
    options = {"gen_length": 8, "max_steps": 20, "stop_at_eos": False}
    alone = [decode(TINY, EveryThirdStep(), [prompt], **options) for prompt in prompts]
    rows, original = [], TINY.hidden

    def counted(tokens, *args):
        rows.append(len(tokens))
        return original(tokens, *args)

    monkeypatch.setattr(TINY, "hidden", counted)
    together = decode(TINY, EveryThirdStep(), prompts, batch_size=4, **options)
    assert together.nfe.tolist() == [10] * 5
    assert sum(rows) == 3 * 4, "three different prompts, each with four states that are not the last"
    for i, row in enumerate(alone):
        same_row(together, i, row)


@pytest.mark.parametrize("settings", RULES, ids=lambda settings: settings["type"])
@pytest.mark.parametrize("block_length", [2, 8])
def test_the_plain_loop_agrees(settings, block_length):
    """The loop and the rules written again, one row at a time, without a line of the package."""
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, TINY.vocab_size, (n,), generator=generator).tolist() for n in (3, 9, 1, 5, 12, 7)]
    options = {"gen_length": 8, "block_length": block_length}
    ours = decode(TINY, load_policy(settings), prompts, batch_size=4, stop_at_eos=False, **options)
    for i, prompt in enumerate(prompts):
        rule = plain_rule(settings, TINY.mask_id)
        tokens, nfe = plain_loop(TINY.network, [prompt], rule, **ids_of(TINY), **options)
        assert torch.equal(tokens[0], ours.tokens[i])
        assert nfe[0] == ours.nfe[i]


@settings(max_examples=40, deadline=None)
@given(prompts_of_any_length, deterministic, blocks)
def test_an_early_stop_changes_nothing_but_what_follows_the_eos(prompts, rule, block_length):
    model = EAGER_TO_END
    options = {"gen_length": 8, "block_length": block_length}
    steps = []
    early = decode(model, rule, prompts, stop_at_eos=True, callback=steps.append, **options)
    whole = decode(model, rule, prompts, stop_at_eos=False, **options)
    end = int(model.eos_ids[0])
    for i in range(len(prompts)):
        a, b = early.tokens[i].tolist(), whole.tokens[i].tolist()
        cut = b.index(end) + 1 if end in b else len(b)
        assert a[:cut] == b[:cut]
        assert set(a[cut:]) <= {end}
        assert early.nfe[i] <= whole.nfe[i]
        assert early.nfe[i] == sum(i in step.before.row.tolist() for step in steps), "NFE is what was spent"
        assert (early.nfe[i] < whole.nfe[i]) <= (early.ended[i] == "eos")
        assert early.ended[i] == ("eos" if (early.revealed_at[i] < 0).any() else "complete")
        needed = int(early.revealed_at[i][:cut].max()) + 1
        assert early.nfe[i] == (needed if early.ended[i] == "eos" else whole.nfe[i]), "not a pass after the EOS stands"


def test_eos_does_end_rows_early():
    out = decode(EAGER_TO_END, TopKConfidence(1), [[5], [6, 7], [8, 9, 10]], gen_length=16)
    assert "eos" in out.ended
    assert out.complete.all()
    assert int(out.nfe.min()) < 16


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
    none = torch.zeros(len(masked), dtype=torch.long)
    assert torch.equal(FixedBlocks(2).scope(masked, none), expected)
    assert torch.equal(FixedBlocks(4).scope(masked, none), masked)


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


def test_token_ids_may_be_tensors_or_arrays():
    ids = [TINY.encode("hall: red?"), TINY.encode("attic: gold?")]
    wanted = generate(TINY, ConfidenceThreshold(0.9), ids, gen_length=8).tokens
    for prompts in ([torch.tensor(each) for each in ids], [np.array(each) for each in ids], torch.tensor(ids)):
        assert generate(TINY, ConfidenceThreshold(0.9), prompts, gen_length=8).tokens.equal(wanted)


def test_block_length_none_is_full_diffusion():
    assert check_block_length(32, None) == 32


def test_needs_union():
    assert Needs(1, "selectable").union(Needs(50, "region")) == Needs(50, "region")


class ReadsHiddenStates(Policy):
    """Reveals where the hidden states point."""

    type_name = "reads_hidden_states"

    @property
    def needs(self):
        return Needs(hidden_states=True)

    def select(self, observation):
        assert observation.hidden_states.shape[-1] == 32
        return topk_positions(observation.hidden_states[..., 0], observation.selectable, 1, exact=True)

    def config(self):
        return {}


def test_hidden_states_are_given_or_refused():
    prompts = [[5, 6], [7, 8, 9]]
    together = decode(TINY, ReadsHiddenStates(), prompts, gen_length=8, block_length=4)
    for i, prompt in enumerate(prompts):
        same_row(together, i, decode(TINY, ReadsHiddenStates(), [prompt], gen_length=8, block_length=4))
    secretive = make_tiny()
    secretive.hidden_size = None
    with pytest.raises(UnmaskError, match="'reads_hidden_states' needs hidden states, and the dLLM 'tiny' gives none"):
        decode(secretive, ReadsHiddenStates(), prompts, gen_length=8)


def test_banned_tokens_are_never_written():
    model = make_tiny()
    free = decode(model, TopKConfidence(2), [[5, 6], [7]], gen_length=8)
    model.banned_ids = torch.cat([model.banned_ids, free.tokens.unique()])
    for temperature in (0.0, 1.5):
        out = decode(model, TopKConfidence(2), [[5, 6], [7]], gen_length=8, temperature=temperature)
        assert not torch.isin(out.tokens, model.banned_ids).any()


def test_results_come_in_the_order_of_the_prompts_whatever_their_lengths():
    texts = ["hall: red?", "attic: blue gold green red?", "garage: gold red?"]
    out = generate(TINY, TopKConfidence(2), texts, gen_length=8, batch_size=2)
    assert len(out) == 3
    for i, done in enumerate(out):
        alone = generate(TINY, TopKConfidence(2), texts[i], gen_length=8)[0]
        assert (done.index, done.text, done.tokens, done.nfe) == (i, alone.text, alone.tokens, alone.nfe)
        assert done.revealed_at == alone.revealed_at
        assert done.ended in ("complete", "eos")
        assert 0 < done.seconds <= out.total_seconds
    assert out[-1].index == 2
    with pytest.raises(IndexError):
        out[3]


def test_rows_are_given_as_they_end_and_checked_before_the_first():
    prompts = [[5, 6], [7, 8, 9, 10], [11]]
    given = list(stream(TINY, TopKConfidence(4), prompts, DecodeConfig(gen_length=8, batch_size=1)))
    assert [done.row.tolist() for done in given] == [[1], [0], [2]], "longest first"
    with pytest.raises(UnmaskError, match="Prompt 1 is empty"):
        stream(TINY, TopKConfidence(4), [[5], []], DecodeConfig(gen_length=8))


def test_prompts_of_like_length_are_live_together():
    widths = []

    def keep(step):
        widths.append(step.before.prompt_width)

    prompts = [[5] * n for n in (1, 12, 1, 12, 1, 12, 1, 12)]
    decode(TINY, TopKConfidence(8), prompts, gen_length=8, batch_size=4, callback=keep)
    assert widths == [12, 1]


def test_in_bfloat16_a_batch_decides_alike_up_to_near_ties():
    model = make_tiny()
    model.network.to(torch.bfloat16)
    prompts = [[5, 6, 7], [8] * 11, [9, 10], [11, 12, 13, 14]]
    seen = {}

    def keep(step):
        for row, c, token in zip(step.before.row.tolist(), step.observation.confidence, step.predicted, strict=True):
            seen.setdefault(row, (c, token))

    decode(model, MarginTopK(1), prompts, gen_length=8, callback=keep, max_steps=1)
    together = dict(seen)
    for i, prompt in enumerate(prompts):
        seen.clear()
        decode(model, MarginTopK(1), [prompt], gen_length=8, callback=keep, max_steps=1)
        assert (together[i][0] - seen[0][0]).abs().max() < 0.05
        clear = (seen[0][0][:, 0] - seen[0][0][:, 1]) > 0.05
        assert clear.any()
        assert torch.equal(together[i][1][clear], seen[0][1][clear])
