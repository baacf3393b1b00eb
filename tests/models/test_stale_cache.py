"""Stale caches of dLLMs that attend in full: what a pass computes, what it leaves, and what that is worth."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from benchmarks.published import DREAM, LLADA, write
from benchmarks.published import tiny as tiny_config
from transformers import AttentionInterface, BertConfig, BertForMaskedLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.conftest import make_tiny
from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.session import Session
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.models.masked_lm import MaskedLM
from unmask.models.stale_cache import STALE, StaleCache
from unmask.noise import row_keys
from unmask.observation import Needs
from unmask.policies import KLASS, ConfidenceThreshold, EntropyBound, RandomOrder, TopKConfidence, TransformerPolicy
from unmask.policies.transformer import TransformerConfig
from unmask.rl.rewards import load_reward, scale_free
from unmask.rl.rollout import Recorder, roll_out
from unmask.tasks.auto import load_task
from unmask.testing import check_model

TEXTS = ["what is twelve times seven? it is eighty-four", "add two and two"]
PUBLISHED = {"llada": LLADA, "dream": DREAM}
PROMPTS = [[5 + i] * (1 + i) for i in (0, 2, 3, 5, 8)]


@pytest.fixture(scope="session", params=["masked lm", "bert", *sorted(PUBLISHED)])
def model(request, tmp_path_factory):
    """Learnt positions, rotary ones, shifted logits."""
    if request.param == "masked lm":
        return make_tiny()
    if request.param == "bert":
        plain = make_tiny()
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        network = BertForMaskedLM(BertConfig(vocab_size=plain.vocab_size, pad_token_id=0, **shape))
        for p in network.parameters():
            p.data.mul_(12 if p.ndim > 1 else 1)
        return MaskedLM("bert", network, plain.tokenizer)
    folder = tmp_path_factory.mktemp(request.param) / "published"
    write(folder, tiny_config(PUBLISHED[request.param]), TEXTS, shard=30_000, scale=0.3)
    return load_model(folder, dtype="float32")


class Emulated:
    """Every position goes through the network in every pass; keys and values of those that are not computed are put
    back to what they were. One row, no padding."""

    def __init__(self, model):
        self.model, self.kept, self.fresh, self.layer = model, {}, None, 0
        AttentionInterface.register("emulated", self.attend)

    def attend(self, module, query, key, value, mask, scaling=None, **_):
        if self.layer in self.kept:
            key, value = (
                torch.where(self.fresh[:, None, :, None], new, old)
                for new, old in zip((key, value), self.kept[self.layer], strict=True)
            )
        self.kept[self.layer] = key, value
        self.layer += 1
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=False)

    def hidden(self, tokens, attention, positions, compute):
        self.fresh, self.layer = compute, 0
        config = self.model.network.config
        before, config._attn_implementation = config._attn_implementation, "emulated"
        try:
            return self.model.hidden(tokens, attention, positions)
        finally:
            config._attn_implementation = before


@pytest.mark.parametrize("cache", STALE)
def test_a_pass_is_one_over_everything_with_old_keys_put_back(model, cache):
    original, seen = model.advance, []
    emulated = Emulated(model)

    def watched(tokens, attention, positions, memory):
        found, moved = original(tokens, attention, positions, memory)
        wanted = emulated.hidden(tokens, attention, positions, memory.compute)
        plain = model.hidden(tokens, attention, positions)
        logits = [model.head(each) for each in (found, wanted, plain)]
        seen.append([(logits[0] - other).abs().max().item() for other in logits[1:]])
        return found, moved

    model.advance = watched
    try:
        for prompt in PROMPTS[1:4]:
            emulated.kept.clear()
            decode(model, RandomOrder(2), [prompt], gen_length=12, block_length=4, cache=cache, stop_at_eos=False)
    finally:
        del model.advance
    off, from_plain = (max(column) for column in zip(*seen, strict=True))
    assert off < 1e-3 * from_plain
    assert from_plain > 0.05, "nothing was stale"


@pytest.mark.parametrize(("i", "cache"), [(i, STALE[i % 3]) for i in range(5)])
def test_a_batch_is_decoded_as_each_row_alone(model, cache, i):
    """Rows that compute everything beside rows that do not, refilled slots, early ends, mixed prompts."""
    policies = [
        ConfidenceThreshold(0.3),
        RandomOrder(2),
        KLASS(0.1, 1.0),
        EntropyBound(1.0),
        TransformerPolicy().eval(),
    ]
    policy, options = policies[i], {"gen_length": 12, "stop_at_eos": i % 2 == 0, "seed": 3, "cache": cache}
    options["block_length"] = (4, 6, 12)[i % 3]
    together = decode(model, policy, PROMPTS, batch_size=3, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = decode(model, policy, [prompt], streams=[row], **options)
        for name in ("tokens", "revealed_at", "nfe", "positions", "full_passes"):
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0]), (row, name)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_block_of_one_pass_is_decoded_as_without_a_cache(model, cache):
    options = {"gen_length": 12, "block_length": 4, "stop_at_eos": False}
    cached, plain = (decode(model, TopKConfidence(4), PROMPTS, cache=c, **options) for c in (cache, "none"))
    assert cached.tokens.equal(plain.tokens)
    assert cached.positions.equal(plain.positions)
    assert plain.positions.tolist() == [3 * (len(prompt) + 12) for prompt in PROMPTS]
    assert plain.full_passes.equal(plain.nfe)


@pytest.mark.parametrize(
    ("cache", "positions", "whole"),
    [
        ("none", 4 * 13, 4),
        ("prefix", 13 + 8 + 13 + 4, 2),  # from the block's beginning on
        ("dual", 13 + 4 + 13 + 4, 2),
    ],
)
def test_what_passes_compute_is_counted(tiny, cache, positions, whole):
    out = decode(
        tiny, RandomOrder(2), [[5] * 5], gen_length=8, block_length=4, cache=cache, stop_at_eos=False, batch_size=4
    )
    assert (out.nfe.item(), out.positions.item(), out.full_passes.item()) == (4, positions, whole)
    assert (out[0].positions, out[0].full_passes) == (positions, whole)


def test_an_adaptive_cache_computes_masks_what_was_revealed_and_what_is_attended_to(tiny):
    chosen, original = [], tiny.advance

    def watched(tokens, attention, positions, memory):
        chosen.append((memory.compute[0].tolist(), memory.shown[0].tolist()))
        return original(tokens, attention, positions, memory)

    tiny.advance = watched
    steps = []
    try:
        decode(
            tiny, RandomOrder(2), [[5] * 5], gen_length=8, block_length=4, cache="adaptive", stop_at_eos=False,
            callback=steps.append,
        )  # fmt: skip
    finally:
        del tiny.advance
    assert chosen[0] == ([True] * 13, [True] * 8)  # the first pass alone
    for (compute, shown), (before, step) in zip(chosen[1:], pairwise(steps), strict=True):
        asked = step.observation.selectable[0] | before.action[0]
        assert (torch.tensor(shown) | ~asked).all()
        extra = sum(compute) - int(asked.sum())
        assert 1 <= extra < 13 - int(asked.sum())


def test_full_diffusion_keeps_the_prompt(tiny):
    """One block: its first pass computes everything, the others the region."""
    out = decode(tiny, RandomOrder(2), [[5] * 5], gen_length=8, cache="prefix", stop_at_eos=False)
    assert out.positions.tolist() == [13 + 3 * 8]


def test_attention_by_rollout_is_that_of_a_plain_computation(tiny):
    """R <- rownorm(E + I) R from the first layer up, E the mean of the heads; column sums."""
    network = tiny.network
    tokens = torch.tensor([[5, 9, 7, tiny.mask_id, tiny.mask_id]])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    memory = StaleCache.begin("adaptive", 1, tokens.device)
    memory = StaleCache(**{**vars(memory), "compute": attention})
    _, moved = tiny.advance(tokens, attention, torch.arange(5), memory)
    before, network.config._attn_implementation = network.config._attn_implementation, "eager"
    told = network.base_model(
        input_ids=tokens, output_attentions=True, position_ids=torch.arange(5)[None] + tiny.first_position
    )
    network.config._attn_implementation = before
    rollout = torch.eye(5)
    for layer in told.attentions:
        rollout = (layer[0].mean(dim=0) + torch.eye(5)) / 2 @ rollout
    assert torch.allclose(moved.attended[0, :5], rollout.sum(dim=0), atol=1e-5)


def test_what_is_not_computed_keeps_its_last_reading_and_grows_older(tiny):
    seen = []
    needs = Needs(positions="region", age=True, entropy=True)
    decode(
        tiny, RandomOrder(2), [[5] * 5], gen_length=8, block_length=4, cache="dual", stop_at_eos=False,
        also_observe=needs, callback=lambda step: seen.append(step.observation),
    )  # fmt: skip
    assert [one.age[0].tolist() for one in seen] == [[0] * 8, [0] * 4 + [1] * 4, [0] * 8, [1] * 4 + [0] * 4]
    for name in ("confidence", "entropy"):
        first, second, third, fourth = (getattr(one, name)[0] for one in seen)
        assert torch.equal(second[4:], first[4:])
        assert torch.equal(fourth[:4], third[:4])
        assert not torch.equal(third[4:], second[4:])


def test_a_learned_policy_acts_by_what_is_recorded_for_it_to_learn_from(tiny):
    """The roll-out goes through the same cache, and its observations hold the age of each reading."""
    torch.manual_seed(0)
    policy = TransformerPolicy(TransformerConfig(use_age=True, use_entropy=True)).eval()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.3)
    recorder, acted = Recorder(policy.needs), []

    def on_step(step):
        recorder(step)
        acted.append(policy.logits(step.observation.only(policy.needs)))

    decode(tiny, policy, [[5] * 5], gen_length=8, block_length=4, cache="dual", stop_at_eos=False, callback=on_step)
    steps = recorder.steps()
    assert steps.observation.age.max() >= 1
    assert torch.allclose(policy.logits(steps.observation), torch.cat(acted), atol=1e-4)
    younger = replace(steps.observation, age=torch.zeros_like(steps.observation.age))
    assert not torch.allclose(policy.logits(younger), torch.cat(acted), atol=1e-2)
    seen, of = steps.distinct()
    assert torch.equal(seen.age[of], steps.observation.age)


def test_a_reward_may_count_positions(tiny):
    task = load_task("house")
    examples = task.examples("train", 4)
    prompts = [tiny.encode(example.prompt) for example in examples]
    config = DecodeConfig(gen_length=8, block_length=4, cache="dual", stop_at_eos=False)
    call = {"seed": 0, "needs": Needs(), "prompts": prompts}
    rolled = roll_out(tiny, RandomOrder(2), task, examples, config, **call)
    lengths = torch.tensor([len(prompt) + 8 for prompt in prompts])
    assert torch.allclose(rolled.outcome.equivalents, (2 * lengths + 2 * 4) / lengths)
    right = replace(rolled.outcome, correct=torch.ones(4, dtype=torch.bool))
    by_passes, by_positions = (
        load_reward("scale_free", beta=1.0, cost=cost)(right) for cost in ("passes", "positions")
    )
    assert torch.allclose(by_passes, torch.full((4,), 1 / 4))
    assert torch.allclose(by_positions, 1 / rolled.outcome.equivalents)
    with pytest.raises(UnmaskError, match="The cost is positions, which were not counted here"):
        load_reward("scale_free", cost="positions")(replace(right, equivalents=None))


def test_the_contract_is_kept(model):
    check_model(model)


def test_caches_that_there_are_not_are_refused(tiny, tmp_path):
    with pytest.raises(UnmaskError, match="cache is 'exact', and 'tiny' .* can be decoded with prefix, dual, adaptive"):
        decode(tiny, RandomOrder(2), [[5]], gen_length=8, cache="exact")
    with pytest.raises(UnmaskError, match="cache = 'prefiks' .* should be 'none', 'exact', 'prefix', 'dual' or 'adap"):
        decode(tiny, RandomOrder(2), [[5]], gen_length=8, cache="prefiks")
    with pytest.raises(UnmaskError, match="cfg_scale runs the dLLM twice a pass, and a cache holds the keys of one"):
        decode(tiny, RandomOrder(2), [[5]], gen_length=8, cache="dual", cfg_scale=1.0)


def test_rows_that_join_after_a_pass_change_nothing_for_the_others(tiny):
    """The environment observes, and then begins an episode: the active rows are observed anew, once counted."""
    prompts, keys = [[5] * 5, [6] * 3], row_keys(0, torch.arange(2))
    for cache in ("none", *STALE):
        config = DecodeConfig(gen_length=8, block_length=4, cache=cache, stop_at_eos=False)
        policy, found = RandomOrder(2), []
        for joins in (False, True):
            session, ended = Session(tiny, Needs(positions="region", age=True), config.resolve(tiny)), {}
            session.add(prompts[:1], [0], keys[:1])
            for step in range(8):
                observation = session.observe()
                if joins and step == 2:
                    session.add(prompts[1:], [1], keys[1:])
                    observation = session.observe()
                done = session.reveal(policy.select(observation).long())
                ended |= {} if done is None else {one.index: one for one in done.completions()}
                if not len(session):
                    break
            found.append(replace(ended[0], seconds=0.0))
        assert found[0] == found[1]


def test_what_a_shared_pass_would_have_computed_is_counted():
    model, prompt = load_model("house-block-causal"), [5] * 4
    options = {"gen_length": 32, "stop_at_eos": False, "cache": "none"}
    alone = decode(model, RandomOrder(4), [prompt], **options)
    together = decode(model, RandomOrder(4), [prompt] * 3, streams=[0] * 3, **options)
    assert together.positions.tolist() == alone.positions.tolist() * 3 == [4 * (16 + 32) + 32] * 3
    guided = decode(model, RandomOrder(4), [prompt], cfg_scale=0.5, **options)
    assert guided.positions.tolist() == [2 * alone.positions.item()]


def test_positions_below_a_whole_pass_pay(tiny):
    right = torch.ones(3, dtype=torch.bool)
    assert scale_free(right, torch.tensor([0.25, 0.5, 1.0]), 64, 1.0).tolist() == pytest.approx([4.0, 2.0, 1.0])
    assert scale_free(right, torch.tensor([0, 1, 2]), 64, 1.0).tolist() == pytest.approx([1.0, 1.0, 0.5])
