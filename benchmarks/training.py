"""What training reaches, what it costs, and what each part of it is worth, on the bundled dLLM.

    python benchmarks/training.py run --jobs 2      # trains what is missing; can be stopped
    python benchmarks/training.py show              # prints the tables of docs/training.md
    python benchmarks/training.py time              # where an iteration's time goes

Every run is `unmask train` with the flags below, one thread, seeds 0 to 2, and `unmask eval` of its best checkpoint on
500 held-out prompts. Intervals are 95% t-intervals over training seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from unmask.rl.run import read_metrics

ALPHAS = (0.0, 0.3, 1.0, 3.0, 10.0)
SEEDS = (0, 1, 2)
PROMPTS = 500
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # of Student's t, by the number of seeds

Flags = dict[str, Any]
COMMON: Flags = {"iterations": 80, "validate-every": 10, "validation-prompts": 128}
SCRATCH: Flags = {"clone-from": "none"}
STEERED: Flags = {**SCRATCH, "experts": "confidence_threshold:threshold=0.9 @ 8", "min-signal": 0.01}
PLAIN: Flags = {"scale-advantages": "none", "lr": 2e-4}  # advantages as in the paper
SCALED: Flags = {"scale-advantages": "batch", "lr": 5e-5}
FAST: Flags = {"scale-advantages": "batch", "lr": 1e-4}  # for the longer way from fresh weights
BLOCKS: Flags = {"block-length": 8, "iterations": 60}


def _alphas(name: str, **flags: Any) -> dict[str, Flags]:
    return {f"{name}, alpha {alpha:g}": {**flags, "alpha": alpha} for alpha in ALPHAS}


STUDIES: dict[str, dict[str, Flags]] = {
    # Full diffusion from a clone: does alpha trade accuracy for speed, and what keeps it from doing so?
    "alpha": {**_alphas("scaled", **SCALED), **_alphas("paper's advantages", **PLAIN)},
    # The same at alpha 0.3, where seeds part most: which change brings them together?
    "spread": {
        "scaled, lr 2e-4": {**SCALED, "lr": 2e-4, "alpha": 0.3},
        "scaled, lr 2e-4, entropy 0.01": {**SCALED, "lr": 2e-4, "alpha": 0.3, "entropy-weight": 0.01},
        "scaled, lr 2e-4, KL 0.03": {**SCALED, "lr": 2e-4, "alpha": 0.3, "kl-weight": 0.03},
    },
    # Semi-autoregressive decoding in blocks of a quarter of the region, from scratch.
    "semi": {**_alphas("from scratch", **BLOCKS, **SCRATCH, **FAST)},
    # Full diffusion at alpha 1: the warm start is "scaled, alpha 1" above.
    "full": {
        "expert steering": {**STEERED, **PLAIN, "iterations": 200},
        "from scratch": {**SCRATCH, **PLAIN, "iterations": 200, "min-signal": 0.01},
    },
    # Blocks at alpha 1: what it costs to get there; from scratch is in "semi".
    "cost": {
        "warm start": {**BLOCKS, **FAST, "clone-examples": 32, "clone-updates": 100},
        "expert steering": {**BLOCKS, **STEERED, **FAST},
    },
    # Blocks from scratch at alpha 1 unless it says otherwise.
    "ablations": {
        "DPLS": {**BLOCKS, **SCRATCH, **FAST, "policy.actions": "dpls"},
        "without t": {**BLOCKS, **SCRATCH, **FAST, "policy.no-use-time": None},
        "without m": {**BLOCKS, **SCRATCH, **FAST, "policy.no-use-mask": None},
        "hidden states": {**BLOCKS, **SCRATCH, **FAST, "policy.reads": "hidden_states"},
        "released time embedding (P = 1)": {**BLOCKS, **SCRATCH, **FAST, "policy.time-period": 1.0},
        "additive, alpha 1": {**BLOCKS, **SCRATCH, **FAST, "reward": "additive"},
        "additive, alpha 10": {**BLOCKS, **SCRATCH, **FAST, "reward": "additive", "alpha": 10.0},
        "additive, alpha 3, full diffusion, warm start": {**SCALED, "reward": "additive", "alpha": 3.0},
    },
}


def folder(out: Path, study: str, name: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / study / "".join(c if c.isalnum() or c in ".-" else "-" for c in name) / f"seed-{seed}"


def unmask(*argv: str) -> None:
    """Run the command line on one thread; its output goes to a log only if it fails."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "unmask.cli", *argv], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"unmask {' '.join(argv)}: {done.stderr.strip()[-500:]}")


def train(out: Path, study: str, name: str, flags: Flags, seed: int) -> None:
    """One run, resumed if it was cut, then its evaluation."""
    run = folder(out, study, name, seed)
    if not (run / "eval" / "rows.jsonl").exists():
        given = {**COMMON, **flags, "seed": seed, "run": run}
        argv = [f"--{key}" if value is None else f"--{key}={value}" for key, value in given.items()]
        unmask("train", *argv, *(["--resume"] if (run / "config.json").exists() else []))
        block = str(flags.get("block-length", 32))
        where = ["--block-lengths", block, "--prompts", str(PROMPTS), "--seeds", "1", "--output", str(run / "eval")]
        unmask("eval", "--policies", str(run / "best"), *where)


def rules(out: Path) -> None:
    """The heuristics over their grid, on the same prompts."""
    if not (out / "rules" / "rows.jsonl").exists():
        lengths = [flag for length in (32, 16, 8, 4, 2) for flag in ("--block-lengths", str(length))]
        unmask("eval", "--heuristics", "--prompts", str(PROMPTS), *lengths, "--output", str(out / "rules"))


def run(out: Path, studies: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Train and evaluate what is missing, all names with one seed before the next."""
    todo = [(study, name, flags, seed) for seed in seeds for study in studies for name, flags in STUDIES[study].items()]
    started, done = time.monotonic(), 0

    def one(item: tuple[str, str, Flags, int]) -> None:
        nonlocal done
        try:
            train(out, *item)
        except RuntimeError as e:
            print(e, flush=True)
        done += 1
        left = (time.monotonic() - started) / done * (len(todo) - done)
        print(f"{done}/{len(todo)}  {item[0]}: {item[1]}, seed {item[3]}  {left / 60:.0f} min left", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        pool.submit(rules, out)
        list(pool.map(one, todo))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of an evaluation."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Reached:
    """What the seeds of one run reached."""

    def __init__(self, out: Path, study: str, name: str, seeds: Sequence[int]) -> None:
        self.folders = [f for f in (folder(out, study, name, s) for s in seeds) if (f / "eval" / "rows.jsonl").exists()]
        rows = [rows_of(f / "eval" / "rows.jsonl") for f in self.folders]
        self.accuracy = [100 * sum(row["correct"] for row in one) / len(one) for one in rows]
        self.nfe = [sum(row["nfe"] for row in one) / len(one) for one in rows]
        self.metrics = [read_metrics(f / "metrics.jsonl") for f in self.folders]
        self.collapsed = sum(any(line["stage"] == "collapse" for line in one) for one in self.metrics)

    def passes(self) -> list[float]:
        """Training forward passes until validation has reached 99% of the best reward of the run."""
        found = []
        for lines in self.metrics:
            spent, best = 0, max(line["reward"] for line in lines if line["stage"] == "validation")
            for line in lines:
                spent = line.get("passes", spent)
                if line["stage"] == "validation" and line["reward"] >= 0.99 * best:
                    found.append(spent)
                    break
        return found

    def final_reward(self) -> list[float]:
        """The best validation reward of each run."""
        return [max(line["reward"] for line in lines if line["stage"] == "validation") for lines in self.metrics]


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean and the half-width of its 95% t-interval."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.{digits}f} (one seed)"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {T95[len(values)] * deviation / math.sqrt(len(values)):.{digits}f}"


def frontier(out: Path, keep: Callable[[dict[str, Any]], bool]) -> list[tuple[float, float, str]]:
    """(NFE, accuracy %, cell) of the cells that none beats in both, by rising NFE."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(out / "rules" / "rows.jsonl"):
        if keep(row):
            key = f"{row['label']} {json.dumps(row['policy'])} blocks of {row['block_length']}"
            cells.setdefault(key, []).append(row)
    means = [
        (sum(r["nfe"] for r in rows) / len(rows), 100 * sum(r["correct"] for r in rows) / len(rows), key)
        for key, rows in cells.items()
    ]
    kept: list[tuple[float, float, str]] = []
    for cell in sorted(means, key=lambda c: (c[0], -c[1])):
        if not kept or cell[1] > kept[-1][1]:
            kept.append(cell)
    return kept


def at(cells: Sequence[tuple[float, float, str]], nfe: float) -> float:
    """Accuracy of the frontier at an NFE, by a mixture of its two neighbours; NaN below its fastest cell."""
    if nfe < cells[0][0]:
        return math.nan
    for (x0, y0, _), (x1, y1, _) in pairwise(cells):
        if nfe <= x1:
            return y0 + (y1 - y0) * (nfe - x0) / (x1 - x0)
    return cells[-1][1]


def show(out: Path, studies: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the tables."""

    def threshold(row: dict[str, Any]) -> bool:
        return row["label"] == "threshold" and row["block_length"] <= 8

    in_blocks = frontier(out, threshold)
    everything = frontier(out, lambda row: True)
    full = frontier(out, lambda row: row["block_length"] == 32)
    for study in studies:
        semi = study in ("semi", "cost", "ablations")
        print(f"\n### {study}\n")
        print(
            "| run | seeds | correct % | NFE | "
            + ("threshold grid, blocks of 8 or less" if semi else "full diffusion"),
            end="",
        )
        print(" at this NFE % | policy minus it | any block length % | validation reward | passes to 99%, thousands |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name in STUDIES[study]:
            found = Reached(out, study, name, seeds)
            if not found.folders:
                continue
            rival = [at(in_blocks if semi else full, nfe) for nfe in found.nfe]
            best = [at(everything, nfe) for nfe in found.nfe]
            gaps = [a - r for a, r in zip(found.accuracy, rival, strict=True) if not math.isnan(r)]
            collapsed = f" ({found.collapsed} stopped early)" if found.collapsed else ""
            print(
                f"| {name}{collapsed} | {len(found.folders)} | {interval(found.accuracy)} | {interval(found.nfe)} "
                f"| {_mean(rival)} | {interval(gaps) if gaps else 'it is slower'} | {_mean(best)} "
                f"| {interval(found.final_reward(), 3)} | {interval([p / 1000 for p in found.passes()])} |"
            )
    print("\nThreshold grid in blocks of 8 or less, its frontier (NFE, %): ", end="")
    print(", ".join(f"({nfe:.1f}, {accuracy:.1f})" for nfe, accuracy, _ in in_blocks))
    print("All rules in full diffusion: ", ", ".join(f"({nfe:.1f}, {accuracy:.1f})" for nfe, accuracy, _ in full))
    print("All rules, any block length: ", ", ".join(f"({nfe:.1f}, {accuracy:.1f})" for nfe, accuracy, _ in everything))


def _mean(values: Sequence[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return f"{sum(known) / len(known):.1f}" if known else "none so fast"


def where_time_goes(out: Path) -> None:
    """Shares of an iteration: at the quick start's size from a run, and with a 30M-parameter dLLM of random weights."""
    from benchmarks.decoding import random_model

    print("| dLLM | iterations | seconds | dLLM forwards % | policy forwards % | update % | rest % |")
    print("|---|---|---|---|---|---|---|")
    for name, path, flags in (
        ("house-base, 0.64M", None, {"iterations": 30}),
        (
            "random, 31M",
            out / "random-31m",
            {"iterations": 3, "clone-from": "none", "prompts": 2, "reward": "additive"},
        ),
    ):
        if path is not None and not path.exists():
            model = random_model("31m", "cpu")
            model.network.save_pretrained(path)
            model.tokenizer.save_pretrained(path)
        target = out / "time" / f"{len(name)}-{time.time_ns()}"
        given = {**flags, "run": target, "validation-prompts": 1, "validate-every": 1000}
        if path is not None:
            given |= {"model": path, "gen-length": 128, "train-examples": 50, "min-signal": 0}
        unmask("train", *(f"--{key}={value}" for key, value in given.items()))
        lines = [line for line in read_metrics(target / "metrics.jsonl") if line["stage"] == "grpo"]
        total = sum(line["seconds"] for line in lines)
        shares = [100 * sum(line[f"seconds_{s}"] for line in lines) / total for s in ("model", "policy", "update")]
        shown = " | ".join(f"{share:.1f}" for share in (*shares, 100 - sum(shares)))
        print(f"| {name} | {len(lines)} | {total:.1f} | {shown} |", flush=True)


def main() -> None:
    """Run, show or time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show", "time"))
    parser.add_argument("studies", nargs="*", help=", ".join(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/training"))
    args = parser.parse_args()
    studies = args.studies or list(STUDIES)
    unknown = set(studies) - set(STUDIES)
    if unknown:
        parser.error(f"no study {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    if args.what == "run":
        run(args.output, studies, args.seeds, args.jobs)
    elif args.what == "show":
        show(args.output, studies, args.seeds)
    else:
        where_time_goes(args.output)


if __name__ == "__main__":
    main()
