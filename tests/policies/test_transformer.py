"""The learned policy: the released architecture to 1e-5, its likelihoods, its files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask.decoding.decode import decode
from unmask.decoding.step import see
from unmask.errors import UnmaskError
from unmask.observation import Observation
from unmask.policies.actions import Bernoulli
from unmask.policies.auto import load_policy
from unmask.policies.ranking import overlap
from unmask.policies.transformer import TransformerConfig, TransformerPolicy, ranks
from unmask.policies.wrappers import Plain

VECTORS = Path(__file__).parent.parent / "vectors"


def logits_of(policy, read, masked, step):
    """The logits, where `read` are confidences or hidden states, as the policy reads them."""
    hidden = read if policy.needs.hidden_states else None
    confidence = torch.zeros(*masked.shape, 1) if policy.needs.hidden_states else read
    return policy.logits(Observation(confidence, masked, masked, step, torch.zeros(masked.shape), hidden_states=hidden))


@pytest.fixture(scope="module")
def vectors():
    return json.loads((VECTORS / "released_layout_policy.json").read_text())


def test_parameter_count():
    assert sum(p.numel() for p in TransformerPolicy().parameters()) == 331_265


def test_logits_of_a_released_checkpoint(vectors):
    masked = torch.tensor(vectors["mask"], dtype=torch.bool)
    confidence = torch.tensor(vectors["confidence"])
    released = load_policy(VECTORS / "released_layout_policy.safetensors")
    logits = logits_of(
        released, confidence.view(*masked.shape, -1), masked, torch.tensor(vectors["step_fraction"]).view(-1)
    )
    assert torch.allclose(logits, torch.tensor(vectors["logits"]).view_as(logits), atol=1e-5)


def test_a_fresh_policy_starts_slow():
    torch.manual_seed(0)
    policy = TransformerPolicy()
    logits = logits_of(policy, torch.rand(4, 16, 1), torch.ones(4, 16, dtype=torch.bool), torch.zeros(4))
    assert policy.output_proj.bias.item() == -2.0
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.119, abs=0.1)
    assert (policy.transformer_blocks[0].ada_conditioning.weight == 0).all()


def test_time_features_tell_steps_apart():
    torch.manual_seed(0)
    policy = TransformerPolicy()
    t = torch.arange(33) / 32
    features = policy._time_features(t)
    nearest = torch.cdist(features, features).fill_diagonal_(9).min()
    flat = TransformerPolicy(TransformerConfig(time_period=1.0))._time_features(t)
    assert nearest > torch.cdist(flat, flat).fill_diagonal_(9).min()


def test_saved_and_loaded_policies_give_the_same_logits(tmp_path):
    torch.manual_seed(1)
    policy = TransformerPolicy(TransformerConfig(top_k=3, force_progress=False))
    policy.save(tmp_path / "p", card="# a policy")
    again = load_policy(tmp_path / "p")
    inputs = torch.rand(2, 8, 3), torch.rand(2, 8) > 0.5, torch.rand(2)
    assert torch.equal(logits_of(policy, *inputs), logits_of(again, *inputs))
    assert again.settings == policy.settings
    assert (tmp_path / "p" / "README.md").read_text() == "# a policy"


def test_plain_shares_the_network_but_not_the_draw():
    policy = TransformerPolicy()
    other = Plain(policy)
    assert policy.actions == Bernoulli(force_progress=True)
    assert other.actions == Bernoulli(force_progress=False)
    assert other.inner is policy


def damage(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def rename(weights):
    weights["final_norm.gain"] = weights.pop("final_norm.weight")


def add(weights):
    weights["extra"] = torch.zeros(1)


def reshape(weights):
    weights["output_proj.weight"] = torch.zeros(2, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "lacks the tensor 'final_norm.weight'"),
        (add, "holds an unknown tensor 'extra'"),
        (reshape, r"tensor 'output_proj.weight' has shape \(2, 128\), but config.json asks for \(1, 128\)"),
    ],
)
def test_a_foreign_checkpoint_is_refused_by_tensor(tmp_path, change, message):
    TransformerPolicy().save(tmp_path / "p")
    damage(tmp_path / "p", change)
    with pytest.raises(UnmaskError, match=message):
        load_policy(tmp_path / "p")


def test_corrupt_and_missing_files_are_refused(tmp_path):
    TransformerPolicy().save(tmp_path / "p")
    weights = tmp_path / "p" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnmaskError, match="is not a readable safetensors file"):
        load_policy(tmp_path / "p")
    weights.unlink()
    with pytest.raises(UnmaskError, match="No weights at .*model.safetensors: copy the whole folder"):
        load_policy(tmp_path / "p")
    (tmp_path / "p" / "config.json").write_text("{")
    with pytest.raises(UnmaskError, match="is not valid JSON"):
        load_policy(tmp_path / "p")
    (tmp_path / "p" / "config.json").unlink()
    with pytest.raises(UnmaskError, match="has no config.json"):
        load_policy(tmp_path / "p")


def test_a_released_checkpoint_loads_from_a_folder_and_saves_as_ours(tmp_path, vectors):
    (tmp_path / "released").mkdir()
    shutil.copy(VECTORS / "released_layout_policy.safetensors", tmp_path / "released" / "model.safetensors")
    policy = load_policy(tmp_path / "released")
    assert policy.settings == TransformerConfig(time_period=1.0, round_time=True)
    policy.save(tmp_path / "ours")
    inputs = torch.rand(2, 8, 1), torch.rand(2, 8) > 0.5, torch.rand(2)
    assert torch.equal(logits_of(policy, *inputs), logits_of(load_policy(tmp_path / "ours"), *inputs))


def test_a_released_checkpoint_of_another_architecture_is_refused(tmp_path):
    weights = load_file(VECTORS / "released_layout_policy.safetensors")
    del weights["base_policy.confidence_proj.weight"]
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(UnmaskError, match="lacks the tensor 'base_policy.confidence_proj.weight'"):
        load_policy(tmp_path / "a.safetensors")
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(
        UnmaskError,
        match="has no config.json beside it that names a policy's type, and its tensors are not named as in a",
    ):
        load_policy(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"use_time": False}, {"time_mlp"}),
        ({"use_mask": False}, {"mask_embedding"}),
        ({"use_time": False, "use_mask": False}, {"time_mlp", "mask_embedding"}),
        ({"reads": "hidden_states", "hidden_size": 24}, {"confidence_proj"}),
        ({"top_k": 50}, set()),
        ({"blocks": 3}, set()),
        ({"actions": "dpls"}, set()),
    ],
)
def test_ablations_leave_out_what_they_say_and_come_back_from_a_folder(tmp_path, settings, names):
    torch.manual_seed(0)
    policy = TransformerPolicy(TransformerConfig(**settings))
    own = {name.partition(".")[0] for name in policy.weights()}
    whole = {name.partition(".")[0] for name in TransformerPolicy().weights()}
    assert whole - own == names
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    k = settings.get("hidden_size", settings.get("top_k", 1))
    features, masked, step = torch.rand(2, 8, k), torch.tensor([[True, False] * 4] * 2), torch.tensor([0.2, 0.8])
    logits = logits_of(policy, features, masked, step)
    assert logits.shape == (2, 8)
    assert torch.equal(logits, logits_of(policy, features, ~masked, step)) == (not policy.settings.use_mask)
    assert torch.equal(logits, logits_of(policy, features, masked, step + 0.1)) == (not policy.settings.use_time)
    policy.save(tmp_path / "p")
    assert torch.equal(logits_of(load_policy(tmp_path / "p"), features, masked, step), logits)
    assert len(policy.transformer_blocks) == settings.get("blocks", 1)


def test_hidden_states_of_another_width_are_refused(tiny):
    policy = TransformerPolicy(TransformerConfig(reads="hidden_states", hidden_size=tiny.hidden_size + 8))
    with pytest.raises(
        UnmaskError, match="reads hidden states of width .* use it with the dLLM that it was trained on"
    ):
        decode(tiny, policy, [[5, 6]], gen_length=8)


def test_hidden_states_need_their_width():
    with pytest.raises(UnmaskError, match="reads hidden states needs hidden_size"):
        TransformerPolicy(TransformerConfig(reads="hidden_states"))


def test_ranks_count_the_masked_positions_on_either_side():
    masked = torch.tensor([[True, False, True, True]])
    # before: 0, 1, 1, 2; behind: 2, 2, 1, 0
    expected = torch.tensor([[[1, 1 / 3], [1 / 2, 1 / 3], [1 / 2, 1 / 2], [1 / 3, 1]]])
    assert torch.allclose(ranks(masked), expected)


def test_positions_that_look_alike_are_told_apart_by_their_ranks_alone():
    alike, masked = torch.full((1, 8, 1), 0.875), torch.ones(1, 8, dtype=torch.bool)
    for use_rank in (False, True):
        torch.manual_seed(0)
        policy = TransformerPolicy(TransformerConfig(use_rank=use_rank))
        logits = logits_of(policy, alike, masked, torch.zeros(1))
        assert torch.allclose(logits, logits[:, :1].expand_as(logits), atol=1e-5) != use_rank


def test_a_policy_that_reads_nothing_knows_the_step_and_the_mask_alone():
    torch.manual_seed(0)
    policy = TransformerPolicy(TransformerConfig(reads="nothing", top_k=2, initial_logit=None))
    masked, step = torch.rand(4, 8) > 0.5, torch.rand(4)
    a, b = (logits_of(policy, torch.rand(4, 8, 2), masked, step) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, logits_of(policy, torch.rand(4, 8, 2), ~masked, step))
    assert not torch.allclose(a, logits_of(policy, torch.rand(4, 8, 2), masked, 1 - step))
    with pytest.raises(UnmaskError, match="use_entropy goes with reads = 'confidence'"):
        TransformerConfig(reads="nothing", use_entropy=True)
    with pytest.raises(UnmaskError, match="use_overlap goes with reads = 'confidence'"):
        TransformerConfig(reads="nothing", use_overlap=True)
    with pytest.raises(UnmaskError, match="use_rank goes with reads = 'confidence' or 'nothing'"):
        TransformerConfig(reads="hidden_states", use_rank=True)


def test_overlap_by_hand():
    p = torch.tensor([[[0.5, 0.5], [0.6, 0.3], [0.9, 0.1], [0.7, 0.2]]])
    tokens = torch.tensor([[[3, 4], [4, 3], [5, 3], [3, 4]]])
    masked = torch.tensor([[True, True, True, False]])
    found = overlap(p, tokens, masked)[0]
    assert torch.equal(found, found.T)
    assert found[0, 1].item() == pytest.approx(0.5 * 0.3 + 0.5 * 0.6)  # token 3 and token 4
    assert found[0, 2].item() == pytest.approx(0.5 * 0.1)
    assert found[1, 2].item() == pytest.approx(0.3 * 0.1)
    assert found.diagonal().tolist() == [0, 0, 0, 0]
    assert found[3].tolist() == [0, 0, 0, 0], "what is revealed writes nothing"


def test_a_policy_that_sees_overlap_is_told_the_tokens(tiny, tmp_path):
    """With its fresh weight of 0 it decodes as one that does not; with another it does not."""
    prompts = [[5, 6, 7], [8, 9]]
    settings = {"top_k": 4, "initial_logit": None}
    torch.manual_seed(0)
    plain = TransformerPolicy(TransformerConfig(**settings))
    torch.manual_seed(0)
    seeing = TransformerPolicy(TransformerConfig(**settings, use_overlap=True))
    assert seeing.needs.tokens
    assert not plain.needs.tokens
    options = {"gen_length": 8, "stop_at_eos": False}
    seen = []
    call = lambda step: seen.append(step.observation)  # noqa: E731
    expected, same = decode(tiny, plain, prompts, **options), decode(tiny, seeing, prompts, callback=call, **options)
    assert torch.equal(expected.revealed_at, same.revealed_at)
    first = seen[0]
    rows = torch.tensor([[*[tiny.pad_id] * (3 - len(one)), *one, *[tiny.mask_id] * 8] for one in prompts])
    logits = tiny.logits(rows, rows != tiny.pad_id, torch.tensor([3, 11 + 3]))
    logits[:, tiny.mask_id] = -torch.inf
    assert torch.equal(first.tokens[:, 0], logits.topk(4).indices), "the likeliest tokens of the first position"
    assert torch.equal(
        see(logits[:, None], needs=seeing.needs, masked=torch.ones(2, 1, dtype=torch.bool)).tokens, first.tokens[:, :1]
    )
    seeing.overlap_weight.data.fill_(3.0)
    seeing.save(tmp_path / "p")
    logit = [policy.logits(first) for policy in (plain, seeing, load_policy(tmp_path / "p"))]
    assert not torch.allclose(logit[0], logit[1])
    assert torch.equal(logit[1], logit[2])
    probabilities = torch.rand(1, 4, 4).softmax(-1).sort(-1, descending=True).values
    with pytest.raises(UnmaskError, match="The policy needs the tokens of its confidences, which nobody gave"):
        see(needs=seeing.needs, masked=torch.ones(1, 4, dtype=torch.bool), probabilities=probabilities)


@pytest.mark.parametrize("confidence_of", ["drawn", "sampling"])
def test_the_tokens_shown_are_those_of_the_confidences_shown(tiny, confidence_of):
    policy = TransformerPolicy(TransformerConfig(top_k=3, use_overlap=True))
    seen = []
    options = {"gen_length": 6, "temperature": 2.0, "confidence_of": confidence_of, "max_steps": 1}
    decode(tiny, policy, [[5, 6, 7]], callback=seen.append, **options)
    (step,) = seen
    rows = torch.tensor([[5, 6, 7, *[tiny.mask_id] * 6]])
    logits = tiny.logits(rows, torch.ones_like(rows, dtype=torch.bool), torch.arange(3, 9))
    if confidence_of == "sampling":
        logits = logits.index_fill(1, tiny.banned_ids, -torch.inf) / 2.0
    shown, p = step.observation, logits.softmax(dim=-1)
    assert torch.allclose(p.gather(1, shown.tokens[0]), shown.confidence[0], atol=1e-5)
    if confidence_of == "drawn":
        assert torch.equal(shown.tokens[0, :, 0], step.predicted[0]), (
            "the one that was drawn, then the likeliest others"
        )
