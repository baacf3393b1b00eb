"""Run the quick start with several seeds and print the table of docs/training.md: policy against rules, and time.

python benchmarks/quickstart_seeds.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run what is missing, then print one row a seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    args = parser.parse_args()
    print(
        "| seed | policy %, 95% interval | NFE | cloned % | NFE "
        "| best of threshold, top-K, random, full diffusion % | NFE | gap, points "
        "| time | dLLM, policy, updates, rest % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for seed in args.seeds:
        summary = args.output / f"seed-{seed}" / "summary.json"
        if not summary.exists():
            command = ["quickstart", "--seed", str(seed), "--run", str(summary.parent)]
            subprocess.run([Path(sys.executable).with_name("unmask"), *command], check=True, stdout=subprocess.DEVNULL)
        print(row(seed, json.loads(summary.read_text())), flush=True)


def row(seed: int, found: dict) -> str:
    """One line of the table."""
    cells = found["summaries"]
    policy, cloned = (next(s for s in cells if s["entry"]["kind"] == kind) for kind in ("policy", "clone"))
    rules = [s for s in cells if s["entry"]["kind"] == "rule"]
    full = [s for s in rules if s["entry"]["block_length"] == s["entry"]["gen_length"]]
    rule = max(full, key=lambda s: s["accuracy"]["mean"])
    verdict, seconds, total = found["verdict"], found["seconds"], found["total_seconds"]

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    interval = f"{percent(policy['accuracy']['low'])} to {percent(policy['accuracy']['high'])}"
    gap = f"{100 * verdict['gap']:+.1f} ({100 * verdict['gap_low']:+.1f} to {100 * verdict['gap_high']:+.1f})"
    shares = ", ".join(f"{100 * seconds[stage] / total:.0f}" for stage in ("model", "policy", "update", "rest"))
    return (
        f"| {seed} | {percent(policy['accuracy']['mean'])}, {interval} | {policy['nfe']['mean']:.1f} "
        f"| {percent(cloned['accuracy']['mean'])} | {cloned['nfe']['mean']:.1f} "
        f"| {rule['entry']['label']} {percent(rule['accuracy']['mean'])} | {rule['nfe']['mean']:.1f} "
        f"| {gap} | {total / 60:.1f} min | {shares} |"
    )


if __name__ == "__main__":
    main()
