"""Where the gain of one policy for every speed comes from. After `python benchmarks/tuning.py train` of the studies.

python benchmarks/origins.py ablations --studies house     trainings that differ in one thing, beside the one as it is
python benchmarks/origins.py controls --studies house      replay of its pace, information, oracle
python benchmarks/origins.py domains                       on the other task, trained on both, at twice the length
python benchmarks/origins.py envelope                      forward passes against those of a policy per alpha
python benchmarks/origins.py longer --prompts 300          as they are at twice the length, after `tuning.py rules`
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.curves import against, area, curves, nfe_of, over_seeds, point, points_of, results, rivals, spread, told
from benchmarks.studies import PLACES, SPEEDS, STUDIES, folder, homes
from benchmarks.tuning import decode, evaluated, main, unmask

from unmask.evaluation.differences import Difference, Outcomes, paired_difference
from unmask.evaluation.summaries import outcomes
from unmask.journal import Journal
from unmask.pareto import Point, accuracy_at, curve_volume, frontier
from unmask.rl.run import read_metrics


def ablations(args: argparse.Namespace) -> None:
    """Trainings that differ in one thing, against the one as it is: at the NFE of three of its speeds, and in area."""
    for place in args.studies:
        seeds = curves(args, place, place)
        at = [nfe_of(seeds)[i] for i in PARTS]
        print(f"\n| {place} | area | difference | " + "".join(f"at {nfe:.1f} passes | " for nfe in at))
        print("|---|---|---|" + "---|" * len(at))
        length = int(PLACES[place].get("gen-length", 32))
        whole = [area(one, length) for one in seeds]
        reached = [against(seeds, seeds, nfe, hull=False)[0] for nfe in at]
        print(f"| as it is, {len(seeds)} seeds | {spread(whole)} | | {' | '.join(reached)} |")
        for study in (one for one, (home, flags) in STUDIES.items() if home == place and flags):
            rows = Path("held-out", place, "rows.jsonl")
            other = [seed for seed in args.seeds if (folder(args.out, study, seed) / rows).exists()]
            if not other:
                continue
            ablated = curves(argparse.Namespace(**{**vars(args), "seeds": other}), study, place)
            own = [seeds[args.seeds.index(seed)] for seed in other]
            areas = [area(one, length) for one in ablated]
            gap = torch.tensor([one - area(each, length) for one, each in zip(areas, own, strict=True)])
            found = []
            for nfe in at:
                found.append(told(*against(ablated, own, nfe, hull=False)[1], none="not as fast"))
            name = f"{study.removeprefix(place + ', ')}, {len(other)} seed{'s' * (len(other) > 1)}"
            print(f"| {name} | {spread(areas)} | {spread(gap.tolist())} | {' | '.join(found)} |", flush=True)


PARTS = (2, 4, 7)


def domains(args: argparse.Namespace) -> None:
    """Each policy on the task of the other, and that of both tasks on each, against the policy trained there."""
    print("| policy | on | speed | accuracy % @ NFE | difference to the native one at this NFE, points |")
    print("|---|---|---|---|---|")
    mixtures = [(study, place) for study, (of, _) in STUDIES.items() if of == "both" for place in homes(study)]
    for study, place in (("house", "ledger"), ("ledger", "house"), *mixtures, *LONGER):
        runs = [folder(args.out, one, seed) for one in (study, place) for seed in args.seeds]
        if not all((run / "tuned.json").exists() for run in runs):
            print(f"| {study} | {place} | not trained | | |")
            continue
        for seed in args.seeds:
            run = folder(args.out, study, seed)
            decode(args, run, place, run / "held-out" / place)
        seeds, native = curves(args, study, place), curves(args, place, place)
        for i, nfe in enumerate(nfe_of(seeds)):
            reached, gap = against(seeds, native, nfe, hull=False)
            difference = told(*gap, none="the native one is never as fast")
            print(f"| {study} | {place} | {i / (SPEEDS - 1):.2f} | {reached} | {difference} |", flush=True)


LONGER = (("house", "twice"),)


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
        run = folder(args.out, "house", seed)
        lines, passes, reached = read_metrics(run / "metrics.jsonl"), 0, []
        search = sum(sum(row["nfe"]) for row in Journal(run / "search.jsonl").rows())
        shared = search if max(line["passes"] for line in lines if line["stage"] == "clone") < search else 0
        for line in lines:
            passes = max(passes, line.get("passes", 0) + shared)  # of a search that another seed has paid for, too
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
        print(f"seed {seed}: covers all five after {share} (the farthest is {least:+.1f} points above its curve)")
        print(f"99% of its own area after {near:,} passes, {100 * near / passes:.0f}% of its run", flush=True)
        together, best = curve_volume(rivals, 32), max(curve_volume([one], 32) for one in rivals)
        print(
            f"area: {100 * final:.1f}, of the five together {100 * together:.1f}, of the best of them {100 * best:.1f}"
        )


def longer(args: argparse.Namespace) -> None:
    """The policies of `house` as they are, on longer prompts in a region of twice the length, against all rules there.

    After `python benchmarks/tuning.py rules --studies twice` with the same number of prompts.
    """
    for seed in args.seeds:
        run = folder(args.out, "house", seed)
        decode(args, run, "twice", run / "held-out" / "twice")
    seeds, cells = curves(args, "house", "twice"), rivals(args, "twice")
    prompts = cells[0].correct.shape[1]
    print(f"house at twice the length: {len(seeds)} training seeds, {prompts} prompts, {len(cells)} cells of rules")
    print("| speed | accuracy % @ NFE | difference at this NFE, points | each seed |\n|---|---|---|---|")
    for i, nfe in enumerate(nfe_of(seeds)):
        reached, gap = against(seeds, [cells] * len(seeds), nfe, hull=True)
        alone = ", ".join(map(point, (one[i] for one in seeds)))
        print(f"| {i / (SPEEDS - 1):.2f} | {reached} | {told(*gap, none='no rule is as fast')} | {alone} |", flush=True)
    best = (f"{100 * one.accuracy:.1f} @ {one.nfe:.2f}" for one in frontier(points_of(cells)))
    print(f"the rules' frontier: {', '.join(best)}")


ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)


def _on_curve(points: Sequence[Point], nfe: float) -> float:
    found = accuracy_at(points, nfe)
    return 0.0 if math.isnan(found) else found


def controls(args: argparse.Namespace) -> None:
    """The policy against its pace, what its pace knows of the problem, and an oracle."""
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
            unmask("eval", *evaluated(place), *speeds, *words, *again)
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


if __name__ == "__main__":
    main(__doc__, ablations, controls, domains, envelope, longer)
