"""The learned policy: the released architecture to 1e-5, its likelihoods, its files."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask.errors import UnmaskError
from unmask.hub import load_strictly
from unmask.noise import uniform
from unmask.policies.actions import bernoulli_log_prob, bernoulli_sample
from unmask.policies.auto import load_policy
from unmask.policies.transformer import TransformerConfig, TransformerPolicy

VECTORS = Path(__file__).parent.parent / "vectors"


@pytest.fixture(scope="module")
def vectors():
    return json.loads((VECTORS / "released_layout_policy.json").read_text())


def released():
    """The released layout: names behind `base_policy.`, a rotary buffer, P = 1, time features rounded to bfloat16."""
    tensors = load_file(VECTORS / "released_layout_policy.safetensors")
    weights = {k.removeprefix("base_policy."): v for k, v in tensors.items() if not k.endswith("inv_freq")}
    policy = TransformerPolicy(TransformerConfig(time_period=1.0, round_time=True))
    load_strictly(policy, weights, "released")
    return policy


def test_parameter_count():
    assert sum(p.numel() for p in TransformerPolicy().parameters()) == 331_265


def test_logits_of_a_released_checkpoint(vectors):
    masked = torch.tensor(vectors["mask"], dtype=torch.bool)
    confidence = torch.tensor(vectors["confidence"])
    logits = released()(confidence.view(*masked.shape, -1), masked, torch.tensor(vectors["step_fraction"]).view(-1))
    assert torch.allclose(logits, torch.tensor(vectors["logits"]).view_as(logits), atol=1e-5)


def test_a_fresh_policy_starts_slow():
    torch.manual_seed(0)
    policy = TransformerPolicy()
    logits = policy(torch.rand(4, 16, 1), torch.ones(4, 16, dtype=torch.bool), torch.zeros(4))
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


def test_bernoulli_likelihood_by_enumeration():
    logits = torch.tensor([[0.3, -1.2, 2.0, 0.0]])
    may = torch.tensor([[True, False, True, True]])
    total = 0.0
    for bits in itertools.product([False, True], repeat=3):
        action = torch.tensor([[bits[0], False, bits[1], bits[2]]])
        p = torch.sigmoid(logits[0])
        expected = 1.0
        for position in (0, 2, 3):
            expected *= (p[position] if action[0, position] else 1 - p[position]).item()
        found = bernoulli_log_prob(logits, may, action).exp().item()
        assert found == pytest.approx(expected, rel=1e-5)
        total += found
    assert total == pytest.approx(1.0, rel=1e-5)


def test_bernoulli_likelihood_of_the_vectors(vectors):
    given = vectors["loglik"]
    found = bernoulli_log_prob(
        torch.tensor(given["utilities"]),
        torch.tensor(given["selectable"], dtype=torch.bool),
        torch.tensor(given["bernoulli_action"], dtype=torch.bool),
    )
    assert torch.allclose(found, torch.tensor(given["bernoulli"]), atol=1e-5)


def test_sampling_frequencies_match_the_likelihoods():
    n = 20_000
    logits = torch.tensor([[0.5, -1.0, 1.5]]).expand(n, 3)
    may = torch.tensor([[True, True, False]]).expand(n, 3)
    noise = uniform(torch.arange(n), torch.zeros(n, dtype=torch.long), 3)
    drawn = bernoulli_sample(logits, may, noise, force_progress=False)
    assert not drawn[:, 2].any()
    for a, b in itertools.product([False, True], repeat=2):
        share = ((drawn[:, 0] == a) & (drawn[:, 1] == b)).float().mean().item()
        expected = bernoulli_log_prob(logits[:1], may[:1], torch.tensor([[a, b, False]])).exp().item()
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)


def test_forced_progress_takes_the_largest_selectable_logit_of_a_row_that_drew_nothing():
    logits = torch.tensor([[-30.0, -20.0, 50.0], [-30.0, 30.0, 50.0]])
    may = torch.tensor([[True, True, False], [True, True, False]])
    noise = torch.full((2, 3), 0.5)
    drawn = bernoulli_sample(logits, may, noise, force_progress=True)
    assert drawn.tolist() == [[False, True, False], [False, True, False]]
    assert bernoulli_sample(logits, may, noise, force_progress=False).tolist()[0] == [False, False, False]


def test_saved_and_loaded_policies_give_the_same_logits(tmp_path):
    torch.manual_seed(1)
    policy = TransformerPolicy(TransformerConfig(top_k=3, force_progress=False))
    policy.save(tmp_path / "p", card="# a policy")
    again = load_policy(tmp_path / "p")
    inputs = torch.rand(2, 8, 3), torch.rand(2, 8) > 0.5, torch.rand(2)
    assert torch.equal(policy(*inputs), again(*inputs))
    assert again.settings == policy.settings
    assert (tmp_path / "p" / "README.md").read_text() == "# a policy"


def test_drawing_shares_weights_but_not_settings():
    policy = TransformerPolicy()
    other = policy.drawing(force_progress=False)
    assert policy.settings.force_progress
    assert not other.settings.force_progress
    assert other.output_proj.weight is policy.output_proj.weight


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
