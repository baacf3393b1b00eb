"""One policy for house and all puzzles, beside those of each; puzzles.py makes the dLLMs, tuning.py policies of each.

python benchmarks/mixture.py train                     three seeds, each cloned from the policies of its seed
python benchmarks/mixture.py elsewhere                 the policies of each, and those of all, on house and every puzzle
python benchmarks/mixture.py speeds                    those of all beside the native ones at equal passes
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.curves import against, nfe_of, spread, told
from benchmarks.puzzles import HOUSE, SPEEDS, Setting, made, main, region, run, setting
from benchmarks.studies import SPEEDS as KNOBS
from benchmarks.studies import folder, unmask

from unmask.evaluation.differences import Outcomes
from unmask.policies.auto import load_policy

MIXED = ("house", "lists", "nae-sat", "addition")  # as configs/train/all.toml has them


def train(args: argparse.Namespace) -> None:
    """Train the policies of all, each cloned from those of its seed."""

    def one(seed: int) -> None:
        target = folder(args.out, "all", seed)
        teachers = [folder(args.out, place, seed) for place in MIXED]
        teachers[0] = teachers[0] if (teachers[0] / "best").exists() else Path(HOUSE)
        again = ["--resume"] if (target / "config.json").exists() else []
        if not (target / "best" / "README.md").exists():
            words = [f"--clone.teachers={teacher}" for teacher in teachers]
            unmask("train", "--config", "configs/train/all.toml", *words, "--run", target, "--seed", seed, *again)
        print(f"all, seed {seed}: done", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, args.seeds))


def elsewhere(args: argparse.Namespace) -> None:
    """Each place's policies on every puzzle; and those of all, trained in turns."""
    sources = [*args.places, "house", "all"]
    print("| policy trained on | decoding | speed | accuracy % @ NFE over seeds |\n|---|---|---|---|")
    for place in ("house", *args.places):
        one = setting(place, args.prompts)
        if one is None:
            continue
        for source in sources:
            runs = made(args, source)
            for speed in SPEEDS:
                found = [run(one, load_policy(path), region(one, speed=speed), costs=False) for path in runs.values()]
                if found:
                    right = spread([each.correct.double().mean().item() for each in found])
                    nfe = sum(each.nfe.double().mean().item() for each in found) / len(found)
                    print(f"| {source} | {place} | {speed:g} | {right} @ {nfe:.2f} |", flush=True)


def speeds(args: argparse.Namespace) -> None:
    """At the passes of each speed of the native policies; of house, the bundled one if none was trained."""
    print("| decoding | speed | all: accuracy % @ NFE | difference to native at this NFE, points |\n|---|---|---|---|")
    for place in [place for place in MIXED if place in ("house", *args.places)]:
        one = setting(place, args.prompts)
        if one is None:
            continue
        mixed, native = ([curve(one, path) for path in made(args, source).values()] for source in ("all", place))
        native = native * len(mixed) if len(native) == 1 else native
        if not mixed or len(mixed) != len(native):
            print(f"{place}: {len(mixed)} policies of all, {len(native)} native ones", file=sys.stderr)
            continue
        for i, nfe in enumerate(nfe_of(native)):
            reached, gap = against(mixed, native, nfe, hull=True)
            right = sum(each[i].correct.mean().item() for each in native) / len(native)
            told_of = told(*gap, none=f"native {100 * right:.1f}")  # where all speeds are alike
            print(f"| {place} | {i / (KNOBS - 1):.2f} | {reached} | {told_of} |", flush=True)


def curve(one: Setting, policy: Path) -> list[Outcomes]:
    """At every speed."""
    found = [run(one, load_policy(policy), region(one, speed=i / (KNOBS - 1)), costs=False) for i in range(KNOBS)]
    return [Outcomes(each.correct[None].float(), each.nfe[None].float()) for each in found]


if __name__ == "__main__":
    main(__doc__, train, elsewhere, speeds)
