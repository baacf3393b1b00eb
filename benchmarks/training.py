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
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.studies import SEEDS, unmask

from unmask.evaluation.intervals import t95
from unmask.pareto import Point, accuracy_at, frontier
from unmask.rl.run import read_metrics

ALPHAS = (0.0, 0.3, 1.0, 3.0, 10.0)
PROMPTS = 500

Flags = dict[str, Any]
COMMON: Flags = {"iterations": 80, "validate-every": 20, "validation-prompts": 128}
SCRATCH: Flags = {"clone-from": "none"}
WARM: Flags = {"warm": True}  # from the clone of its seed and block length, which all share
STEERED: Flags = {
    **SCRATCH,
    "algorithm.experts": "confidence_threshold:threshold=0.9 @ 8",
    "algorithm.min-signal": 0.01,
}
PLAIN: Flags = {"algorithm.scale-advantages": "none", "lr": 2e-4}  # advantages as in the paper
SCALED: Flags = {"algorithm.scale-advantages": "batch", "lr": 5e-5}
BLOCKS: Flags = {"block-length": 8}
PLACE = (
    "model",
    "task",
    "weights",
    "gen-length",
)  # where a run is trained and evaluated: house-base, house and 32 by default
BOTH: Flags = {"task": "house+ledger", "weights": (1, 1)}
# Few roll-outs an iteration, large steps.
SHORT: Flags = {
    "iterations": 32,
    "validate-every": 4,
    "algorithm.group-size": 4,
    "algorithm.scale-advantages": "batch",
    "lr": 4e-4,
}


def _alphas(name: str, alphas: Sequence[float] = ALPHAS, **flags: Any) -> dict[str, Flags]:
    return {f"{name}, alpha {alpha:g}": {**flags, "alpha": alpha} for alpha in alphas}


STUDIES: dict[str, dict[str, Flags]] = {
    # Full diffusion from a clone: does alpha trade accuracy for speed, and what keeps it from doing so?
    "alpha": {
        **_alphas("scaled", **WARM, **SCALED),
        **_alphas("paper's advantages", (0.3, 1.0, 10.0), **WARM, **PLAIN),
    },
    # The same at alpha 0.3, where seeds part most: which change brings them together?
    "spread": {
        "scaled, lr 2e-4": {**WARM, **SCALED, "lr": 2e-4, "alpha": 0.3},
        "scaled, lr 2e-4, entropy 0.01": {**WARM, **SCALED, "lr": 2e-4, "alpha": 0.3, "algorithm.entropy-weight": 0.01},
    },
    # Semi-autoregressive decoding in blocks of a quarter of the region.
    "semi": {**_alphas("warm start", **BLOCKS, **WARM, **SCALED)},
    # Full diffusion at alpha 1: the long warm start is "scaled, alpha 1" above.
    "full": {
        "expert steering": {**STEERED, **PLAIN, "iterations": 200},
        "expert steering, forced progress": {**STEERED, **PLAIN, "iterations": 200, "algorithm.force-progress": None},
        "from scratch": {**SCRATCH, **PLAIN, "iterations": 200, "algorithm.min-signal": 0.01},
        "warm start, short": {**SHORT, "clone.examples": 32, "clone.updates": 100},
    },
    # Full diffusion at alpha 1 from a clone, each of its own where the network is another: beside "scaled, alpha 1".
    "ablations": {
        "DPLS": {**SCALED, "policy.actions": "dpls"},
        "top 8 confidences": {**SCALED, "policy.top-k": 8},
        "without t": {**SCALED, "policy.no-use-time": None},
        "without m": {**SCALED, "policy.no-use-mask": None},
        "hidden states": {**SCALED, "policy.reads": "hidden_states"},
        "released time embedding (P = 1)": {**SCALED, "policy.time-period": 1.0},
        "additive, alpha 1": {**WARM, **SCALED, "algorithm.reward": "additive"},
        "additive, alpha 3": {**WARM, **SCALED, "algorithm.reward": "additive", "alpha": 3.0},
        "additive, alpha 10": {**WARM, **SCALED, "algorithm.reward": "additive", "alpha": 10.0},
    },
    # Blocks at alpha 1: what it costs to get there.
    "cost": {
        "from scratch": {**BLOCKS, **SCRATCH, **PLAIN, "iterations": 150, "validate-every": 10},
        "expert steering": {**BLOCKS, **STEERED, **PLAIN, "iterations": 150, "validate-every": 10},
        "warm start": {**BLOCKS, **SCALED, "validate-every": 5, "clone.examples": 32, "clone.updates": 100},
        "from scratch, short": {**BLOCKS, **SCRATCH, **SHORT},
        "warm start, short": {**BLOCKS, **SHORT, "clone.examples": 32, "clone.updates": 100},
    },
    # Policies trained where those of "alpha" and "semi" are tried without having been trained: another dLLM, twice the
    # length, another domain, both domains.
    "elsewhere": {
        **_alphas("house-small, blocks", (1.0, 10.0), **BLOCKS, **WARM, **SCALED, model="house-small"),
        **_alphas("house-small, full", (1.0, 10.0), **WARM, **SCALED, model="house-small"),
        **_alphas("length 64, blocks", (1.0,), **BLOCKS, **WARM, **SCALED, **{"gen-length": 64}),
        **_alphas("length 64, full", (1.0,), **WARM, **SCALED, **{"gen-length": 64}),
        **_alphas("ledger, blocks", (1.0, 10.0), **BLOCKS, **WARM, **SCALED, task="ledger"),
        **_alphas("ledger, full", (1.0,), **WARM, **SCALED, task="ledger"),
        **_alphas("both domains, blocks", (1.0,), **BLOCKS, **WARM, **SCALED, **BOTH),
        **_alphas("both domains, full", (1.0,), **WARM, **SCALED, **BOTH),
    },
    # Blocks from scratch: does a form of the reward reveal everything at once?
    "hacking": {
        f"{reward}, alpha {alpha:g}": {**BLOCKS, **SCRATCH, **PLAIN, "algorithm.reward": reward, "alpha": alpha}
        for reward in ("multiplicative", "additive")
        for alpha in (1.0, 10.0)
    },
}


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


def folder(out: Path, study: str, name: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / study / "".join(c if c.isalnum() or c in ".-" else "-" for c in name) / f"seed-{seed}"


def options(flags: Flags) -> list[str]:
    """As the command line takes them: None is a switch, several values repeat the flag."""
    values = {key: value if isinstance(value, tuple) else (value,) for key, value in flags.items()}
    return [f"--{key}" if one is None else f"--{key}={one}" for key, several in values.items() for one in several]


def train(out: Path, study: str, name: str, flags: Flags, seed: int) -> None:
    """One run, resumed if it was cut, then its evaluation."""
    run = folder(out, study, name, seed)
    if not (run / "eval" / "rows.jsonl").exists():
        given = {**COMMON, **flags, "seed": seed, "run": run}
        if given.pop("warm", False):
            given |= {**SCRATCH, "policy.init": clone_of(out, flags, seed) / "best"}
        unmask("train", *options(given), *(["--resume"] if (run / "config.json").exists() else []))
        place = options({key: flags[key] for key in PLACE if key in flags})
        block = str(flags.get("block-length", flags.get("gen-length", 32)))
        where = ["--block-lengths", block, "--prompts", str(PROMPTS), "--seeds", "1"]
        command("eval", run / "eval", "--policies", str(run / "best"), *place, *where)


def command(name: str, folder: Path, *argv: str) -> None:
    """`unmask eval`, `sweep` or `transfer` into a folder, resumed if it was cut."""
    unmask(name, *argv, "--output", str(folder), *(["--resume"] if (folder / "config.json").exists() else []))


def clone_of(out: Path, flags: Flags, seed: int) -> Path:
    """Where the clone of a seed is kept: the quick start's, of the threshold 0.9 in blocks of 8."""
    place = "".join(f"{flags[key]}-" for key in PLACE if key in flags and key != "weights")
    return out / "clones" / f"{place}block-{flags.get('block-length', flags.get('gen-length', 32))}-seed-{seed}"


def prepare(out: Path, flags: Flags, seed: int) -> None:
    """Clone for a warm start, if it is missing."""
    run = clone_of(out, flags, seed)
    if flags.get("warm") and not (run / "best" / "README.md").exists():
        where = options({key: flags[key] for key in (*PLACE, "block-length") if key in flags})
        unmask("clone", *where, f"--seed={seed}", f"--run={run}", "--validation-prompts=128")


def rules(out: Path) -> None:
    """Every rule over its grid, on the same prompts."""
    if not (out / "rules" / "rows.jsonl").exists():
        lengths = options({"block-lengths": (32, 16, 8, 4, 2)})
        command("sweep", out / "rules", "--prompts", str(PROMPTS), "--seeds", "1", *lengths)


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
        line = f"{done}/{len(todo)}  {item[0]}: {item[1]}, seed {item[3]}  {left / 60:.0f} min left\n"
        print(line, end="", flush=True)  # in one piece: other threads print, too

    with ThreadPoolExecutor(jobs) as pool:
        clones = {clone_of(out, flags, seed): (out, flags, seed) for _, _, flags, seed in todo if flags.get("warm")}
        for job in [pool.submit(prepare, *of) for of in clones.values()]:
            job.result()
        grid = pool.submit(rules, out)
        list(pool.map(one, todo))
        grid.result()
    missing = [item for item in todo if not (folder(out, item[0], item[1], item[3]) / "eval" / "rows.jsonl").exists()]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(todo)} runs failed; run again to go on with them.")


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
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.decoding import random_model

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
