"""Block-causal families in their published layouts at tiny size: logits, the cache, decoding, refusals."""

import json
import shutil

import pytest
import torch
from benchmarks.layouts import BLOCK_CAUSAL
from benchmarks.published import random_weights, tiny, write
from safetensors.torch import load_file, save_file

from tests.models.plain import plain_logits
from unmask.decoding.blocks import make_blocks
from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.models.auto import load_model, size_of
from unmask.models.block_causal import BlockCausalDecoder
from unmask.policies import (
    KLASS,
    ConfidenceThreshold,
    EntropyBound,
    RandomOrder,
    StepCount,
    TopKConfidence,
    TransformerPolicy,
)
from unmask.testing import check_model

TEXTS = ["what is twelve times seven? it is eighty-four", "add two and two"]
SCALE, BLOCK = 0.3, 4
POLICIES = [ConfidenceThreshold(0.4), RandomOrder(2), KLASS(0.1, 1.0), EntropyBound(1.0), TransformerPolicy().eval()]


@pytest.fixture(scope="session", params=sorted(BLOCK_CAUSAL))
def published(request, tmp_path_factory):
    """(config, folder) of a tiny one, in several shards; blocks of 4."""
    config = tiny(BLOCK_CAUSAL[request.param])
    if "bd_size" in config:
        config["bd_size"] = BLOCK
    folder = tmp_path_factory.mktemp(request.param) / "published"
    write(folder, config, TEXTS, shard=30_000, scale=SCALE)
    return config, folder


@pytest.fixture
def copy(published, tmp_path):
    config, folder = published
    shutil.copytree(folder, tmp_path / "copy")
    return config, tmp_path / "copy"


def load(folder, **options):
    return load_model(folder, causal_block=BLOCK, dtype="float32", **options)


def test_logits_are_those_of_a_plain_computation(published):
    config, folder = published
    model = load(folder)
    weights = random_weights(config, torch.float32, 0, SCALE)
    tokens = torch.tensor([[5, 9, 40, 7, 3, 12, model.mask_id, model.mask_id, 8, model.mask_id, model.mask_id]])
    padded = torch.cat([tokens[0], torch.tensor([model.mask_id])])  # the last block is filled up with masks
    wanted = plain_logits(weights, config, padded, block=BLOCK)
    if config["model_type"] == "Fast_dLLM_Qwen":  # the logits that predict token i stand at i - 1, of the first at 0
        wanted = torch.cat([wanted[:1], wanted[:-1]])
    found = model.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(11))
    assert torch.allclose(found.double(), wanted[:11], atol=1e-4, rtol=1e-4)
    assert wanted.std() > 0.5, "weights so small would hide a mistake"


def test_the_contract_is_kept(published):
    check_model(load(published[1]))


@pytest.mark.parametrize(("policy", "stop_at_eos"), [(policy, i % 2 == 0) for i, policy in enumerate(POLICIES)])
def test_a_cached_batch_of_mixed_prompts_is_decoded_as_each_alone_without_a_cache(published, policy, stop_at_eos):
    """Rows in blocks of their own, refilled slots, prompts shorter and longer than a block, early ends."""
    model = load(published[1])
    prompts = [[5 + i] * (1 + i) for i in (0, 2, 3, 5, 8)]
    options = {"gen_length": 14, "stop_at_eos": stop_at_eos, "seed": 3}
    together = decode(model, policy, prompts, batch_size=3, **options)
    for i, prompt in enumerate(prompts):
        alone = decode(model, policy, [prompt], streams=[i], cache="none", **options)
        assert torch.equal(together.tokens[i], alone.tokens[0]), i
        assert torch.equal(together.revealed_at[i], alone.revealed_at[0]), i
    assert len(set(map(tuple, together.tokens.tolist()))) > 3


def test_every_pass_of_a_cached_decode_gives_the_logits_of_an_uncached_one(published):
    model = load(published[1])
    seen = []
    original = model.advance

    def watched(tokens, attention, positions, memory):
        found, moved = original(tokens, attention, positions, memory)
        wanted = model.hidden(tokens, attention, positions)
        seen.append((model.head(found) - model.head(wanted)).abs().max().item())
        return found, moved

    model.advance = watched
    out = decode(model, ConfidenceThreshold(0.4), [[5, 6, 7], [8] * 9, [9] * 4, [3] * 13], gen_length=14, batch_size=3)
    assert out.complete.all()
    assert max(seen) < 1e-4
    assert len(seen) > 8


def test_a_finished_block_is_committed_in_the_pass_that_goes_on(published):
    """One pass a step: NFE is the number of denoising steps, and a pass spans two blocks at most after the first."""
    model = load(published[1])
    widths, original = [], model._run

    def watched(ids, *args):
        widths.append(ids.shape[1])
        return original(ids, *args)

    model._run = watched
    out = decode(model, RandomOrder(2), [[5] * 10], gen_length=14, stop_at_eos=False)
    # The first block takes 2 positions beside the prompt's remainder; then three of 4.
    assert out.nfe.tolist() == [1 + 2 * 3]
    assert len(widths) == 7
    assert widths == [12, 8, 4, 8, 4, 8, 4]
    assert [sorted(set(row)) for row in out.revealed_at.tolist()] == [list(range(7))]


@pytest.mark.parametrize("published", ["sdar"], indirect=True)
def test_a_text_of_2048_tokens_takes_positions_in_proportion_and_memory_as_it_is_written(published):
    model, held, original = load(published[1]), [], BlockCausalDecoder.advance

    def watched(tokens, attention, positions, memory):
        found, moved = original(model, tokens, attention, positions, memory)
        held.append(moved.held.layers[0].shape[3])
        return found, moved

    model.advance = watched
    options = {"gen_length": 2048, "stop_at_eos": False}
    out = decode(model, TopKConfidence(4), [[5] * 4, [6] * 7], **options)
    assert out.complete.all()
    # The first pass computes the prompt and a block, each of the others a finished block and the next.
    assert out.positions.tolist() == [8 + 511 * 8, 8 + 512 * 8]
    assert (held[0], held[-1]) == (256, 2304)
    assert held == sorted(held)
    held.clear()
    model.eos_ids = torch.arange(model.vocab_size)  # whatever is written first
    short = decode(model, TopKConfidence(4), [[5] * 4], gen_length=2048)
    assert short.ended == ["eos"]
    assert (short.nfe.tolist(), held) == ([1], [256])


def test_blocks_are_counted_from_the_rows_first_token(published):
    model = load(published[1])
    order = []
    decode(
        model,
        ConfidenceThreshold(0.0),
        [[5] * 3, [5] * 8, [5] * 13],
        gen_length=8,
        stop_at_eos=False,
        callback=lambda step: order.append(dict(zip(step.before.row.tolist(), step.action.tolist(), strict=True))),
    )
    first = {row: [i for i, on in enumerate(action) if on] for row, action in order[0].items()}
    assert first == {0: [0], 1: [0, 1, 2, 3], 2: [0, 1, 2]}
    assert [i for i, on in enumerate(order[1][0]) if on] == [1, 2, 3, 4]


def test_shorter_blocks_within_the_models_own(published):
    """Fast-dLLM v2's sub-blocks: a divisor narrows what may be revealed, not what is seen."""
    model = load(published[1])
    seen = []
    options = {"gen_length": 8, "block_length": 2, "stop_at_eos": False}
    out = decode(model, ConfidenceThreshold(0.0), [[5] * 4], callback=seen.append, **options)
    assert out.revealed_at.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert [int(step.observation.selectable.sum()) for step in seen] == [2, 2, 2, 2]
    for block_length in (0, -2, 3, 16, "adaptive"):
        with pytest.raises(
            UnmaskError, match="decodes in blocks of 4: leave it out, or give a divisor of 4|block_length"
        ):
            decode(model, ConfidenceThreshold(0.5), [[5]], gen_length=8, block_length=block_length)


def test_ids_and_blocks_come_from_the_files_or_the_family(published, copy):
    config, folder = published
    model = load_model(folder)
    assert (
        model.family
        == {
            "sdar": "SDAR",
            "sdar_moe": "SDAR-MoE",
            "llada2_moe": "LLaDA2",
            "Fast_dLLM_Qwen": "Fast-dLLM v2",
            "llama": "Stable-DiffCoder",
        }[config["model_type"]]
    )
    assert model.block_length == (32 if config["model_type"] == "llada2_moe" else 4)
    assert model.mask_id == config["mask_token_id"]
    assert config["eos_token_id"] in model.eos_ids.tolist()
    size = size_of(folder)
    assert size is not None
    assert size.parameters == sum(p.numel() for p in model.network.parameters())
    path = copy[1] / "config.json"
    path.write_text(json.dumps({**config, "block_length": 8} | {"bd_size": 8}))
    assert load_model(copy[1]).block_length == 8
    assert load_model(copy[1], causal_block=2, mask_id=7).block_length == 2


def test_a_tensor_that_is_missing_is_named(copy):
    _, folder = copy
    name = sorted(folder.glob("*.safetensors"))[-1]
    weights = load_file(name)
    gone = sorted(weights)[-1]
    del weights[gone]
    save_file(weights, name, metadata={"format": "pt"})
    with pytest.raises(UnmaskError, match=r"lack|Cannot load|config and weights are of different dLLMs"):
        load_model(folder)


def test_a_block_length_for_a_dllm_that_attends_in_full_is_refused():
    with pytest.raises(
        UnmaskError, match=r"causal_block is for block-causal dLLMs, and 'house-base' .*attends in full"
    ):
        load_model("house-base", causal_block=4)


def test_the_command_says_what_it_found(published, capsys):
    from unmask.cli.main import main

    main(["check-model", str(published[1]), "--causal-block", "4", "--dtype", "float32"])
    out = " ".join(capsys.readouterr().out.split())
    assert "attention is full within blocks of 4 and causal between them, with the cache as without" in out
    assert "blocks 4, causal" in out


def test_what_a_policy_learns_from_is_its_block_with_the_cache_as_without(published):
    """Steps as roll-outs record them: confidences outside the current block are 0, and the same without a cache."""
    from unmask.observation import Needs
    from unmask.rl.rollout import Recorder

    steps = []
    for options in ({}, {"cache": "none"}):
        recorder = Recorder(Needs(positions="region", entropy=True))
        model, prompts = load(published[1]), [[5] * 3, [6] * 8, [7] * 13]
        needs = {"also_observe": Needs(positions="region", entropy=True), "callback": recorder}
        decode(model, RandomOrder(2), prompts, gen_length=14, stop_at_eos=False, **options, **needs)
        steps.append(recorder.steps())
    cached, bare = (one.observation for one in steps)
    assert torch.allclose(cached.confidence, bare.confidence, atol=1e-5)
    assert torch.allclose(cached.entropy, bare.entropy, atol=1e-4)
    length = torch.tensor([3, 8, 13])[steps[0].rollout]
    block = (torch.arange(14) + length[:, None]) // BLOCK
    current = block.gather(1, cached.selectable.int().argmax(dim=1, keepdim=True))
    assert (cached.confidence[..., 0] > 0).equal(block == current)
    assert not (cached.selectable & (block != current)).any()


def test_an_expert_in_shorter_blocks_teaches_to_hold_back_in_the_rest(published):
    """What is learnt is the learner's whole block: that of the dLLM, which the pass has read."""
    from unmask.observation import Needs
    from unmask.rl.experts import as_seen
    from unmask.rl.rollout import Recorder

    model, policy, needs = load(published[1]), TransformerPolicy(), Needs(positions="region")
    recorder = Recorder(needs)
    options = {"gen_length": 8, "block_length": 2, "stop_at_eos": False, "callback": recorder, "also_observe": needs}
    decode(model, ConfidenceThreshold(0.0), [[5] * 4], **options)
    seen = as_seen(recorder.steps(), make_blocks(None, 8, model), policy)
    assert seen.observation.selectable.int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert (seen.picks > 0).sum(dim=1).tolist() == [2] * 4


def test_budgets_count_the_block_that_a_prompt_adds(published):
    model, rule = load(published[1]), StepCount(4, "linear")
    with pytest.raises(UnmaskError, match="takes 4 steps in each of 5 blocks, and max_steps is 16: set max_steps = 20"):
        decode(model, rule, [[5] * 3], gen_length=16)
    assert decode(model, rule, [[5] * 3], gen_length=16, max_steps=20, stop_at_eos=False).complete.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual_context": True}, "residual_context is for dLLMs that attend in full"),
        ({"causal_block": 0}, "The block length of .* is 0: give a whole number from 1"),
        ({"attn_implementation": "flex_attention"}, "which flex_attention does not take: use sdpa or eager"),
    ],
)
def test_what_a_block_causal_dllm_cannot_do_is_refused(published, options, message):
    with pytest.raises(UnmaskError, match=message):
        load_model(published[1], **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_token_id": "x"}, "The mask id of .* is 'x': give a whole number"),
        ({"eos_token_id": 370}, "The mask id of .* is 370, which ends a text, too"),
        ({"pad_token_id": 9999}, "Cannot load the dLLM"),
    ],
)
def test_ids_that_cannot_be_are_refused(copy, changes, message):
    config, folder = copy
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UnmaskError, match=message):
        load_model(folder)


@pytest.fixture(params=["llada2", "sdar-moe"])
def experts(request, tmp_path):
    config = tiny(BLOCK_CAUSAL[request.param])
    write(tmp_path / "experts", config, TEXTS, shard=30_000)
    return config, tmp_path / "experts"


def test_experts_whose_numbers_have_a_gap_are_refused(experts):
    """transformers would stack them in the order of their numbers, each under the next one's router row."""
    _, folder = experts
    index = folder / "model.safetensors.index.json"
    for file in sorted(folder.glob("*.safetensors")):
        weights = {name.replace("experts.3.", "experts.8."): tensor for name, tensor in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    index.write_text(index.read_text().replace("experts.3.", "experts.8."))
    with pytest.raises(
        UnmaskError, match=r"lack '.*experts.3.down_proj.weight' \(it has '.*experts.8.down_proj.weight'"
    ):
        load_model(folder)


def test_numbers_of_experts_that_do_not_fit_are_refused(experts):
    config, folder = experts
    wrong = [{"num_experts_per_tok": 99}, {"num_experts": 0}, {"num_experts": "8"}]
    for changes in [*wrong, {"n_group": 3}, {"topk_group": 9}] if "n_group" in config else wrong:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UnmaskError, match="do not fit each other|chooses 99 of 8|give whole numbers from 1"):
            load_model(folder)


def test_a_command_decodes_a_region_that_ends_within_a_block(tmp_path, capsys):
    from unmask.cli.main import main
    from unmask.pretrain import PretrainConfig, pretrain

    recipe = {"layers": 1, "width": 16, "heads": 2, "steps": 1, "batch_size": 4, "double_share": 0.0, "block_length": 8}
    pretrain(PretrainConfig(output=str(tmp_path / "dllm"), **recipe))
    argv = ["eval", "--model", tmp_path / "dllm", "--policies", "top_k_confidence", "--gen-length", 12, "--prompts", 3]
    main(list(map(str, [*argv, "--seeds", 1, "--output", tmp_path / "out"])))
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["complete"] for row in rows] == [True] * 3
    with pytest.raises(UnmaskError, match="block_length 8 does not divide gen_length 20"):
        PretrainConfig(**{**recipe, "gen_length": 20})
