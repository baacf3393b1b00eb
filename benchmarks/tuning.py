"""One policy for every speed against every rule, over training seeds. Each command can be stopped and started again.

python benchmarks/tuning.py train --studies house          `unmask tune` for each seed, ten minutes of one core each
python benchmarks/tuning.py bundle --studies house         the median seed into the package
python benchmarks/tuning.py rules --studies house          every cell of every rule; the best on the held-out prompts
python benchmarks/tuning.py show --studies house           the table: differences at equal NFE, with 95% intervals
python benchmarks/tuning.py picture --studies house        the median seed's curve above all rules
python benchmarks/tuning.py promise --studies house        200 calibrations on 400 of the prompts: promises broken
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.curves import (
    against,
    area,
    best_of_each,
    between,
    curves,
    lossless,
    near_the_best,
    nfe_of,
    over_seeds,
    point,
    points_of,
    results,
    rival_rows,
    rivals,
    spread,
    told,
)
from benchmarks.studies import (
    OWN_BLOCKS,
    PLACES,
    PUZZLE_BLOCKS,
    SEEDS,
    SPEEDS,
    STUDIES,
    Progress,
    folder,
    homes,
    region,
    unmask,
    words_of,
)

from unmask.cli.console import duration
from unmask.cli.tune import tuning
from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import table_of
from unmask.evaluation.differences import paired_bootstrap
from unmask.evaluation.entries import Entry
from unmask.evaluation.figures import curve
from unmask.evaluation.rows import ResultRow
from unmask.evaluation.summaries import summarise
from unmask.files import written_whole
from unmask.hub import ASSETS, read_weights
from unmask.pareto import frontier
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.rl.config import TrainConfig
from unmask.rl.run import read_metrics


def train(args: argparse.Namespace) -> None:
    """Tune each study with each seed; what the search for rules has tried is shared by the seeds."""

    def one(job: tuple[str, int]) -> None:
        (study, seed), started = job, time.monotonic()
        place, flags = STUDIES[study]
        run = folder(args.out, study, seed)
        known = folder(args.out, place, args.seeds[0]) / "search.jsonl"
        if known.exists() and not run.exists() and "labels" not in flags:
            run.mkdir(parents=True)
            shutil.copy(known, run / "search.jsonl")
        again = ["--resume"] if (run / "config.json").exists() else []
        prompts = ["--calibration-prompts", args.calibration_prompts, "--held-out-prompts", 200]
        if not (run / "tuned.json").exists():
            words = words_of({**PLACES[place], **flags}) + taught_by(args, place, seed)
            unmask("tune", *words, "--run", run, "--seed", seed, *prompts, *again)
        for home in homes(study):
            decode(args, run, home, run / "held-out" / home)
        took = time.monotonic() - started
        progress.tell(f"{study}, seed {seed}: {duration(took)}", took)

    jobs = [(study, seed) for seed in args.seeds for study in args.studies]
    progress = Progress(len(jobs))
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, jobs))


def taught_by(args: argparse.Namespace, place: str, seed: int) -> list[str]:
    """A mixture's policy is cloned from those of its tasks, of the same seed, and they are trained before."""
    return [f"--clone.teachers={folder(args.out, home, seed)}" for home in homes(place) if place == "both"]


def decode(args: argparse.Namespace, run: Path, place: str, target: Path) -> None:
    """The held-out prompts of a place, by a policy at every speed."""
    again = ["--resume"] if (target / "config.json").exists() else []
    speeds = [f"--speeds={i / (SPEEDS - 1)}" for i in range(SPEEDS)]
    words = ["--policies", run, "--prompts", args.prompts, "--seeds", 1, "--output", target, *again]
    unmask("eval", *evaluated(place), *speeds, *words)


def evaluated(place: str) -> list[str]:
    """Its flags as `unmask eval` has them."""
    return words_of({key.replace("block-length", "block-lengths"): value for key, value in PLACES[place].items()})


def bundle(args: argparse.Namespace) -> None:
    """Put the median seed of each study that ships into the package: its policy, its card, its calibration."""
    for study in args.studies:
        if study not in BUNDLED:
            raise SystemExit(f"No policy of {study!r} ships: choose of {', '.join(BUNDLED)}.")
        name = BUNDLED[study]
        seeds = [seed for seed in args.seeds if (folder(args.out, study, seed) / "tuned.json").exists()]
        if not seeds:
            raise SystemExit(f"No policy of {study!r} is there: run `python benchmarks/tuning.py train` of it first.")
        areas = [(read_best(folder(args.out, study, seed)), seed) for seed in seeds]
        _, median = sorted(areas)[len(areas) // 2]
        best, target = folder(args.out, study, median) / "best", ASSETS / "policies" / name
        begun = json.loads((best.parent / "config.json").read_text(encoding="utf-8"))["run"]
        config = tuning(f"configs/tune/{name}.toml", {})
        for key, asked in (("temperatures", list(config.run.temperatures)), ("iterations", config.run.iterations)):
            if begun[key] != asked:
                says = f"let configs/tune/{name}.toml say so, too"
                raise SystemExit(f"{best.parent} has run.{key} {begun[key]}: {says}.")
        draft = best.parent / "bundled"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(best, draft, ignore=shutil.ignore_patterns("origin.json"))
        card = (best / "README.md").read_text(encoding="utf-8").replace(f"# seed-{median}\n", f"# {name}\n", 1)
        made = f"`unmask tune --config configs/tune/{name}.toml --seed {median}` makes it:\n"
        of = f"the median of {len(areas)} seeds by the area under the validation curve"
        made += f"{of if len(areas) > 1 else 'one seed'}.\n{HALVED.format(args.calibration_prompts)}"
        head, code, rest = card.partition("```python")
        text = f"{head}{made}\n\n{code}{rest}".replace("load_policy(...)", f'load_policy("{name}")')
        for home in homes(study):  # teachers, as its config names them
            text = text.replace(str(folder(args.out, home, median)), f"runs/tuned-{home}")
        (draft / "README.md").write_text(text, encoding="utf-8")
        halve(draft, config, args.calibration_prompts, best.parent / "halved")
        with written_whole(target) as whole:
            shutil.copytree(draft, whole, dirs_exist_ok=True)
        print(f"{name}: seed {median} of {study}")


HALVED = (
    "The packaged weights are float16 and were calibrated again, on {} prompts. The numbers below are of the float32 "
    "weights."
)


def halve(folder: Path, config: TrainConfig, prompts: int, rows: Path) -> None:
    """Keep its weights in float16, half the size, and calibrate what they have become."""
    path, task = folder / "model.safetensors", config.task
    blocks = config.decode.model_dump(mode="json")["block_length"]
    save_file({name: value.half() for name, value in read_weights(path).items()}, path, metadata={"format": "pt"})
    words = [f"--task={task.task}", f"--model={config.model.model}"]
    words += [f"--weights={weight}" for weight in task.weights]
    words += [] if blocks is None else [f"--block-length={blocks}"]
    seen = ["--skip", task.validation_prompts]  # which chose the checkpoint
    seen += ["--resume"] if (rows / "config.json").exists() else []
    unmask("calibrate", *words, *seen, "--policy", folder, "--prompts", prompts, "--output", rows)


def read_best(run: Path) -> float:
    """The area under the curve that chose the checkpoint, on validation prompts."""
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise SystemExit(f"{run} is not there: run `python benchmarks/tuning.py train` of its study first.")
    return max(line["reward"] for line in lines if line["stage"] in ("validation", "temperature"))


BUNDLED = {
    "house": "house-base-full",
    "house-blocks": "house-base-block8",
    "both": "house-base-both",
    "block-causal": "house-block-causal",
    "nae-sat": "nae-sat",
}


def picture(args: argparse.Namespace) -> None:
    """The curve of each study's median seed and the rules near the best, on the held-out prompts: docs/images."""
    for study in args.studies:
        if len(homes(study)) > 1:
            raise SystemExit(f"{study!r} is of several tasks, and a picture is of one: choose another study.")
        (place,) = homes(study)
        seeds = sorted(args.seeds, key=lambda seed: read_best(folder(args.out, study, seed)))
        run = folder(args.out, study, seeds[len(seeds) // 2])
        policy = [one for one in results(run / "held-out" / place) if one[0].kind == "policy"]
        summaries = [summarise(entry, rows) for entry, rows in policy + rival_rows(args, place)]
        title = f"{PLACES[place].get('model', 'house-base')} on {PLACES[place]['task']}, {args.prompts:,} test prompts"
        print(*curve(summaries, args.out / f"{study}.png", title))


def rules(args: argparse.Namespace) -> None:
    """Every rule over its whole grid in every block length; those near the best, on the held-out prompts.

    Every cell decodes `--tried` validation prompts; what `near_frontier` leaves out does not decode the held-out ones:
    chosen on other prompts, the rest flatter no one. Of puzzles, which ask what full diffusion alone can do, its own
    best are among them.
    """
    for place in dict.fromkeys(home for study in args.studies for home in homes(study)):
        tried, target = args.out / "rules" / f"{place}-tried", args.out / "rules" / place
        flags = {key: value for key, value in PLACES[place].items() if key != "block-length"}
        longest, own = OWN_BLOCKS.get(place, region(place)), PLACES[place].get("block-length")
        tried_lengths = PUZZLE_BLOCKS.get(place, (4, 8, 16, 32, 64))
        lengths = [f"--block-lengths={n}" for n in tried_lengths if n == own or (own is None and n <= longest)]
        _sweep(tried, *words_of(flags), *lengths, "--prompts", args.tried, "--split", "validation", "--sample-seed", 1)
        good = [*near_the_best(results(tried)), *best_of_each(results(tried))]
        if place in PUZZLE_BLOCKS:
            full = [cell for cell in results(tried) if cell[0].decode.block_length in (None, longest)]
            good += near_the_best(full)
        kept = list({entry.key: entry for entry in good}.values())
        print(f"{place}: {len(kept)} of {len(results(tried))} cells decode the held-out prompts", flush=True)
        (args.out / "rules" / f"{place}.toml").write_text("".join(map(grid_of, kept)), encoding="utf-8")
        _sweep(target, *words_of(flags), "--config", args.out / "rules" / f"{place}.toml", "--prompts", args.prompts)


def _sweep(target: Path, *words: Any) -> None:
    again = ["--resume"] if (target / "config.json").exists() else []
    unmask("sweep", *words, "--trajectories", 0, "--seeds", 1, "--output", target, *again)


def grid_of(entry: Entry) -> str:
    """A cell as a grid of one, in the TOML of `unmask sweep`."""
    settings = {key: value for key, value in entry.policy.items() if key != "type" and value is not None}
    lines = ["[[rules]]", f"policy = {json.dumps(entry.policy['type'])}"]
    lines += [f"settings.{key} = [{json.dumps(value)}]" for key, value in settings.items()]
    lines += [f"block_lengths = [{json.dumps(entry.columns()['block_length'])}]"]
    lines += [f"suppress_eos = {json.dumps(entry.decode.suppress_eos)}", "", ""]
    return "\n".join(lines)


def show(args: argparse.Namespace) -> None:
    """At each speed: accuracy @ NFE over seeds, and the difference to the best mixture of any two cells of any rule."""
    for study, place in [(one, home) for one in args.studies for home in homes(one)]:
        seeds = curves(args, study, place)
        on = "" if study == place else f" on {place}"
        for ground in dict.fromkeys((place, RULES_OF.get(place, place))):
            cells = rivals(args, ground)
            blocks = "in blocks of 8" if ground == "house-blocks" else "in any blocks"
            print(f"\n{study}{on}: {len(seeds)} training seeds, {cells[0].correct.shape[1]} prompts", end="")
            print(f", {len(cells)} cells of rules {blocks}, chosen on {args.tried} other prompts")
            print("| speed | accuracy % @ NFE | difference at this NFE, points | each seed |\n|---|---|---|---|")
            for i, nfe in enumerate((*nfe_of(seeds), *args.at)):
                reached, gap = against(seeds, [cells] * len(seeds), nfe, hull=True)
                alone = ", ".join(map(point, (one[i] for one in seeds))) if i < SPEEDS else ""
                speed = f"{i / (SPEEDS - 1):.2f}" if i < SPEEDS else ""
                difference = told(*gap, none="" if reached.startswith("not") else "no rule is as fast")
                print(f"| {speed} | {reached} | {difference} | {alone} |", flush=True)
            gaps = [paired_bootstrap(one, cells, hull=True) for seed in seeds for one in seed]
            gaps = [one for one in gaps if not math.isnan(one.mean)]
            if gaps:  # some rule is as fast as some speed
                least, low = 100 * min(one.mean for one in gaps), 100 * min(one.low for one in gaps)
                print(f"a seed alone at a speed: {least:+.1f} at least; its intervals reach down to {low:+.1f}")
            length = region(place)
            print(f"area under the curve over log NFE: {spread([area(one, length) for one in seeds])}", end="")
            print(f", all rules' frontier {100 * area(cells, length):.1f}")
            best = (f"{100 * one.accuracy:.1f} @ {one.nfe:.2f}" for one in frontier(points_of(cells)))
            print(f"the rules' frontier: {', '.join(best)}")
        reached = ", ".join(f"{lossless(one):.2f}" for one in seeds)
        print(f"the fewest passes of a speed with at least 99.5%, by seed: {reached}")
        falls = [[one.nfe.mean().item() for one in seed] for seed in seeds]
        rises = [max(b - a for a, b in pairwise(one)) for one in falls]
        print(f"NFE falls with speed in {sum(rise < 0 for rise in rises)} of {len(falls)} seeds", end="")
        print(f"; it rises by at most {max(0.0, *rises):.2f} from a speed to the next")
        if study == place:
            gaps = [between(results(folder(args.out, study, seed) / "calibration")) for seed in args.seeds]
            print(f"every second of 17 speeds, minus the line between its neighbours: {told(*over_seeds(gaps))} points")


RULES_OF = {"house-blocks": "house"}  # beside those in its own blocks: the rules that choose theirs


def promise(args: argparse.Namespace) -> None:
    """Calibrations on 400 of the held-out prompts, drawn anew; on the others the promise is kept or broken."""
    print("| study | seed | drop | promises made | broken |\n|---|---|---|---|---|")
    for study, place in [(one, home) for one in args.studies for home in homes(one)]:
        for seed in args.seeds:
            run = folder(args.out, study, seed)
            found = [one for one in results(run / "held-out" / place) if one[0].kind == "policy"]
            policy = load_policy(run)
            assert isinstance(policy, LearnedPolicy)
            found.sort(key=lambda one: one[0].decode.speed or 0.0)
            for drop in (0.01, 0.02, 0.05):
                made, broken = calibrations(policy, found, drop)
                total = len(broken)
                print(
                    f"| {study} | {seed} | {100 * drop:g} | {made} of {total} | {sum(broken)} of {total} |", flush=True
                )


def calibrations(
    policy: LearnedPolicy, found: Sequence[tuple[Entry, Sequence[ResultRow]]], drop: float
) -> tuple[int, list[bool]]:
    """How many of 200 promises are made, and of all 200 whether each is broken on the prompts it did not see."""
    rng, n, knobs = random.Random(0), len(found[0][1]), [entry.decode.speed or 0.0 for entry, _ in found]
    right = torch.tensor([[row["correct"] for row in rows] for _, rows in found], dtype=torch.float64)
    made, broken = 0, []
    for _ in range(200):
        chosen = sorted(rng.sample(range(n), min(400, n // 2)))
        others = torch.ones(n, dtype=torch.bool)
        others[chosen] = False
        _, table = table_of(policy, [(e, [rows[i] for i in chosen]) for e, rows in found], labels="verifier")
        try:
            speed = table.for_drop(drop)
        except UnmaskError:
            broken.append(False)
            continue
        made += 1
        chosen_row = max((row for row in table.rows if row.speed <= speed + 1e-9), key=lambda row: row.speed)
        slow, at = (knobs.index(row.knob) for row in (table.rows[0], chosen_row))
        lost = (right[slow, others].mean() - right[at, others].mean()).item()
        broken.append(lost > drop)
    return made, broken


def main(about: str | None, *commands: Callable[[argparse.Namespace], None]) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {one.__name__: one for one in commands}
    parser.add_argument("command", choices=list(known))
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=["house"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--prompts", type=int, default=1000, help="Held-out prompts.")
    parser.add_argument("--tried", type=int, default=200, help="Prompts that choose among the rules' cells.")
    parser.add_argument("--at", nargs="+", type=float, default=[], help="NFE to show beside those of the speeds.")
    parser.add_argument("--calibration-prompts", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1, help="Trainings at once.")
    args = parser.parse_args()
    known[args.command](args)


if __name__ == "__main__":
    main(__doc__, train, bundle, picture, rules, show, promise)
