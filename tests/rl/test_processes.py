"""Two processes (gloo, CPU) train the policy that one does."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import launched
from unmask.errors import UnmaskError
from unmask.rl.processes import Processes

FLAGS = {
    "gen-length": 8,
    "iterations": 5,
    "algorithm.prompts": 3,
    "algorithm.group-size": 4,
    "train-examples": 12,
    "clone.examples": 5,
    "clone.keep": "all",
    "clone.updates": 4,
    "clone.batch-size": 16,
    "algorithm.reward": "additive",
    "algorithm.min-signal": 0,
    "lr": 0.001,
    "algorithm.warmup": 0,
    "validate-every": 2,
    "validation-prompts": 5,
    "algorithm.update-batch-size": 32,
}
VARIANTS = {
    "warm start": {
        "clone-from": "confidence_threshold:threshold=0.6",
        "clone.block-length": 4,
        "algorithm.kl-weight": 0.1,
    },
    "steering": {
        "clone-from": "none",
        "algorithm.experts": "confidence_threshold:threshold=0.6 @ 4",
        "algorithm.normalisation": "step",
        "algorithm.scale-advantages": "batch",
        "policy.actions": "dpls",
    },
    "ppo": {"clone-from": "none", "algorithm": "ppo", "algorithm.value-lr": 0.003},
    "rloo": {"clone-from": "none", "algorithm": "rloo", "block-length": "adaptive:default=4,delimiters=[red]"},
}
SLOW = {"steering", "ppo", "rloo"}


def train(processes, folder, model, variant, *more):
    flags = [f"--{key}={value}" for key, value in {**FLAGS, **VARIANTS[variant]}.items()]
    code, out, err = launched(processes, "train", f"--model={model}", f"--run={folder}", *flags, *more)
    assert code == 0, err
    return out


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


@pytest.mark.parametrize("variant", [pytest.param(v, marks=pytest.mark.slow) if v in SLOW else v for v in VARIANTS])
def test_two_processes_train_the_policy_of_one(tiny_folder, tmp_path, variant):
    one, two = tmp_path / "one", tmp_path / "two"
    train(1, one, tiny_folder, variant)
    out = train(2, two, tiny_folder, variant)
    assert out.count("The best policy is in") == 1, "only the main process speaks"
    a, b = (load_file(folder / "checkpoint-5" / "policy" / "model.safetensors") for folder in (one, two))
    start = load_file(one / "start" / "model.safetensors")
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-4), name  # sums are rounded in another order
    assert any((a[name] - start[name]).abs().max() > 3e-4 for name in a), "more was learnt"
    for alone, together in zip(metrics(one), metrics(two), strict=True):
        for key, value in alone.items():
            assert together[key] == pytest.approx(value, abs=1e-3), (alone["stage"], key)
    if variant == "steering":
        train(2, two, tiny_folder, variant, "--resume")


class Meeting(Processes):
    """A process of two, and what they tell each other."""

    def __init__(self, rank, *told):
        super().__init__()
        self.rank, self.size, self.main, self.told = rank, 2, rank == 0, told

    def gather(self, items):
        if not self.told:
            raise RuntimeError("Connection closed by peer")
        return [*items, *self.told]


def test_an_error_of_one_process_is_told_once_and_ends_all():
    halts = []
    with pytest.raises(UnmaskError, match="^Bad logits.$"), Meeting(0, "Bad logits.").together():
        pass
    with pytest.raises(SystemExit) as left, Meeting(1, None).together(lambda: halts.append(1)):
        raise UnmaskError("Bad logits.")
    assert (left.value.code, halts) == (2, [1])
    with pytest.raises(UnmaskError, match="Another process of this run is gone"), Meeting(0).together():
        pass
    outer = Meeting(0, "Bad logits.")
    with pytest.raises(UnmaskError, match="Bad logits."), outer.together(), outer.together():
        outer.told = ("Bad logits.",)
    with pytest.raises(UnmaskError, match="Cannot read or write out.jsonl: No space"), Meeting(0, None).together():
        raise OSError(28, "No space", "out.jsonl")
    with Meeting(0, None).together(), Processes().together():
        pass
