"""Two processes (gloo, CPU) train the policy that one does."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

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
    launch = ["accelerate.commands.launch", "--cpu", f"--num_processes={processes}", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "-m"] if processes > 1 else []
    argv = ["-m", *(launch if processes > 1 else []), "unmask.cli", "train", f"--model={model}", f"--run={folder}"]
    done = subprocess.run(
        [sys.executable, *argv, *flags, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        assert torch.allclose(a[name], b[name], atol=2e-5), name
    assert any((a[name] - start[name]).abs().max() > 1e-4 for name in a), "something was learnt"
    for alone, together in zip(metrics(one), metrics(two), strict=True):
        for key, value in alone.items():
            assert together[key] == pytest.approx(value, abs=1e-3), (alone["stage"], key)
    if variant == "steering":
        train(2, two, tiny_folder, variant, "--resume")
