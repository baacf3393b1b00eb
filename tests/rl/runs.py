"""Short runs on a tiny random dLLM."""

import json

from safetensors.torch import load_file

from tests.rl.tasks import Short
from unmask.rl.config import TrainConfig
from unmask.rl.prompts import Prompt
from unmask.rl.trainer import Trainer

HOME = {
    "run": (
        "folder",
        "seed",
        "iterations",
        "validate_every",
        "checkpoint_minutes",
        "patience",
        "temperatures",
        "trackers",
    ),
    "task": ("train_examples", "validation_prompts", "max_prompt_length", "long_prompts", "labels"),
    "decode": ("gen_length", "block_length", "batch_size", "max_steps", "temperature", "stop_at_eos"),
    "policy": ("type", "init", "reads", "actions", "blocks", "use_time", "top_k"),
}
SMALL = {
    "iterations": 4,
    "prompts": 4,
    "group_size": 4,
    "train_examples": 20,
    "clone_examples": 8,
    "clone_updates": 3,
    "clone_batch_size": 16,
    "validate_every": 2,
    "update_batch_size": 16,
    "min_signal": 0.0,
    "lr": 2e-4,
}


def tables(**settings):
    """Settings by their table: ``clone_*`` are of [clone], those without a home here of [algorithm].

    ``policy`` is a whole table.
    """
    found = {"policy": dict(settings.pop("policy", {}))}
    for key, value in settings.items():
        table = next((name for name, keys in HOME.items() if key in keys), "algorithm")
        if key.startswith("clone_"):
            table, key = "clone", key.removeprefix("clone_")
        found.setdefault(table, {})[key] = value
    if found.get("algorithm", {}).get("name") == "rloo":
        found["algorithm"].setdefault("inner_iterations", 1)
    return found


def config(folder, **changes):
    return TrainConfig.model_validate(tables(**{"folder": str(folder), **SMALL, **changes}))


def trainer(tiny, folder, task=None, log=lambda metrics: None, **changes):
    def validate(policy):
        return {"reward": sum(p.sum().item() for p in policy.parameters()), "correct": 0.0, "nfe": 0.0}

    return Trainer(config(folder, **changes), tiny, task or Short(), validate, log)


def checkpoint(folder):
    (found,) = folder.glob("checkpoint-*")
    return found


def weights(folder):
    return load_file(checkpoint(folder) / "policy" / "model.safetensors")


def told(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def collected(tiny, folder, **changes):
    """A trainer, and the roll-outs of its first iteration."""
    run = trainer(tiny, folder, **changes)
    prompts = [Prompt(e, tiny.encode(e.prompt)) for e in Short().examples("train", 4)]
    return run, run.collectors[0].collect(list(enumerate(prompts)), 0).batch
