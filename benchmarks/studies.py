"""Where policies of every speed are tuned, and how each study differs from the defaults of `unmask tune`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.cli.console import duration
from unmask.rl.run import read_metrics
from unmask.tasks.auto import load_task

SEEDS = (0, 1, 2)
SPEEDS = 8
Flags = Mapping[str, Any]
PLACES: dict[str, Flags] = {  # where a policy is tuned
    "house": {"task": "house"},
    "house-blocks": {"task": "house", "block-length": 8},
    "ledger": {"task": "ledger"},
    "house-small": {"task": "house", "model": "house-small"},
    "twice": {"task": "house-long", "gen-length": 64},
    "block-causal": {"task": "house", "model": "house-block-causal", "cache": "none"},  # copies then share passes
    "both": {"config": "configs/tune/house-base-both.toml"},
    "nae-sat": {"task": "nae-sat", "model": "nae-sat"},
    "lists": {"task": "lists", "model": "lists"},
    # Of dLLMs that `unmask pretrain --config configs/pretrain/NAME.toml` makes.
    "addition": {"task": "addition", "model": "runs/addition"},
    "sudoku": {"task": "sudoku", "model": "runs/sudoku"},
    "lists-small": {"task": "lists", "model": "runs/lists-small"},
}
OWN_BLOCKS = {"block-causal": 16}  # of a dLLM; rules may take shorter ones within them
# That rules try.
PUZZLE_BLOCKS = {
    "nae-sat": (4, 12, 36),
    "lists": (2, 4, 8),
    "addition": (3, 6, 12),
    "sudoku": (6, 12, 36),
}
TOGETHER: Flags = {  # for tasks in which many positions must be revealed together, and in an order
    "policy.actions": "dpls",
    "policy.use-rank": "True",
    "algorithm.leaps": 1,
    "algorithm.bold": 1,
    "clone.updates": 1000,
    "clone.batch-size": 256,
}
NO_BOLD: Flags = {"algorithm.leaps": 0, "algorithm.bold": 0}
STUDIES: dict[str, tuple[str, Flags]] = {  # name -> place, and what differs from the defaults of `unmask tune`
    **{place: (place, {}) for place in PLACES},
    **{place: (place, TOGETHER) for place in ("lists", "addition", "lists-small")},
    "sudoku": ("sudoku", {**TOGETHER, **NO_BOLD}),  # a leap that was luck teaches to guess
    "sudoku, leaps": ("sudoku", TOGETHER),
    "nae-sat": ("nae-sat", {**TOGETHER, "policy.actions": "bernoulli"}),
    "nae-sat, dpls": ("nae-sat", TOGETHER),
    "nae-sat, no ranks": ("nae-sat", {**TOGETHER, "policy.actions": "bernoulli", "policy.use-rank": "False"}),
    "nae-sat, no leaps": ("nae-sat", {**TOGETHER, "policy.actions": "bernoulli", **NO_BOLD}),
    "lists, bernoulli": ("lists", {**TOGETHER, "policy.actions": "bernoulli"}),
    "lists, no ranks": ("lists", {**TOGETHER, "policy.use-rank": "False"}),
    "lists, no leaps": ("lists", {**TOGETHER, **NO_BOLD}),
    **{
        f"{place}, blind": (place, {**of, "policy.reads": "nothing", "policy.use-entropy": "False"})
        for place, of in (
            ("house", {}),
            *((place, TOGETHER) for place in ("nae-sat", "lists", "addition")),
            ("sudoku", {**TOGETHER, **NO_BOLD}),
        )
    },
    "house, together": ("house", TOGETHER),
    "both, clone alone": ("both", {"iterations": 0}),
    "both, short clone": ("both", {"clone.updates": 800}),
    "house, no entropy": ("house", {"policy.use-entropy": "False"}),
    "house, one rule cloned": ("house", {"clone-from": "confidence_threshold:threshold=0.9"}),
    "house, batch scaling": ("house", {"algorithm.scale-advantages": "batch"}),
    "house, the paper's reward": ("house", {"algorithm.alpha": "0.1,30"}),
    "house, beta from 0.03": ("house", {"beta": "0.03,3.0"}),
    "house, beta to 4": ("house", {"beta": "0.01,4.0"}),
    "house, 400 updates of cloning": ("house", {"clone.updates": 400}),
    "house, no verifier": ("house", {"labels": "agreement"}),
    "ledger, no verifier": ("ledger", {"labels": "agreement"}),
    "house, dpls": ("house", {"policy.actions": "dpls"}),
    "house, one confidence": ("house", {"policy.top-k": 1}),
    "house, no other speeds": ("house", {"algorithm.other-speeds": 0}),
    "ledger, no entropy": ("ledger", {"policy.use-entropy": "False"}),
    "ledger, one confidence": ("ledger", {"policy.top-k": 1}),
    "ledger, no other speeds": ("ledger", {"algorithm.other-speeds": 0}),
    "ledger, dpls": ("ledger", {"policy.actions": "dpls"}),
}


def region(place: str) -> int:
    """Positions that are decoded."""
    flags = PLACES[place]
    return int(flags["gen-length"]) if "gen-length" in flags else load_task(flags["task"]).gen_length


def homes(study: str) -> tuple[str, ...]:
    """Where its policies are measured: a mixture's on each of its tasks."""
    place = STUDIES[study][0]
    return ("house", "ledger") if place == "both" else (place,)


def folder(out: Path, study: str, seed: int) -> Path:
    """Of one training."""
    return out / study.replace(", ", "-").replace(" ", "-").replace("'", "") / f"seed-{seed}"


def unmask(*words: Any) -> None:
    """Run the command on one core, its output into nothing but its errors."""
    command = [sys.executable, "-m", "unmask.cli", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # as many run at once as there are jobs
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)


class Progress:
    """Says which of several jobs is done, and about how long the others take; threads may share one."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.there, self.started = total, 0, 0, time.monotonic()

    def tell(self, job: str, seconds: float) -> None:
        """One more is done, which took so long; what was there already is no pace for the others."""
        self.done += 1
        self.there += seconds < 1
        made = self.done - self.there
        pace = (time.monotonic() - self.started) / made if made else 0.0
        left = f", about {duration(pace * (self.total - self.done))} left" if made else ""
        print(f"{self.done}/{self.total}  {job}{left}\n", end="", flush=True)  # in one piece


def logged(run: Path) -> float:
    """Seconds of a training as a policy's run or a dLLM's folder has them; 0 if it has none."""
    if (run / "pretrain.json").exists():
        return float(json.loads((run / "pretrain.json").read_text(encoding="utf-8")).get("seconds", 0))
    return sum(float(line.get("seconds", 0)) for line in read_metrics(run / "metrics.jsonl"))


def words_of(flags: Flags) -> list[str]:
    """Flags as the command line has them."""
    return [f"--{key}={value}" for key, value in flags.items()]
