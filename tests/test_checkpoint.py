"""A training goes on from its checkpoint as if it had not been interrupted, or is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unmask.checkpoint import load_moments, moments, read_checkpoint, weights_of, write_checkpoint
from unmask.errors import UnmaskError
from unmask.hub import read_weights


def read_back(folder, module, optimizer):
    path = folder / "model.safetensors"
    return read_checkpoint(folder, module, optimizer, read_weights(path), path)


class Tied(nn.Module):
    """Two layers that share their weight, as the embedding and the head of a dLLM do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        return self.last(self.second(self.first(x).tanh()))


def training():
    module = Tied()
    return module, torch.optim.AdamW(module.parameters(), 0.1)


def steps(module, optimizer, first, last):
    for i in range(first, last):
        optimizer.zero_grad()
        module(torch.full((2, 3), float(i))).square().sum().backward()
        optimizer.step()
        module.seen += 1


def save(folder, module, optimizer, **progress):
    folder.mkdir(exist_ok=True)
    save_file(weights_of(module), folder / "model.safetensors")
    write_checkpoint(folder, module, optimizer, progress)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, at):
    whole, optimizer = training()
    steps(whole, optimizer, 0, 5)
    cut, optimizer = training()
    steps(cut, optimizer, 0, at)
    save(tmp_path / "c", cut, optimizer, step=at, counts={"a": 1})
    assert set(load_file(tmp_path / "c" / "model.safetensors")) == set(cut.state_dict()) - {"second.weight"}
    resumed, optimizer = training()
    steps(resumed, optimizer, 0, 2)  # what was there goes
    progress = read_back(tmp_path / "c", resumed, optimizer)
    assert progress == {"step": at, "counts": {"a": 1}}
    assert resumed.second.weight is resumed.first.weight
    steps(resumed, optimizer, at, 5)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_nothing_is_pickled(tmp_path):
    module, optimizer = training()
    steps(module, optimizer, 0, 1)
    save(tmp_path / "c", module, optimizer)
    names = {file.name for file in (tmp_path / "c").iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "progress.json"}
    assert json.loads((tmp_path / "c" / "progress.json").read_text()) == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("last.gain/step", torch.zeros(()), "c holds an unknown moment 'last.gain/step': it was saved from another"),
        ("step", torch.zeros(()), "c holds an unknown moment 'step': it was saved from another architecture."),
        (
            "last.bias/exp_avg",
            torch.zeros(2),
            "c: moment 'last.bias/exp_avg' has shape (2,), but its parameter has (1,): it was saved from another",
        ),
        (
            "last.bias/exp_avg",
            torch.zeros(1, dtype=torch.bfloat16),
            "c: moment 'last.bias/exp_avg' is bfloat16, but its parameter is float32: resume with the same dtype.",
        ),
        ("last.bias/exp_avg", None, "c lacks the moment 'last.bias/exp_avg': it was written by another optimiser."),
    ],
)
def test_moments_that_do_not_fit_are_refused_by_name(name, value, message):
    module, optimizer = training()
    steps(module, optimizer, 0, 1)
    saved = moments(module, optimizer)
    saved.pop(name, None)
    saved |= {} if value is None else {name: value}
    with pytest.raises(UnmaskError) as e:
        load_moments(module, optimizer, saved, "c")
    assert str(e.value).startswith(message)
    assert len(optimizer.state) == 5, "the optimiser's own are still there"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("progress.json", b"{", r"progress.json is not valid JSON \(.*\): use another checkpoint."),
        ("progress.json", b"[]", r"progress.json must hold a JSON object: use another checkpoint."),
        ("progress.json", None, r"Cannot read .*progress.json .No such file or directory.: use another checkpoint."),
        ("optimizer.safetensors", None, r"No weights at .*optimizer.safetensors: copy the whole folder"),
        ("model.safetensors", b"", r"model.safetensors is not a readable safetensors file"),
    ],
)
def test_damaged_files_are_refused(tmp_path, file, content, message):
    module, optimizer = training()
    save(tmp_path / "c", module, optimizer)
    (tmp_path / "c" / file).unlink()
    if content is not None:
        (tmp_path / "c" / file).write_bytes(content)
    with pytest.raises(UnmaskError, match=message):
        read_back(tmp_path / "c", module, optimizer)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("last.bias", None, "lacks the tensor 'last.bias'"),
        ("second.weight", torch.zeros(3, 3), "holds an unknown tensor 'second.weight'"),
        ("last.bias", torch.zeros(1, dtype=torch.float64), "tensor 'last.bias' is float64, not float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, name, value, message):
    module, optimizer = training()
    save(tmp_path / "c", module, optimizer)
    weights = load_file(tmp_path / "c" / "model.safetensors")
    weights.pop(name, None)
    save_file(weights | ({} if value is None else {name: value}), tmp_path / "c" / "model.safetensors")
    with pytest.raises(UnmaskError, match=message):
        read_back(tmp_path / "c", module, optimizer)
