"""Weights are loaded strictly: every tensor by its name, shape and dtype, and finite."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unmask.errors import UnmaskError
from unmask.hub import (
    bundled,
    find_policy_folder,
    is_finite,
    load_strictly,
    read_config,
    read_origin,
    read_weights,
    save_policy_folder,
    weights_digest,
    write_origin,
)


def module():
    found = nn.BatchNorm1d(2)  # weights, buffers, and a count
    return found, {name: tensor.clone() for name, tensor in found.state_dict().items()}


def test_what_fits_is_loaded():
    target, weights = module()
    weights["bias"] = torch.tensor([1.5, -2.0])
    weights["num_batches_tracked"] = torch.tensor(7)
    load_strictly(target, weights, "w")
    assert target.bias.tolist() == [1.5, -2.0]
    assert target.num_batches_tracked.item() == 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_fewer_bits_are_widened_and_keep_the_digest_they_then_have(dtype):
    target, weights = module()
    weights["bias"] = torch.tensor([1.5, 0.1]).to(dtype)
    load_strictly(target, weights, "w")
    assert target.bias.dtype == torch.float32
    assert torch.equal(target.bias, weights["bias"].float())
    assert weights_digest(weights) == weights_digest(target.state_dict())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bias", None, "w lacks the tensor 'bias': it was saved from another architecture."),
        ("extra", torch.zeros(1), "w holds an unknown tensor 'extra': it was saved from another architecture."),
        (
            "bias",
            torch.zeros(3),
            "w: tensor 'bias' has shape (3,), but config.json asks for (2,): take both files from one folder.",
        ),
        (
            "bias",
            torch.zeros(2, dtype=torch.float64),
            "w: tensor 'bias' is float64, not float32: convert it and save the file again.",
        ),
        (
            "num_batches_tracked",
            torch.zeros(()),
            "w: tensor 'num_batches_tracked' is float32, not int64: convert it and save the file again.",
        ),
        (
            "bias",
            torch.tensor([0, torch.nan]),
            "w: tensor 'bias' holds NaN or infinity: take an earlier checkpoint.",
        ),
        (
            "running_var",
            torch.tensor([torch.inf, 1]),
            "w: tensor 'running_var' holds NaN or infinity: take an earlier checkpoint.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, value, message):
    target, weights = module()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    weights.pop(name, None)
    weights |= {} if value is None else {name: value}
    with pytest.raises(UnmaskError) as e:
        load_strictly(target, weights, "w")
    assert str(e.value) == message
    assert all(torch.equal(before[key], tensor) for key, tensor in target.state_dict().items()), "nothing is loaded"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_is_what_isfinite_says(dtype):
    most = torch.finfo(dtype).max
    assert is_finite(torch.tensor([most, most, -1], dtype=dtype)), "only the sum overflows"
    assert is_finite(torch.zeros(0, dtype=dtype))
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not is_finite(torch.tensor([1, bad, most], dtype=dtype))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf], dtype=dtype))
    assert is_finite(torch.tensor([2**62, 2**62])), "whole numbers are"


def test_a_policy_folder_comes_back(tmp_path):
    save_policy_folder(tmp_path / "p", {"type": "x", "k": 2}, {"a": torch.arange(3.0)}, "A card.")
    assert read_config(tmp_path / "p") == {"type": "x", "k": 2}
    assert read_weights(tmp_path / "p" / "model.safetensors")["a"].tolist() == [0, 1, 2]
    assert (tmp_path / "p" / "README.md").read_text() == "A card."
    assert find_policy_folder(str(tmp_path / "p")) == tmp_path / "p"
    (tmp_path / "p" / "notes.txt").touch()
    with pytest.raises(UnmaskError, match=r"holds other files \(notes.txt\): save the policy to a folder of its own."):
        save_policy_folder(tmp_path / "p", {}, None)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UnmaskError, match=r"has no config.json: give a folder that `policy.save` wrote."):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnmaskError, match=r"config.json is not valid JSON \(.*\): save the policy again."):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UnmaskError, match=r"config.json must hold a JSON object: save the policy again."):
        read_config(tmp_path)
    with pytest.raises(UnmaskError, match=r"No weights at .*w.safetensors: copy the whole folder"):
        read_weights(tmp_path / "w.safetensors")
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:90])
    with pytest.raises(UnmaskError, match=r"is not a readable safetensors file \(.*\): copy or save it again."):
        read_weights(tmp_path / "w.safetensors")
    with pytest.raises(UnmaskError, match=r"config.json is a file: give the policy's folder."):
        find_policy_folder(str(tmp_path / "config.json"))


def test_policies_are_bundled():
    assert all(json.loads((folder / "config.json").read_text()) for folder in bundled("policies").values())
    assert bundled("nothing") == {}


def test_a_trained_policy_says_what_its_training_began_from(tmp_path):
    weights = {"w": torch.tensor([1.0, 2.0])}
    for name, scale in (("start", 1), ("best", 2)):
        save_policy_folder(tmp_path / "run" / name, {"type": "x"}, {"w": scale * weights["w"]})
    best = tmp_path / "run" / "best"
    assert read_origin(best) is None
    write_origin(best, tmp_path / "run" / "start")
    origin = read_origin(best)
    assert (origin.start, origin.weights) == ("../start", weights_digest(weights))
    assert origin.weights != weights_digest(read_weights(best / "model.safetensors"))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert read_origin(tmp_path / "moved" / "best") == origin, "a run folder may move"
    save_policy_folder(tmp_path / "moved" / "best", {"type": "x"}, weights)
    assert read_origin(tmp_path / "moved" / "best") is None, "other weights, another origin"
    (tmp_path / "moved" / "best" / "origin.json").write_text("[]")
    with pytest.raises(UnmaskError, match="origin.json does not say what the training began from: delete it, or"):
        read_origin(tmp_path / "moved" / "best")
