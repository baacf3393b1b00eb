"""One policy for every speed against every rule, over training seeds. Each command can be stopped and started again.

python benchmarks/tuning.py train --studies house          `unmask tune` for each seed, ten minutes of one core each
python benchmarks/tuning.py bundle                         the median seeds into the package
python benchmarks/tuning.py rules --studies house          every cell of every rule; the best on the held-out prompts
python benchmarks/tuning.py show --studies house           the table: differences at equal NFE, with 95% intervals
python benchmarks/tuning.py picture --studies house        the median seed's curve above all rules
python benchmarks/tuning.py domains                        house on ledger, ledger on house, both on each
python benchmarks/tuning.py envelope                       forward passes against those of a policy per alpha
python benchmarks/tuning.py controls --studies house       replay of its pace, information, oracle
python benchmarks/tuning.py promise --studies house        200 calibrations on half the prompts: promises broken
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import table_of
from unmask.evaluation.differences import Difference, Outcomes, paired_bootstrap, paired_difference
from unmask.evaluation.entries import Entry
from unmask.evaluation.figures import curve
from unmask.evaluation.gather import read_results
from unmask.evaluation.intervals import t95
from unmask.evaluation.rows import ResultRow
from unmask.evaluation.summaries import outcomes, summarise
from unmask.hub import ASSETS
from unmask.pareto import Point, accuracy_at, curve_volume
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.calibration import bound
from unmask.rl.run import read_metrics

SEEDS = (0, 1, 2)
SPEEDS = 8
Flags = Mapping[str, Any]
PLACES: dict[str, Flags] = {  # where a policy is tuned
    "house": {"task": "house"},
    "house-blocks": {"task": "house", "block-length": 8},
    "ledger": {"task": "ledger"},
    "house-small": {"task": "house", "model": "house-small"},
    "twice": {"task": "house-long", "gen-length": 64},
    "both": {"config": "configs/tune/house-base-both.toml"},
}
STUDIES: dict[str, tuple[str, Flags]] = {  # name -> place, and what differs from the defaults of `unmask tune`
    **{place: (place, {}) for place in PLACES},
    "house, no entropy": ("house", {"policy.use-entropy": "False"}),
    "house, one rule cloned": ("house", {"clone-from": "confidence_threshold:threshold=0.9"}),
    "house, batch scaling": ("house", {"algorithm.scale-advantages": "batch"}),
    "house, the paper's reward": ("house", {"algorithm.alpha": "0.1,30"}),
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


def homes(study: str) -> tuple[str, ...]:
    """Where its policies are measured: a mixture's on each of its tasks."""
    place = STUDIES[study][0]
    return ("house", "ledger") if place == "both" else (place,)


def folder(out: Path, study: str, seed: int) -> Path:
    """Of one training."""
    return out / study.replace(", ", "-").replace(" ", "-").replace("'", "") / f"seed-{seed}"


def unmask(*words: Any) -> None:
    """Run the command, its output into nothing but its errors."""
    command = [sys.executable, "-m", "unmask.cli", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def words_of(flags: Flags) -> list[str]:
    """Flags as the command line has them."""
    return [f"--{key}={value}" for key, value in flags.items()]


def train(args: argparse.Namespace) -> None:
    """Tune each study with each seed; what the search for rules has tried is shared by the seeds."""

    def one(job: tuple[str, int]) -> None:
        study, seed = job
        place, flags = STUDIES[study]
        run = folder(args.out, study, seed)
        if (run / "tuned.json").exists():
            return
        known = folder(args.out, place, args.seeds[0]) / "search.jsonl"
        if known.exists() and not run.exists() and "labels" not in flags:
            run.mkdir(parents=True)
            shutil.copy(known, run / "search.jsonl")
        again = ["--resume"] if (run / "config.json").exists() else []
        prompts = ["--calibration-prompts", args.calibration_prompts, "--held-out-prompts", 200]
        unmask("tune", *words_of({**PLACES[place], **flags}), "--run", run, "--seed", seed, *prompts, *again)
        for home in homes(study):
            decode(args, run, home, run / "held-out" / home)
        print(f"{study}, seed {seed}: done", flush=True)

    jobs = [(study, seed) for seed in args.seeds for study in args.studies]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, jobs))


def decode(args: argparse.Namespace, run: Path, place: str, target: Path) -> None:
    """The held-out prompts of a place, by a policy at every speed."""
    again = ["--resume"] if (target / "config.json").exists() else []
    speeds = [f"--speeds={i / (SPEEDS - 1)}" for i in range(SPEEDS)]
    words = ["--policies", run, "--prompts", args.prompts, "--seeds", 1, "--output", target, *again]
    unmask("eval", *words_of(PLACES[place]), *speeds, *words)


def bundle(args: argparse.Namespace) -> None:
    """Put the median seed of each kind that ships into the package: its policy, its card, its calibration."""
    for study, name in BUNDLED.items():
        seeds = [seed for seed in args.seeds if (folder(args.out, study, seed) / "tuned.json").exists()]
        if not seeds:
            continue
        areas = [(read_best(folder(args.out, study, seed)), seed) for seed in seeds]
        _, median = sorted(areas)[len(areas) // 2]
        best, target = folder(args.out, study, median) / "best", ASSETS / "policies" / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(best, target, ignore=shutil.ignore_patterns("origin.json"))
        card = (best / "README.md").read_text(encoding="utf-8").replace(f"# seed-{median}\n", f"# {name}\n", 1)
        made = f"`unmask tune --config configs/tune/{name}.toml --seed {median}` makes it:\n"
        of = f"the median of {len(areas)} seeds by the area under the validation curve"
        made += of if len(areas) > 1 else "one seed"
        head, code, rest = card.partition("```python")
        text = f"{head}{made}.\n\n{code}{rest}".replace("load_policy(...)", f'load_policy("{name}")')
        (target / "README.md").write_text(text, encoding="utf-8")
        print(f"{name}: seed {median} of {study}")


def read_best(run: Path) -> float:
    """The area under the curve that chose the checkpoint, on validation prompts."""
    lines = read_metrics(run / "metrics.jsonl")
    return max(line["reward"] for line in lines if line["stage"] == "validation")


BUNDLED = {"house": "house-base-full", "house-blocks": "house-base-block8", "both": "house-base-both"}


def picture(args: argparse.Namespace) -> None:
    """The curve of each study's median seed above all rules on the held-out prompts, as docs/images has it."""
    for study in args.studies:
        (place,) = homes(study)
        seeds = sorted(args.seeds, key=lambda seed: read_best(folder(args.out, study, seed)))
        run = folder(args.out, study, seeds[len(seeds) // 2])
        found = results(run / "held-out" / place) + results(args.out / "rules" / place)
        summaries = [summarise(entry, rows) for entry, rows in found if entry.kind in ("policy", "rule")]
        title = f"{PLACES[place].get('model', 'house-base')} on {PLACES[place]['task']}, {args.prompts:,} test prompts"
        print(*curve(summaries, args.out / f"{study}.png", title))


def domains(args: argparse.Namespace) -> None:
    """Each policy on the task of the other, and that of both tasks on each, against the policy trained there."""
    places = ("house", "ledger")
    print("| policy | on | speed | accuracy % @ NFE | difference to the native one at equal NFE, points |")
    print("|---|---|---|---|---|")
    for study in (*places, "both"):
        for place in places:
            if study == place:
                continue
            for seed in args.seeds:
                target = folder(args.out, study, seed) / "held-out" / place
                if not (target / "rows.jsonl").exists():
                    decode(args, folder(args.out, study, seed), place, target)
            seeds, native = curves(args, study, place), curves(args, place, place)
            for i in range(SPEEDS):
                each = [one[i] for one in seeds]
                gap = over_seeds([paired_bootstrap(one, own) for one, own in zip(each, native, strict=True)])
                accuracy = sum(one.correct.mean().item() for one in each) / len(each)
                nfe = sum(one.nfe.mean().item() for one in each) / len(each)
                print(
                    f"| {study} | {place} | {i / (SPEEDS - 1):.2f} | {100 * accuracy:.1f} @ {nfe:.2f} "
                    f"| {told(*gap, 'the native one is never as fast')} |",
                    flush=True,
                )


def rules(args: argparse.Namespace) -> None:
    """Every rule over its whole grid in every block length; those near the best, on the held-out prompts.

    Every cell decodes `TRIED` validation prompts. Cells more than `MARGIN` below the best mixture of two at their NFE
    are left out: chosen on other prompts, the rest flatter no one.
    """
    for place in dict.fromkeys(home for study in args.studies for home in homes(study) if home != "house-blocks"):
        tried, target = args.out / "rules" / f"{place}-tried", args.out / "rules" / place
        flags = PLACES[place]
        longest = int(flags.get("gen-length", 32))
        lengths = [f"--block-lengths={length}" for length in (4, 8, 16, 32, 64) if length <= longest]
        _sweep(tried, *words_of(flags), *lengths, "--prompts", TRIED, "--split", "validation", "--sample-seed", 1)
        kept = near_the_best(results(tried))
        print(f"{place}: {len(kept)} of {len(results(tried))} cells decode the held-out prompts", flush=True)
        (args.out / "rules" / f"{place}.toml").write_text("".join(map(grid_of, kept)), encoding="utf-8")
        _sweep(target, *words_of(flags), "--config", args.out / "rules" / f"{place}.toml", "--prompts", args.prompts)


TRIED, MARGIN = 200, 0.06


def _sweep(target: Path, *words: Any) -> None:
    again = ["--resume"] if (target / "config.json").exists() else []
    unmask("sweep", *words, "--trajectories", 0, "--seeds", 1, "--output", target, *again)


def near_the_best(found: Sequence[tuple[Entry, Sequence[ResultRow]]]) -> list[Entry]:
    """The cells that may be part of the best mixture of two on other prompts."""
    cells = [(entry, outcomes(rows)) for entry, rows in found]
    points = [Point(one.nfe.mean().item(), one.correct.mean().item(), entry) for entry, one in cells]
    return [one.cell for one in points if one.accuracy >= accuracy_at(points, one.nfe, hull=True) - MARGIN]


def grid_of(entry: Entry) -> str:
    """A cell as a grid of one, in the TOML of `unmask sweep`."""
    settings = {key: value for key, value in entry.policy.items() if key != "type" and value is not None}
    lines = ["[[rules]]", f"policy = {json.dumps(entry.policy['type'])}"]
    lines += [f"settings.{key} = [{json.dumps(value)}]" for key, value in settings.items()]
    lines += [f"block_lengths = [{json.dumps(entry.columns()['block_length'])}]"]
    lines += [f"suppress_eos = {json.dumps(entry.decode.suppress_eos)}", "", ""]
    return "\n".join(lines)


def results(path: Path) -> list[tuple[Entry, Sequence[ResultRow]]]:
    """Entries with their rows."""
    return list(read_results([path]))


def curves(args: argparse.Namespace, study: str, place: str) -> list[list[Outcomes]]:
    """What each seed's policy did at each speed, from slow to fast, on the held-out prompts of a place."""
    found = []
    for seed in args.seeds:
        rows = results(folder(args.out, study, seed) / "held-out" / place)
        own = [(entry.decode.speed or 0.0, outcomes(each)) for entry, each in rows if entry.kind == "policy"]
        own.sort(key=lambda one: one[0])
        found.append([one for _, one in own])
    return found


def show(args: argparse.Namespace) -> None:
    """At each speed: accuracy @ NFE over seeds, and the difference to the best mixture of any two cells of any rule."""
    for study, place in [(one, home) for one in args.studies for home in homes(one)]:
        rules_of = "house" if place == "house-blocks" else place  # in any blocks, also those that the policy has not
        cells = [outcomes(rows) for entry, rows in results(args.out / "rules" / rules_of) if entry.kind == "rule"]
        seeds, gaps_alone = curves(args, study, place), list[Difference]()
        prompts = cells[0].correct.shape[1]
        on = "" if study == place else f" on {place}"
        print(f"\n{study}{on}: {len(seeds)} training seeds, {prompts} prompts", end="")
        print(f", {len(cells)} cells of rules, chosen on {TRIED} other prompts")
        print("| speed | accuracy % @ NFE | difference at equal NFE, points | each seed |\n|---|---|---|---|")
        for i in range(SPEEDS):
            each = [one[i] for one in seeds]
            accuracy = sum(one.correct.mean().item() for one in each) / len(each)
            nfe = sum(one.nfe.mean().item() for one in each) / len(each)
            own = [paired_bootstrap(one, cells, hull=True) for one in each]
            gap, gaps_alone = over_seeds(own), [*gaps_alone, *(one for one in own if not math.isnan(one.mean))]
            alone = ", ".join(f"{100 * one.correct.mean():.1f} @ {one.nfe.mean():.2f}" for one in each)
            print(
                f"| {i / (SPEEDS - 1):.2f} | {100 * accuracy:.1f} @ {nfe:.2f} | {told(*gap)} | {alone} |",
                flush=True,
            )
        length = int(PLACES[place].get("gen-length", 32))
        volumes = torch.tensor([area(one, length) for one in seeds])
        half = t95(len(seeds) - 1) * volumes.std().item() / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan
        print(
            f"area under the curve over log NFE: {100 * volumes.mean():.1f} ± {100 * half:.1f} over seeds, "
            f"all rules' frontier {100 * area(cells, length):.1f}"
        )
        least = min(gaps_alone, key=lambda one: one.mean)
        print(f"least difference of a seed alone at a speed: {told(least.mean, least.low, least.high)}")
        falls = [[one.nfe.mean().item() for one in seed] for seed in seeds]
        rises = [max(b - a for a, b in pairwise(one)) for one in falls]
        print(f"NFE falls with speed in {sum(rise < 0 for rise in rises)} of {len(falls)} seeds", end="")
        print(f"; it rises by at most {max(0.0, *rises):.2f} from a speed to the next")
        if study == place:
            gaps = [between(results(folder(args.out, study, seed) / "calibration")) for seed in args.seeds]
            print(f"every second of 17 speeds, minus the line between its neighbours: {told(*over_seeds(gaps))} points")


def between(found: Sequence[tuple[Entry, Sequence[ResultRow]]]) -> Difference:
    """Accuracy of every second speed minus that of the mixture of its neighbours at its NFE, on calibration prompts."""
    each = [outcomes(rows) for _, rows in sorted(found, key=lambda one: one[0].decode.speed or 0.0)]
    gaps = []
    for slower, one, faster in zip(each[:-2:2], each[1:-1:2], each[2::2], strict=True):
        a, own, b = (part.nfe.mean().item() for part in (slower, one, faster))
        share = 0.5 if a == b else min(max((own - b) / (a - b), 0.0), 1.0)
        mixture = share * slower.correct.double() + (1 - share) * faster.correct.double()
        gaps.append((one.correct.double() - mixture).mean(dim=0))
    gap = torch.stack(gaps).mean(dim=0)
    half = t95(len(gap) - 1) * gap.std().item() / math.sqrt(len(gap))
    return Difference(gap.mean().item(), gap.mean().item() - half, gap.mean().item() + half, 0.0, 0.0)


def over_seeds(gaps: Sequence[Difference]) -> tuple[float, float, float]:
    """The mean over training seeds of differences, each at its own NFE, with a 95% interval over prompts and seeds.

    All seeds decode the same prompts: what prompts add is taken as the same for all, and does not shrink with seeds.
    """
    means = torch.tensor([gap.mean for gap in gaps], dtype=torch.float64)
    within = sum((gap.high - gap.low) / 2 for gap in gaps) / len(gaps)
    between = t95(len(gaps) - 1) * means.std().item() / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    mean, half = means.mean().item(), math.hypot(within, between)
    return mean, mean - half, mean + half


def area(points: Sequence[Outcomes], length: int) -> float:
    """`curve_volume` of what was reached."""
    return curve_volume([Point(one.nfe.mean().item(), one.correct.mean().item()) for one in points], length)


def told(mean: float, low: float, high: float, none: str = "no rule is as fast") -> str:
    """A difference in points with its interval and its verdict."""
    if math.isnan(mean):
        return none
    verdict = " (inconclusive)" if low <= 0 <= high else ""
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}){verdict}"


def envelope(args: argparse.Namespace) -> None:
    """Forward passes until one policy covers five that were trained one per alpha, all on the validation prompts."""
    for seed in args.seeds:
        rivals, spent = [], 0
        for alpha in ALPHAS:
            run = args.out / "alpha" / f"{alpha:g}-seed-{seed}"
            if not (run / "best" / "README.md").exists():
                again = ["--resume"] if (run / "config.json").exists() else []
                unmask("train", "--task", "house", "--alpha", alpha, "--seed", seed, "--run", run, *again)
            target = run / "validation"
            again = ["--resume"] if (target / "config.json").exists() else []
            where = ["--split", "validation", "--prompts", 256, "--seeds", 1, "--block-lengths", 32]
            unmask("eval", "--task", "house", "--policies", run, *where, "--output", target, *again)
            one = next(outcomes(rows) for entry, rows in results(target) if entry.kind == "policy")
            rivals.append(Point(one.nfe.mean().item(), one.correct.mean().item(), alpha))
            spent += max(line.get("passes", 0) for line in read_metrics(run / "metrics.jsonl"))
            print(f"alpha {alpha:g}, seed {seed}: {100 * rivals[-1].accuracy:.1f} @ {rivals[-1].nfe:.2f}", flush=True)
        lines, passes, reached = read_metrics(folder(args.out, "house", seed) / "metrics.jsonl"), 0, []
        for line in lines:
            passes = max(passes, line.get("passes", 0))
            if line["stage"] == "validation":
                at = [i / (SPEEDS - 1) for i in range(SPEEDS)]
                points = [Point(line[f"nfe@{speed:.2f}"], line[f"correct@{speed:.2f}"]) for speed in at]
                short = max(one.accuracy - _on_curve(points, one.nfe) for one in rivals)
                reached.append((passes, short, line["reward"]))
        final = max(area for *_, area in reached)
        covered = next((count for count, short, _ in reached if short <= 0), None)
        near = next(count for count, _, area in reached if area >= 0.99 * final)
        share = "never" if covered is None else f"{covered:,} passes, {100 * covered / spent:.0f}% of {spent:,}"
        least = 100 * min(short for _, short, _ in reached)
        print(
            f"seed {seed}: covers all five after {share} (at its best {least:+.1f} points below the farthest); 99% of"
        )
        print(f"its own area after {near:,} passes, {100 * near / passes:.0f}% of its run", flush=True)
        together, best = curve_volume(rivals, 32), max(curve_volume([one], 32) for one in rivals)
        print(
            f"area: {100 * final:.1f}, of the five together {100 * together:.1f}, of the best of them {100 * best:.1f}"
        )


ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)


def _on_curve(points: Sequence[Point], nfe: float) -> float:
    found = accuracy_at(points, nfe)
    return 0.0 if math.isnan(found) else found


def controls(args: argparse.Namespace) -> None:
    """Where the gain comes from: the policy against its pace, what its pace knows of the problem, and an oracle."""
    for study in args.studies:
        (place,) = homes(study)
        gaps: list[list[Difference]] = [[] for _ in range(SPEEDS)]
        informed: list[list[float]] = [[] for _ in range(SPEEDS)]
        oracle = []
        for seed in args.seeds:
            run = folder(args.out, study, seed)
            target = run / "controls"
            again = ["--resume"] if (target / "config.json").exists() else []
            speeds = [f"--speeds={i / (SPEEDS - 1)}" for i in range(SPEEDS)]
            words = ["--policies", run, "--prompts", 200, "--seeds", DRAWS, "--trajectories", 0, "--output", target]
            unmask("eval", *words_of(PLACES[place]), *speeds, *words, *again)
            found = [(entry, rows) for entry, rows in results(target) if entry.kind == "policy"]
            found.sort(key=lambda one: one[0].decode.speed or 0.0)
            for i, (entry, rows) in enumerate(found):
                informed[i].append(information([row["reveals"] for row in rows], int(entry.decode.region())))
            everything = [outcomes(rows) for _, rows in found]
            nfe = torch.stack([one.nfe.where(one.correct.bool(), torch.inf) for one in everything]).amin(dim=(0, 1))
            oracle.append((nfe.isfinite().double().mean().item(), nfe[nfe.isfinite()].double().mean().item()))
            compared = results(run / "comparison")
            for entry, rows in compared:
                if entry.kind == "policy":
                    replay = next(
                        outcomes(other) for one, other in compared if one.kind == "replay" and one.controls(entry)
                    )
                    at = round((entry.decode.speed or 0.0) * (SPEEDS - 1))
                    gaps[at].append(paired_difference_of(outcomes(rows), replay))
        print(f"\n{study}: {len(args.seeds)} training seeds")
        print("| speed | minus a replay of its own pace, points | information of pace on the problem, share of ln L |")
        print("|---|---|---|")
        for i in range(SPEEDS):
            share = sum(informed[i]) / len(informed[i])
            print(f"| {i / (SPEEDS - 1):.2f} | {told(*over_seeds(gaps[i]))} | {share:.3f} |")
        right, passes = (sum(values) / len(oracle) for values in zip(*oracle, strict=True))
        best = f"{100 * right:.1f} @ {passes:.2f}"
        print(f"oracle, the fewest passes with a right answer of {DRAWS * SPEEDS} roll-outs: {best}")


DRAWS = 8


def paired_difference_of(policy: Outcomes, replay: Outcomes) -> Difference:
    """Accuracy of the policy minus that of its replay, paired over prompts."""
    gap = paired_difference(policy.correct, replay.correct)
    return Difference(gap.mean, gap.low, gap.high, 0.0, 0.0)


def information(reveals: Sequence[Sequence[int]], length: int) -> float:
    """Mutual information between a problem and how many positions a step reveals, over ln L, mean over steps.

    Estimated from `DRAWS` roll-outs of each problem (rows by seed, then problem); what problems that are dealt out at
    random would give is taken off, as few draws pretend to know something.

    Args:
        reveals: positions revealed at each step of each roll-out.
        length: of the region, L: a step reveals one of L numbers.
    """
    problems = len(reveals) // DRAWS
    each = [[reveals[seed * problems + i] for seed in range(DRAWS)] for i in range(problems)]
    dealt = random.Random(0).sample(list(reveals), len(reveals))
    mixed = [dealt[i * DRAWS : (i + 1) * DRAWS] for i in range(problems)]
    steps = max(map(len, reveals))
    shares = [sum(len(one) > step for one in reveals) / len(reveals) for step in range(steps)]
    told = [_mutual(each, step) - _mutual(mixed, step) for step in range(steps)]
    return sum(share * one for share, one in zip(shares, told, strict=True)) / sum(shares) / math.log(length)


def _mutual(each: Sequence[Sequence[Sequence[int]]], step: int) -> float:
    """Plug-in estimate in nats; a roll-out that has ended reveals nothing."""
    counts = [Counter(one[step] if step < len(one) else 0 for one in draws) for draws in each]
    return _entropy(sum(counts, Counter())) - sum(map(_entropy, counts)) / len(counts)


def _entropy(counts: Counter[int]) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def promise(args: argparse.Namespace) -> None:
    """Calibrations on a random half of the prompts, 400 at most; on the others the promise is kept or broken."""
    print("| study | seed | drop | promises made | broken, share (95% interval) |\n|---|---|---|---|---|")
    for study in args.studies:
        for seed in args.seeds:
            run = folder(args.out, study, seed)
            policy = load_policy(run)
            assert isinstance(policy, LearnedPolicy)
            found = results(run / "calibration")
            for drop in (0.01, 0.02, 0.05):
                made, broken = calibrations(policy, found, drop)
                count, total = sum(broken), len(broken)
                low, high = 100 * bound(count, total, 0.025, "greater"), 100 * bound(count, total, 0.025, "less")
                interval = f"{100 * count / total:.1f}% ({low:.1f} to {high:.1f})"
                print(f"| {study} | {seed} | {100 * drop:g} | {made} of {total} | {interval} |", flush=True)


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


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "command",
        choices=[one.__name__ for one in (train, bundle, picture, rules, show, domains, envelope, controls, promise)],
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=["house"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--prompts", type=int, default=1000, help="Held-out prompts.")
    parser.add_argument("--calibration-prompts", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1, help="Trainings at once.")
    args = parser.parse_args()
    globals()[args.command](args)


if __name__ == "__main__":
    main()
