"""Is it worth seeing which positions would write the same? Pairs on an exact dLLM, tokens drawn, three seeds.

python benchmarks/overlap.py          trains what is missing, some four minutes of one core per seed; prints the table
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.puzzles import Setting, region, run
from benchmarks.studies import SEEDS

from unmask.evaluation.bounds import ceiling
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.rl.config import TrainConfig
from unmask.rl.prompts import fitting
from unmask.rl.trainer import Trainer
from unmask.rl.validation import validator
from unmask.tasks.auto import load_task
from unmask.tasks.puzzle import Puzzle
from unmask.testing import ExactModel

PAIRS = "lists:operation=pairs"
OVERLAP: dict[str, Any] = {
    "policy": {"use_speed": True, "use_entropy": True, "use_rank": True, "top_k": 4, "actions": "dpls"},
    "clone": {"rule": "exclusive:threshold=0.1,overlap=0.05", "updates": 600, "batch_size": 256},
    "decode": {"temperature": 1.0},
    "algorithm": {
        "beta": (0.01, 3.0),
        "prompts": 40,
        "lr": 1.5e-4,
        "entropy_weight": 0.001,
        "other_speeds": 1,
        "bold": 2,
    },
    "run": {"iterations": 60, "validate_every": 20},
}


def show(args: argparse.Namespace) -> None:
    """Pairs on an exact dLLM, tokens drawn: who excludes whom is in no confidence."""
    task = load_task(PAIRS)
    assert isinstance(task, Puzzle)
    one = Setting(task, ExactModel(task), task.examples("test", args.prompts))
    answers = task.answers(one.examples[0])
    assert answers is not None
    at_once = ceiling(answers, [0] * task.gen_length)
    print(f"{args.prompts} prompts; ceiling of one pass {100 * at_once:.2f}, of the known order 100 @ 2")
    print("| policy | speed | accuracy %, 95% interval | NFE | correlation |\n|---|---|---|---|---|")
    rules = ("top_k_confidence:k=1", "top_k_confidence:k=2", "factor:factor=1", OVERLAP["clone"]["rule"])
    for rule in rules:
        found = run(one, load_policy(rule), region(one).model_copy(update={"temperature": 1.0}))
        print(f"| `{rule}` | | {found.told()} |", flush=True)
    for seed in args.seeds:
        for name, seen in (("confidences", False), ("confidences and overlap", True)):
            policy = _trained_on_pairs(one, args.out / "pairs" / f"{'overlap' if seen else 'plain'}-{seed}", seen, seed)
            for speed in (0.0, 0.25, 0.5, 0.75, 1.0):
                config = region(one, speed=speed).model_copy(update={"temperature": 1.0})
                print(f"| {name}, seed {seed} | {speed:g} | {run(one, policy, config).told()} |", flush=True)


def _trained_on_pairs(one: Setting, target: Path, seen: bool, seed: int) -> Policy:
    """Trained to its end; what was stopped goes on."""
    tables = {**OVERLAP, "policy": {**OVERLAP["policy"], "use_overlap": seen}}
    tables["run"] = {**OVERLAP["run"], "folder": str(target), "seed": seed}
    config = TrainConfig.model_validate(tables)
    prompts, _ = fitting(one.model, one.task.examples("validation", 256), one.task.gen_length)
    validate = validator(one.model, one.task, prompts, config.decode, config.algorithm.settings)
    begun = (target / "config.json").exists()
    return Trainer(config, one.model, one.task, validate, lambda metrics: None).run(resume=begun)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--prompts", type=int, default=500)
    show(parser.parse_args())
