"""What training reaches, what it costs, and what each part of it is worth, on the bundled dLLM.

    python benchmarks/training.py run --jobs 2      # trains what is missing; can be stopped
    python benchmarks/training.py show              # prints the tables of docs/training.md
    python benchmarks/training.py time              # where an iteration's time goes

The studies are those of benchmarks/paper.py. Intervals are 95% t-intervals over training seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decoding import random_model
from benchmarks.paper import STUDIES, clone_of, folder, rows_of, run
from benchmarks.studies import SEEDS, unmask

from unmask.evaluation.intervals import t95
from unmask.pareto import Point, accuracy_at, frontier
from unmask.rl.run import read_metrics

IN_BLOCKS = ("semi", "cost", "hacking")
# Runs whose costs are compared; the bar is the best of their final rewards.
PASSES: dict[str, list[tuple[str, str]]] = {
    "blocks of 8, alpha 1": [("cost", name) for name in STUDIES["cost"]],
    "full diffusion, alpha 1": [
        ("full", "from scratch"),
        ("full", "expert steering"),
        ("full", "expert steering, forced progress"),
        ("full", "warm start, short"),
        ("alpha", "scaled, alpha 1"),
    ],
}


class Reached:
    """What the seeds of one run reached."""

    def __init__(self, out: Path, study: str, name: str, seeds: Sequence[int]) -> None:
        self.folders = [f for f in (folder(out, study, name, s) for s in seeds) if (f / "eval" / "rows.jsonl").exists()]
        rows = [rows_of(f / "eval" / "rows.jsonl") for f in self.folders]
        self.accuracy = [100 * sum(row["correct"] for row in one) / len(one) for one in rows]
        self.nfe = [sum(row["nfe"] for row in one) / len(one) for one in rows]
        self.metrics = [read_metrics(f / "metrics.jsonl") for f in self.folders]
        flags = STUDIES[study][name]
        self.clones = [0 for _ in self.folders]
        if flags.get("warm"):
            of = [clone_of(out, flags, s) for s in seeds if folder(out, study, name, s) in self.folders]
            self.clones = [
                next(line["passes"] for line in read_metrics(clone / "metrics.jsonl") if line["stage"] == "clone")
                for clone in of
            ]
        self.collapsed = sum(any(line["stage"] == "collapse" for line in one) for one in self.metrics)

    def passes(self, bar: float, whole: bool = False, count: str = "passes") -> list[float]:
        """Forward passes, in thousands, until validation reaches a reward, the clone's too; of the seeds that do.

        Args:
            whole: to the end of the run instead.
            count: ``passes_run``: only those that the dLLM ran, since equal rows share one.
        """
        found = []
        for lines, warm in zip(self.metrics, self.clones, strict=True):
            spent = warm
            for line in lines:
                spent = warm + line.get(count, math.nan) if "passes" in line else spent
                if line["stage"] == "validation" and line["reward"] >= bar:
                    found.append(spent / 1000)
                    break
            else:
                found += [spent / 1000] if whole else []
        return found

    def last(self) -> list[float]:
        """The validation reward at the end of each run."""
        return [[line["reward"] for line in lines if line["stage"] == "validation"][-1] for lines in self.metrics]

    def held(self) -> list[float]:
        """The last validation reward in percent of the best one: below 100, a run has drifted away from it."""
        rewards = [[line["reward"] for line in lines if line["stage"] == "validation"] for lines in self.metrics]
        return [100 * run[-1] / max(run) if max(run) > 0 else 100.0 for run in rewards]


def interval(values: Sequence[float], digits: int = 1) -> str:
    """Mean and the half-width of its 95% t-interval."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.{digits}f} (one seed)"
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {t95(len(values) - 1) * deviation / math.sqrt(len(values)):.{digits}f}"


def cells_of(out: Path, keep: Callable[[dict[str, Any]], bool]) -> list[Point]:
    """The cells of the heuristics' grid, by NFE and accuracy, that none beats in both."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(out / "rules" / "rows.jsonl"):
        if keep(row):
            key = f"{row['label']} {json.dumps(row['policy'])} blocks of {row['block_length']}"
            cells.setdefault(key, []).append(row)
    means = [
        Point(sum(r["nfe"] for r in rows) / len(rows), sum(r["correct"] for r in rows) / len(rows), key)
        for key, rows in cells.items()
    ]
    return frontier(means)


def at(cells: Sequence[Point], nfe: float) -> float:
    """Accuracy of the best mixture of two cells at an NFE, in percent; NaN below the fastest cell."""
    return 100 * accuracy_at(cells, nfe, hull=True)


def show(out: Path, studies: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the tables."""

    def threshold(row: dict[str, Any]) -> bool:
        return row["label"] == "threshold" and row["block_length"] <= 8

    in_blocks, everything = cells_of(out, threshold), cells_of(out, lambda row: True)
    full = cells_of(out, lambda row: row["block_length"] == 32)
    for study in studies:
        if study == "elsewhere":  # on other prompts than the rules: see docs/reproduction.md
            continue
        rival_name, rival = (
            ("threshold in blocks", in_blocks) if study in IN_BLOCKS else ("any rule, full diffusion", full)
        )
        print(f"\n### {study}\n")
        print(
            f"| run | seeds | correct % | NFE | {rival_name}, at this NFE % | policy minus it "
            "| policy minus any rule in any blocks | last validation reward, % of the best |\n" + "|---" * 8 + "|"
        )
        for name in STUDIES[study]:
            found = Reached(out, study, name, seeds)
            if not found.folders:
                continue
            beside = [at(rival, nfe) for nfe in found.nfe]
            gaps, wider = (
                [a - r for a, r in zip(found.accuracy, rivals, strict=True) if not math.isnan(r)]
                for rivals in (beside, [at(everything, nfe) for nfe in found.nfe])
            )
            of_all = interval(wider) if wider else ""
            stopped = f" ({found.collapsed} stopped early)" if found.collapsed else ""
            print(
                f"| {name}{stopped} | {len(found.folders)} | {interval(found.accuracy)} | {interval(found.nfe)} "
                f"| {_mean(beside)} | {interval(gaps) if gaps else ''} | {of_all} | {interval(found.held())} |"
            )
    for study, names in PASSES.items():
        runs = {name: Reached(out, *name, seeds) for name in names}
        if not all(run.folders for run in runs.values()):
            continue
        bar = 0.99 * max(sum(run.last()) / len(run.folders) for run in runs.values())
        print(f"\n### passes, {study}: thousands of dLLM forward passes to a validation reward of {bar:.3f}\n")
        print(
            "| run | final validation reward | seeds that reach it | passes, thousands | the dLLM ran | whole run |\n"
            + "|---" * 6
            + "|"
        )
        for (group, name), reached in runs.items():
            spent, whole = reached.passes(bar), reached.passes(math.inf, whole=True)
            ran = reached.passes(bar, count="passes_run")
            seeds_in = f"{len(spent)} of {len(reached.folders)}"
            counted = (
                interval(ran) if ran and not any(map(math.isnan, ran)) else ""
            )  # runs of an earlier version did not count
            shown = f"{interval(spent)} | {counted}" if spent else " | "
            print(f"| {group}: {name} | {interval(reached.last(), 3)} | {seeds_in} | {shown} | {interval(whole)} |")
    for name, cells in (
        ("threshold, blocks of 8 or less", in_blocks),
        ("any rule, full diffusion", full),
        ("any rule", everything),
    ):
        print(
            f"\nFrontier of {name} (NFE, %): "
            + ", ".join(f"({cell.nfe:.1f}, {100 * cell.accuracy:.1f})" for cell in cells)
        )


def _mean(values: Sequence[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return f"{sum(known) / len(known):.1f}" if known else "none so fast"


def where_time_goes(out: Path) -> None:
    """Shares of an iteration: at the quick start's size from a run, and with a 30M-parameter dLLM of random weights."""
    print("| dLLM | iterations | seconds | dLLM forwards % | policy forwards % | update % | rest % |")
    print("|---|---|---|---|---|---|---|")
    for name, path, flags in (
        ("house-base, 0.64M", None, {"iterations": 30}),
        (
            "random, 31M",
            out / "random-31m",
            {"iterations": 2, "clone-from": "none", "algorithm.prompts": 1, "algorithm.reward": "additive"},
        ),
    ):
        if path is not None and not path.exists():
            model = random_model("31m", "cpu")
            model.network.save_pretrained(path)
            model.tokenizer.save_pretrained(path)
        target = out / "time" / f"{len(name)}-{time.time_ns()}"
        given = {**flags, "run": target, "validation-prompts": 1, "validate-every": 1000}
        if path is not None:
            given |= {"model": path, "gen-length": 64, "train-examples": 50, "algorithm.min-signal": 0}
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
