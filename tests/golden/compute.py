"""What the package computes, as rows, metrics and digests: a refactoring must change none of it.

    python -m tests.golden.compute write     # into tests/golden/golden.json
    python -m tests.golden.compute check     # bit by bit; prints what differs, and exits with 1

Bit by bit holds on one kind of machine with one version of torch: on another kind a near tie may fall otherwise, and
a token stand a step earlier. `tests/golden/test_golden.py` checks on that kind what is discrete and cheap (tokens, NFE,
verdicts), and on others NFE.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file

import unmask
from tests.one_speed import HOUSE_BLOCK8, HOUSE_FULL
from unmask.cli.main import main

PATH = Path(__file__).with_name("golden.json")
PROMPTS = 10
REGIONS: dict[str, Any] = {
    "full": None,
    "8": 8,
    "16": 16,
    "adaptive": "adaptive:default=8,delimiters=[],window=0.5",
    "delimited": "adaptive:default=8,delimiters=[red,is],threshold=0.05,window=0.5",
}
POLICIES = (
    "random_order:k=2",
    "top_k_confidence:k=2",
    "confidence_threshold:threshold=0.9",
    "factor:factor=1",
    "margin_threshold:threshold=0.8",
    "margin_top_k:k=3",
    "entropy_bound:gamma=0.3",
    "klass:threshold=0.7,kl=0.01",
    "rising_threshold:start=0.5,end=0.9",
    "fixed_schedule:counts=[1,2,4,8]",
    "house-base-full",
    "house-base-block8",
    "house-base-full | temperature:tau=0.5",
    "house-base-full | mode",
    "house-base-block8 | beta_scaling:beta=2",
    "confidence_threshold:threshold=0.5 | max_reveal:n=3 | min_reveal:n=2",
)
TRAIN = (
    "--iterations",
    "3",
    "--algorithm.prompts",
    "4",
    "--algorithm.group-size",
    "4",
    "--train-examples",
    "40",
    "--algorithm.scale-advantages",
    "batch",
    "--algorithm.update-batch-size",
    "64",
)
UNSCALED = ("--algorithm.scale-advantages", "batch")  # without a moving scale to keep
CLONE = ("--clone.examples", "12", "--clone.updates", "6", "--clone.batch-size", "32")
VALIDATION = ("--validation-prompts", "8", "--validate-every", "2", "--algorithm.min-signal", "0", "--lr", "2e-4")
EXPERT = ("--algorithm.experts", "confidence_threshold:threshold=0.9 @ 8")
DPLS = (
    "--policy.actions",
    "dpls",
    "--algorithm.kl-weight",
    "0.05",
    "--algorithm.entropy-weight",
    "0.01",
    "--block-length",
    "16",
)
TRAININGS: dict[str, tuple[str, ...]] = {
    "grpo-expert": ("train", *TRAIN, *VALIDATION, *EXPERT, "--clone-from", "none", "--algorithm.force-progress"),
    "dpls": ("train", *TRAIN, *VALIDATION, *CLONE, *DPLS),
    "hidden": ("train", *TRAIN, *VALIDATION, *CLONE, "--policy.reads", "hidden_states", "--block-length", "8"),
    "clone": ("clone", *CLONE, *UNSCALED, "--validation-prompts", "8", "--clone-from", "best:top_k_confidence"),
}
RESUMED = ("train", *TRAIN, *VALIDATION, *CLONE)


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of what JSON makes of it."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def here(name: str) -> str:
    """A policy as `unmask.load_policy` reads it: those of one speed lie with the tests."""
    return name.replace("house-base-full", HOUSE_FULL).replace("house-base-block8", HOUSE_BLOCK8)


def residual() -> Iterator[tuple[str, Any]]:
    """The same where the dLLM keeps something from pass to pass."""
    model = unmask.load_model("house-base", residual_context=True)
    return ((f"residual {key}", value) for key, value in rows((POLICIES[2], "klass:threshold=0.5,kl=1"), model))


def rows(names: tuple[str, ...] = POLICIES, model: Any = None) -> Iterator[tuple[str, Any]]:
    """Each policy in each region: NFE of the prompts, and a digest of tokens, times and endings."""
    model, task = model or unmask.load_model("house-base"), unmask.load_task("house")
    prompts = [example.prompt for example in task.examples("test", PROMPTS - 2)]
    prompts += prompts[:2]  # copies share passes
    for name in names:
        policy = unmask.load_policy(here(name))
        for region, block_length in REGIONS.items():
            for stop_at_eos in (True, False):
                for temperature in (0.0, 0.7):
                    out = unmask.generate(
                        model,
                        policy,
                        prompts,
                        gen_length=32,
                        block_length=block_length,
                        batch_size=4,
                        temperature=temperature,
                        seed=3,
                        stop_at_eos=stop_at_eos,
                        suppress_eos=region == "full" and not stop_at_eos,
                    )
                    told = [out.tokens.tolist(), out.revealed_at.tolist(), list(out.ended), out.texts]
                    key = f"{name} / {region} / {'eos' if stop_at_eos else 'all'} / {temperature}"
                    yield key, [*out.nfe.tolist(), digest(told)]


def evaluation() -> Iterator[tuple[str, Any]]:
    """Rows of `unmask eval`."""
    with tempfile.TemporaryDirectory() as folder:
        policies = [word for name in (POLICIES[2], POLICIES[10]) for word in ("--policies", here(name))]
        call("eval", *policies, "--prompts", "6", "--seeds", "2", "--block-lengths", "32", "--output", f"{folder}/eval")
        for line in Path(folder, "eval", "rows.jsonl").read_text().splitlines():
            row = json.loads(line)
            told = {key: row[key] for key in ("text", "correct", "nfe", "tokens", "reveals", "complete", "ended")}
            told["trajectory"] = row.get("trajectory")
            yield f"eval / {row['policy']['type']} / {row['seed']} / {row['index']}", [row["nfe"], digest(told)]


def training(name: str, arguments: tuple[str, ...], *, stop_after: int | None = None) -> Iterator[tuple[str, Any]]:
    """Metrics and weights of a short run; one that is stopped is resumed."""
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        if stop_after is not None:
            call(*(str(stop_after) if word == "3" else word for word in arguments), "--run", run)
            call(*arguments, "--run", run, "--resume", "--allow-changes")
        else:
            call(*arguments, "--run", run)
        for number, line in enumerate(Path(run, "metrics.jsonl").read_text().splitlines()):
            metrics = {k: v for k, v in json.loads(line).items() if not k.startswith("seconds")}
            yield f"{name} / line {number}", metrics
        for part in ("start", "best", "checkpoint-*/policy", "checkpoint-*"):
            for path in sorted(Path(run).glob(f"{part}/*.safetensors")):
                yield f"{name} / {path.relative_to(run)}", weights_of(path)


def weights_of(path: Path) -> str:
    """A digest of tensors, whatever their file's header says."""
    found = hashlib.sha256()
    for key, value in sorted(load_file(path).items()):
        found.update(key.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def call(*arguments: str) -> None:
    """Run the command line, silently."""
    with contextlib.redirect_stdout(io.StringIO()):
        main(list(arguments))


def machine() -> str:
    """What vector instructions torch computes with."""
    return str(torch.backends.cpu.get_cpu_capability())


def everything() -> dict[str, Any]:
    """All of it, by name."""
    torch.set_num_threads(1)
    parts: list[Callable[[], Iterator[tuple[str, Any]]]] = [rows, residual, evaluation]
    parts += [lambda name=name, words=words: training(name, words) for name, words in TRAININGS.items()]
    parts += [lambda: training("resumed", RESUMED, stop_after=2)]
    found: dict[str, Any] = {"machine": machine()}
    for part in parts:
        found |= dict(part())
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was, a line each."""
    told = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in before if before[key] != now.get(key)]
    return told + [f"{key}: new" for key in now if key not in before]


if __name__ == "__main__":
    now = json.loads(json.dumps(everything()))
    if sys.argv[1:] == ["write"]:
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in now.items())
        PATH.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
        sys.exit()
    told = differences(json.loads(PATH.read_text(encoding="utf-8")), now)
    print("\n".join(told) or f"{len(now)} golden results are equal.")
    sys.exit(1 if told else 0)
