"""Decoding options that follow released code: budgets, texts, whose confidence, guidance, nucleus."""

import pytest
import torch

from tests.conftest import make_tiny
from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.readout import Drawn, Sampling, read, sample
from unmask.errors import UnmaskError
from unmask.noise import row_keys
from unmask.observation import Needs
from unmask.policies import (
    ConfidenceThreshold,
    MarginTopK,
    Plain,
    Policy,
    RandomOrder,
    TopKConfidence,
    TransformerPolicy,
    load_policy,
)
from unmask.rl.rewards import judge
from unmask.tasks.auto import load_task

TINY = make_tiny()
PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7], [10]]
NO_BANNED = torch.tensor([0])


class Never(Policy):
    """Reveals one position in every third step of a block."""

    type_name = "never"

    @property
    def needs(self):
        return Needs(block_step=True)

    def select(self, observation):
        first = observation.selectable & (observation.selectable.cumsum(dim=1) == 1)
        return first & (observation.block_step % 3 == 2)[:, None]

    def config(self):
        return {}


def test_a_block_whose_steps_are_spent_stays_as_it_is():
    """The released loop by hand: 4 steps a block, one reveal in the third, so one of four positions and 16 passes."""
    options = {"gen_length": 16, "block_length": 4, "stop_at_eos": False}
    out = decode(TINY, Never(), PROMPTS, max_block_steps=4, **options)
    assert out.nfe.tolist() == [16] * 4
    assert out.ended == ["budget"] * 4
    revealed = [[i for i, step in enumerate(row) if step >= 0] for row in out.revealed_at.tolist()]
    assert revealed == [[0, 4, 8, 12]] * 4
    assert out.revealed_at[0][[0, 4, 8, 12]].tolist() == [2, 6, 10, 14]
    alone = decode(TINY, Never(), [PROMPTS[1]], max_block_steps=4, **options)
    assert torch.equal(alone.tokens[0], out.tokens[1])
    whole = decode(TINY, Never(), PROMPTS, **options)
    assert whole.revealed_at[0].tolist()[:4] == [2, 5, 8, 11], "by default a row stays in its block"
    assert whole.ended == ["budget"] * 4


def test_rows_in_blocks_of_their_own_share_passes_as_they_decode_alone():
    policy = Plain(TransformerPolicy().eval())
    options = {"gen_length": 16, "block_length": 8, "stop_at_eos": False, "max_block_steps": 8}
    prompts = [[5, 6, 7]] * 6 + [[8, 9]] * 2
    together = decode(TINY, policy, prompts, seed=3, batch_size=8, **options)
    assert together.passes_run < together.passes
    for i in range(8):
        alone = decode(TINY, policy, [prompts[i]], seed=3, streams=[i], **options)
        assert torch.equal(alone.tokens[0], together.tokens[i])
        assert torch.equal(alone.revealed_at[0], together.revealed_at[i])
    assert int(together.nfe.max()) <= 16
    assert "budget" in together.ended


def test_the_budget_of_a_block_changes_nothing_where_it_is_not_spent():
    options = {"gen_length": 16, "block_length": 8, "stop_at_eos": False}
    plain = decode(TINY, TopKConfidence(2), PROMPTS, **options)
    capped = decode(TINY, TopKConfidence(2), PROMPTS, max_block_steps=4, **options)
    assert torch.equal(plain.tokens, capped.tokens)
    assert capped.ended == ["complete"] * 4
    spent = decode(TINY, TopKConfidence(2), PROMPTS, max_block_steps=3, **options)
    assert spent.nfe.tolist() == [6] * 4
    assert (spent.revealed_at < 0).sum(dim=1).tolist() == [4] * 4


def test_text_behind_an_eos_is_kept_where_asked_for():
    eos = TINY.eos_ids.tolist()[0]
    words = [TINY.encode(word)[0] for word in ("red", "blue")]
    tokens = [words[0], eos, words[1], TINY.mask_id]
    assert TINY.text(tokens) == "red"
    assert TINY.text(tokens, after_eos=True) == f"red blue {TINY.tokenizer.mask_token}"
    assert TINY.text(tokens, after_eos=True, show_masks=False) == "red blue"
    options = {"gen_length": 8, "stop_at_eos": False, "temperature": 3.0, "seed": 1}
    cut = decode(TINY, TopKConfidence(4), [[5, 6]] * 12, **options)
    whole = decode(TINY, TopKConfidence(4), [[5, 6]] * 12, text_after_eos=True, **options)
    assert torch.equal(cut.tokens, whole.tokens)
    assert any(a != b and b.startswith(a) for a, b in zip(cut.texts, whole.texts, strict=True))
    with pytest.raises(UnmaskError, match=r"text_after_eos keeps text behind an EOS.*: set stop_at_eos = false"):
        decode(TINY, TopKConfidence(4), [[5, 6]], text_after_eos=True)


def test_an_unfinished_answer_can_be_judged_by_what_stands():
    task = load_task("house")
    (example,) = task.examples("test", 1)
    told = (task, [example], [f"the answer is {example.answer}"], torch.tensor([4]), torch.tensor([False]), 8)
    assert judge(*told).correct.tolist() == [False]
    lenient = judge(*told, judge_unfinished=True)
    assert lenient.correct.tolist() == [True]
    assert lenient.unfinished.tolist() == [True], "it is counted all the same"


def readout(logits, needs, sampling, seed=0):
    n = len(logits)
    keys, zeros = row_keys(seed, torch.arange(n)), torch.zeros(n, dtype=torch.long)
    drawn = Drawn(sampling, keys, zeros, torch.arange(n))
    return read(torch.clone, logits, needs, NO_BANNED, logits.shape[1], drawn=drawn), drawn


def test_whose_confidence_by_hand():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.3, 0.1]])).expand(400, -1).contiguous()
    likeliest = read(torch.clone, logits, Needs(), NO_BANNED, 4)
    assert torch.allclose(likeliest.confidence, torch.tensor(0.5))
    of_drawn, how = readout(logits, Needs(top_k=2, entropy=True), Sampling(1.0, confidence_of="drawn"))
    p = torch.tensor([0.1, 0.5, 0.3, 0.1])
    assert torch.allclose(of_drawn.confidence[:, 0], p[of_drawn.token])
    others = torch.where(of_drawn.token == 1, 0.3, 0.5)
    assert torch.allclose(of_drawn.confidence[:, 1], others)
    assert torch.allclose(of_drawn.entropy, -(p * p.log()).sum())
    assert len(of_drawn.token.unique()) == 3, "the banned one is never drawn"
    assert torch.equal(of_drawn.token, sample(torch.clone, logits, NO_BANNED, 4, how)), "as without being shown"
    # Dream: temperature 0.5 squares .5, .3, .1 to .25, .09, .01 over .35; top_p .9 leaves the first two: .25 and .09
    q = torch.tensor([0.0, 0.25, 0.09, 0.0]) / 0.34
    dream, _ = readout(logits, Needs(entropy=True), Sampling(0.5, top_p=0.9, confidence_of="sampling"))
    assert set(dream.token.tolist()) == {1, 2}
    assert torch.allclose(dream.confidence[:, 0], q[dream.token])
    assert torch.allclose(dream.entropy, -(q[1:3] * q[1:3].log()).sum())
    margin, _ = readout(logits, Needs(top_k=2), Sampling(0.5, top_p=0.9, confidence_of="sampling"))
    assert torch.allclose(margin.confidence, q[1:3].expand(400, 2))


@pytest.mark.parametrize(("top_p", "top_k", "kept"), [(0.5, None, 1), (0.6, None, 2), (1.0, 2, 2), (0.95, 1, 1)])
def test_nucleus_and_top_k_keep_the_likeliest(top_p, top_k, kept):
    p = torch.tensor([0.0, 0.55, 0.25, 0.15, 0.05])
    scores = Sampling(1.0, top_p, top_k).scores(p.log()[None], NO_BANNED)
    assert scores.isfinite().sum() == kept
    n = 4000
    how = Drawn(Sampling(1.0, top_p, top_k), row_keys(0, torch.arange(n)), *torch.zeros(2, n, dtype=torch.long))
    found = sample(torch.clone, p.log().expand(n, -1), NO_BANNED, 5, how)
    share = torch.bincount(found, minlength=5) / n
    expected = torch.where(torch.arange(5) <= kept, p, 0.0)
    assert (share - expected / expected.sum()).abs().max() < 0.03


@pytest.mark.parametrize(
    "options", [{"confidence_of": "drawn"}, {"confidence_of": "sampling", "top_p": 0.8}, {"top_k": 3}]
)
def test_rows_draw_alone_as_in_a_batch(options):
    options = {"gen_length": 8, "temperature": 0.8, "stop_at_eos": False, **options}
    together = decode(TINY, ConfidenceThreshold(0.3), PROMPTS, batch_size=3, seed=5, **options)
    for i, prompt in enumerate(PROMPTS):
        alone = decode(TINY, ConfidenceThreshold(0.3), [prompt], seed=5, streams=[i], **options)
        assert torch.equal(alone.tokens[0], together.tokens[i])
        assert torch.equal(alone.revealed_at[0], together.revealed_at[i])


def test_a_policy_sees_the_probability_of_the_token_that_would_be_written():
    """Against a forward pass of the test's own; what is revealed is what was shown."""
    steps = []
    options = {"gen_length": 8, "temperature": 2.0, "stop_at_eos": False, "callback": steps.append}
    decode(TINY, TopKConfidence(1), PROMPTS, confidence_of="drawn", **options)
    for step in steps:
        state = step.before
        rows, columns = state.masked.nonzero(as_tuple=True)
        flat = rows * state.tokens.shape[1] + columns + state.prompt_width
        p = TINY.logits(state.tokens, state.attention, flat).softmax(dim=-1)
        drawn = p.gather(1, step.predicted[rows, columns][:, None])[:, 0]
        assert torch.allclose(step.observation.confidence[rows, columns, 0], drawn, atol=1e-5)
        assert torch.equal(step.written[step.action], step.predicted[step.action])
    likeliest = torch.cat([step.observation.confidence[..., 0][step.before.masked] for step in steps])
    assert (likeliest < 0.1).any(), "a drawn token can be unlikely"


def test_guidance_moves_logits_away_from_those_without_the_prompt():
    tokens = torch.tensor([[TINY.pad_id, 5, 6, TINY.mask_id, TINY.mask_id], [7, 8, 9, TINY.mask_id, TINY.mask_id]])
    attention = tokens != TINY.pad_id
    positions = torch.tensor([3, 4, 8, 9])
    blind = tokens.clone()
    blind[:, :3] = torch.where(attention[:, :3], TINY.mask_id, blind[:, :3])
    z, u = (TINY.logits(rows, attention, positions) for rows in (tokens, blind))
    from unmask.models.guidance import Guided

    found = Guided(TINY, 1.5, 2).logits(tokens, attention, positions)
    assert torch.allclose(found, u + 2.5 * (z - u), atol=1e-4)
    options = {"gen_length": 8, "stop_at_eos": False}
    guided = decode(TINY, TopKConfidence(1), PROMPTS, cfg_scale=2.0, **options)
    assert guided.nfe.tolist() == [8] * 4
    assert not torch.equal(guided.tokens, decode(TINY, TopKConfidence(1), PROMPTS, **options).tokens)
    for i, prompt in enumerate(PROMPTS):
        assert torch.equal(
            decode(TINY, TopKConfidence(1), [prompt], cfg_scale=2.0, **options).tokens[0], guided.tokens[i]
        )


def test_guidance_is_refused_where_it_cannot_be():
    from unmask.models.residual_context import ResidualContext
    from unmask.policies import TransformerConfig

    reads = TransformerPolicy(TransformerConfig(reads="hidden_states", hidden_size=32))
    with pytest.raises(UnmaskError, match="cfg_scale mixes two passes, and this policy reads hidden states"):
        decode(TINY, reads, PROMPTS, gen_length=8, cfg_scale=1.0)
    with pytest.raises(
        UnmaskError, match=r"'tiny' \(.*residual context\) keeps something from pass to pass: leave one out"
    ):
        decode(ResidualContext(TINY), RandomOrder(1), PROMPTS, gen_length=8, cfg_scale=1.0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"cfg_scale": -1.0}, "cfg_scale"),
        ({"max_block_steps": 0}, "max_block_steps"),
        ({"confidence_of": "drwan"}, "confidence_of"),
    ],
)
def test_bad_options_are_refused_by_name(option, message):
    with pytest.raises(UnmaskError, match=message):
        decode(TINY, TopKConfidence(1), [[5]], gen_length=4, **option)


def test_klass_and_margins_see_what_they_ask_for():
    config = DecodeConfig(gen_length=8, temperature=1.0, confidence_of="sampling", top_k=5, stop_at_eos=False)
    for policy in (MarginTopK(1), load_policy("klass:wait=true"), load_policy("entropy_bound:gamma=0.1")):
        assert decode(TINY, policy, PROMPTS, config).complete.all()


def test_a_stop_string_ends_a_row_once_all_before_it_stands(house):
    model, prompts = house
    options = {"gen_length": 32, "block_length": 8}
    policy = ConfidenceThreshold(0.9)
    whole = decode(model, policy, prompts, **options)
    out = decode(model, policy, prompts, stop=("the answer", "nowhere"), **options)
    assert out.texts == [text.partition("the answer")[0] for text in whole.texts]
    assert "stop" in out.ended, "the others ended in the same step anyway"
    assert out.complete.all()
    assert (out.nfe <= whole.nfe).all()
    assert (out.nfe < whole.nfe).any()
    for i, tokens in enumerate(out.tokens.tolist()):
        kept = model.text(tokens).partition("[MASK]")[0]
        assert "the answer" in kept, "the stop string stands, and all before it"
        alone = decode(model, policy, [prompts[i]], stop=("the answer",), **options)
        assert (alone.texts[0], int(alone.nfe[0])) == (out.texts[i], int(out.nfe[i]))
    none = decode(model, policy, prompts, stop=("nowhere",), **options)
    assert (none.texts, none.nfe.tolist(), none.ended) == (whole.texts, whole.nfe.tolist(), whole.ended)
    with pytest.raises(UnmaskError, match="stop"):
        decode(model, policy, prompts, stop=("",), **options)


@pytest.fixture(scope="module")
def house():
    from unmask import load_model

    model = load_model("house-base")
    return model, [model.encode(one.prompt) for one in load_task("house").examples("test", 6)]


def test_what_is_given_up_does_not_hold_up_an_eos_or_a_stop_string(house):
    """The row ends where it would, and counts as unfinished: its text has masks."""
    model, prompts = house
    options = {"gen_length": 32, "block_length": 8, "max_block_steps": 4}
    policy = TopKConfidence(1)
    spent = decode(model, policy, prompts, stop_at_eos=False, **options)
    assert spent.nfe.tolist() == [16] * 6
    stopped = decode(model, policy, prompts, stop=("is",), judge_unfinished=True, **options)
    assert (stopped.nfe < spent.nfe).any()
    assert set(stopped.ended) == {"budget"}
    assert all("is" not in text.split() for text in stopped.texts)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (
            "step_count:steps=64,schedule=linear",
            {},
            "takes 64 steps in each of 1 blocks, and max_steps is 32: set max_steps = 64",
        ),
        (
            "origin:steps=12",
            {"block_length": 8},
            "takes 12 steps in each of 4 blocks, and max_steps is 32: set max_steps = 48",
        ),
        (
            "origin:steps=12 | dilated",
            {"max_steps": 99, "max_block_steps": 8},
            "and max_block_steps is 8: leave it out",
        ),
    ],
)
def test_a_budget_below_what_a_rule_takes_is_refused(policy, options, message):
    with pytest.raises(UnmaskError, match=message):
        decode(TINY, load_policy(policy), PROMPTS, gen_length=32, **options)
    assert decode(TINY, load_policy("step_count:steps=4,schedule=linear"), PROMPTS, gen_length=16).complete.all()


@pytest.mark.parametrize("rule", ["top_k_confidence", "margin_top_k", "entropy_top_k", "step_count:steps=4"])
def test_a_temperature_that_divides_by_nothing_is_refused(rule):
    with pytest.raises(UnmaskError, match="alg_temp = .*too small to divide by: give 0"):
        load_policy(f"{rule}{',' if ':' in rule else ':'}alg_temp=1e-300")


def test_an_expert_teaches_nothing_of_a_block_that_is_given_up():
    """The learner's block is that of the first position that is still open, not of the first mask."""
    from unmask.decoding.blocks import FixedBlocks
    from unmask.rl.experts import as_seen
    from unmask.rl.rollout import Recorder

    policy, recorder = TransformerPolicy().eval(), Recorder(Needs(positions="region"))
    options = {"gen_length": 16, "block_length": 4, "stop_at_eos": False, "max_block_steps": 2}
    decode(TINY, TopKConfidence(1), PROMPTS, callback=recorder, also_observe=Needs(positions="region"), **options)
    steps = recorder.steps()
    for length in (4, 8, 16):
        seen = as_seen(steps, FixedBlocks(length), policy)
        assert not (seen.picks > 0)[~seen.observation.selectable].any(), "what was picked could be picked"
    assert steps.observation.masked[:, :4].any(dim=1).all(), "masks stay behind"
