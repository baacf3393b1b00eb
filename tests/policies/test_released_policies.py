"""Policies of the paper's own trainer: its settings, its folders, its way of drawing."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.policies.test_rules import seen
from tests.policies.test_transformer import VECTORS, logits_of
from unmask.errors import UnmaskError
from unmask.policies import DPLS, Temperature, TransformerConfig, TransformerPolicy, load_policy
from unmask.testing import check_policy

RELEASED = VECTORS / "released_layout_policy.safetensors"


def checkpoint(folder, weights=None):
    """A folder as transformers' Trainer writes it for the official policy."""
    folder.mkdir()
    config = {"architectures": ["PolicyHFWrapper"], "model_type": "policy", "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "4.49.0"}))
    (folder / "training_args.bin").write_bytes(b"pickled: not read")
    (folder / "trainer_state.json").write_text("{}")
    if weights is None:
        shutil.copy(RELEASED, folder / "model.safetensors")
    else:
        save_file(weights, folder / "model.safetensors")
    return folder


def inputs():
    torch.manual_seed(0)
    return torch.rand(3, 16, 1), torch.rand(3, 16) > 0.5, torch.rand(3)


def test_a_checkpoint_folder_of_the_official_trainer_loads(tmp_path):
    policy = load_policy(checkpoint(tmp_path / "checkpoint-100"))
    assert torch.equal(logits_of(policy, *inputs()), logits_of(load_policy(RELEASED), *inputs()))
    policy.save(tmp_path / "ours")
    assert load_policy(tmp_path / "ours").config() == policy.config()


def test_settings_that_the_tensors_do_not_tell(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint-100")
    policy = load_policy(f"{folder}?actions=dpls&stop_logit=0.5&time_period=0.01")
    assert policy.actions == DPLS(0.5)
    assert policy.settings.time_period == 0.01
    plain = load_policy(folder)
    assert all(torch.equal(a, b) for a, b in zip(policy.weights().values(), plain.weights().values(), strict=True))
    wrapped = load_policy(f"{folder}?force_progress=false | temperature:tau=0.5")
    assert isinstance(wrapped, Temperature)
    assert not wrapped.actions.force_progress
    assert load_policy("house-base-full?actions=dpls").calibrations == (), "measured with other draws"
    assert load_policy("house-base-full?actions=dpls").settings.speed_axis == ()
    assert load_policy(f"{RELEASED}?actions=dpls").actions == DPLS()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("house-base-full?actoins=dpls", r"Unknown key 'actoins'.*did you mean 'actions'"),
        ("house-base-full?actions=plackett", "actions"),
        ("house-base-full?width=64", "these settings ask for other weights than the policy has"),
        ("confidence_threshold?threshold=0.5", "changes settings of confidence_threshold, which has no weights"),
        ("house-base-full?", "names no setting behind its question mark: write it as name.key=value"),
    ],
)
def test_bad_settings_are_refused(spec, message):
    with pytest.raises(UnmaskError, match=message):
        load_policy(spec)


def test_time_features_of_another_size_load(tmp_path):
    """The released default is 256 features, twice the width."""
    torch.manual_seed(1)
    ours = TransformerPolicy(TransformerConfig(time_size=256, time_period=1.0, round_time=True))
    weights = {f"base_policy.{name}": tensor for name, tensor in ours.weights().items()}
    weights["base_policy.transformer_blocks.0.inv_freq"] = torch.zeros(32)
    policy = load_policy(checkpoint(tmp_path / "checkpoint-1", weights))
    assert policy.settings.time_size == 256
    assert torch.equal(logits_of(policy, *inputs()), logits_of(ours, *inputs()))


def test_smart_init_is_a_setting():
    torch.manual_seed(0)
    assert TransformerPolicy(TransformerConfig(initial_logit=0.5)).output_proj.bias.item() == 0.5
    plain = TransformerPolicy(TransformerConfig(initial_logit=None))
    assert plain.output_proj.bias.item() != -2.0
    assert plain.transformer_blocks[0].ada_conditioning.weight.abs().max() > 0
    check_policy(plain, batches=3)


def test_a_policy_of_its_block_sees_no_further():
    """As the released `full_context = false`: the same logits as for the block alone, whatever is outside."""
    torch.manual_seed(0)
    narrow = TransformerPolicy(TransformerConfig(context=4, initial_logit=None)).eval()
    whole = TransformerPolicy(TransformerConfig(initial_logit=None)).eval()
    whole.load_state_dict(narrow.state_dict())
    confidence = torch.rand(2, 12, 1)
    masked = torch.ones(2, 12, dtype=torch.bool)
    masked[:, :4] = False
    masked[0, 5] = False
    selectable = masked & (torch.arange(12) < 8)
    told = seen(confidence.tolist(), selectable.tolist(), masked=masked.tolist(), step_fraction=[0.25, 0.25])
    block = slice(4, 8)
    alone = seen(
        confidence[:, block].tolist(),
        selectable[:, block].tolist(),
        masked=masked[:, block].tolist(),
        step_fraction=[0.25, 0.25],
    )
    assert torch.allclose(narrow.logits(told)[:, block], whole.logits(alone), atol=1e-5)
    assert not torch.allclose(whole.logits(told)[:, block], whole.logits(alone), atol=1e-2)
    check_policy(narrow, batches=5)


def test_the_stop_logit_by_enumeration():
    """Ordered picks of three positions: all probabilities sum to one, and those of one pick are worked out by hand."""
    from itertools import permutations

    logits, may = torch.tensor([[0.3, -0.4, 1.1]]), torch.ones(1, 3, dtype=torch.bool)
    actions = DPLS(0.7)
    picks = [order for n in (1, 2, 3) for order in permutations(range(3), n)]
    each = {}
    for order in picks:
        row = torch.zeros(1, 3, dtype=torch.long)
        for place, position in enumerate(order):
            row[0, position] = place + 1
        each[order] = actions.log_prob(logits, may, row).exp().item()
    assert sum(each.values()) == pytest.approx(1, abs=1e-6)
    e = [math.exp(x) for x in (0.3, -0.4, 1.1)]
    stop = math.exp(0.7)
    first = e[2] / sum(e)
    assert each[(2,)] == pytest.approx(first * stop / (e[0] + e[1] + stop), abs=1e-6)
    second = e[0] / (e[0] + e[1] + stop)
    assert each[(2, 0)] == pytest.approx(first * second * stop / (e[1] + stop), abs=1e-6)
    n = 30_000
    noise = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    drawn = actions.sample(logits.expand(n, -1), may.expand(n, -1), noise)
    alone = ((drawn > 0) == torch.tensor([False, False, True])).all(dim=1).float().mean().item()
    assert alone == pytest.approx(each[(2,)], abs=0.012)
    assert actions.entropy(logits.expand(n, -1), may.expand(n, -1), drawn).mean().item() == pytest.approx(
        -sum(p * math.log(p) for p in each.values()), abs=0.02
    )
    with pytest.raises(UnmaskError, match="stop_logit goes with actions = 'dpls'"):
        load_policy("house-base-full?stop_logit=1")


def test_a_foreign_folder_is_still_refused(tmp_path):
    weights = {"some.weight": torch.zeros(1)}
    with pytest.raises(UnmaskError, match="no config.json beside it that names a policy's type, and its tensors"):
        load_policy(checkpoint(tmp_path / "other", weights))


@pytest.mark.parametrize("sizes", [{"width": 10**9}, {"blocks": 10**7}, {"top_k": 10**9}, {"feed_forward": 10**12}])
def test_sizes_beyond_any_policy_are_refused_before_memory_is_asked_for(sizes):
    with pytest.raises(UnmaskError, match=r"make about [\d,]+ weights, and a policy has 2,147,483,648 at most"):
        load_policy({"type": "transformer", **sizes})


@pytest.mark.unchecked
def test_a_type_of_another_kind_and_weights_that_are_a_folder(tmp_path):
    with pytest.raises(UnmaskError, match="Unknown policy type"):
        load_policy({"type": ["transformer"]})
    TransformerPolicy().save(tmp_path / "p")
    (tmp_path / "p" / "model.safetensors").unlink()
    (tmp_path / "p" / "model.safetensors").mkdir()
    with pytest.raises(UnmaskError, match="is not a readable safetensors file"):
        load_policy(tmp_path / "p")
