"""Everything that this project claims, from scratch, in parts; each goes on where it was stopped.

python benchmarks/everything.py                      all of it: `make reproduce`
python benchmarks/everything.py --parts puzzles      one part: `make puzzles`; `--parts seeds`: `make seeds`
python benchmarks/everything.py --times              what each step has taken so far

Tables are kept in runs/everything. A step that is done is not done again; to do it again, delete its .json there.
Trainings log their own time, so that one made by another command, or by a step that was killed, counts as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.puzzles import PUZZLES
from benchmarks.studies import PUZZLE_BLOCKS, SEEDS, folder, logged

from unmask.cli.console import duration
from unmask.files import write_text

KEPT = Path("runs/everything")
EVERY_SPEED = ("house", "house-blocks", "ledger", "block-causal")
DLLMS = (*PUZZLES, "lists-small")
OF_PUZZLES = (
    *PUZZLES,
    "lists-small",
    "lists, bernoulli",
    "nae-sat, dpls",
    *(f"{place}, blind" for place in (*PUZZLES, "house")),
)


PROMPTS = {"bounds": 500, "ceilings": 400, "twice": 300, "state": 200}  # as docs/puzzles.md has them


@dataclass(frozen=True)
class Step:
    """A command of this folder; what it prints is kept.

    Attributes:
        trainings: folders that it makes, below runs/.
    """

    name: str
    script: str
    words: Sequence[str]
    trainings: Sequence[str] = ()

    @property
    def command(self) -> list[str]:
        """With the interpreter."""
        return [sys.executable, f"benchmarks/{self.script}.py", *self.words]

    def trained(self) -> tuple[int, float]:
        """How many trainings there are, and the seconds of one core that they took as logged."""
        made = [path for pattern in self.trainings for path in Path("runs").glob(pattern)]
        took = [seconds for path in made if (seconds := logged(path)) > 0]
        return len(took), sum(took)


def tuned(*studies: str) -> list[str]:
    """Where `benchmarks/tuning.py` trains them."""
    return [str(folder(Path("tuning"), study, seed)) for study in studies for seed in SEEDS]


def parts(jobs: int) -> dict[str, list[Step]]:
    """The steps in their order.

    Args:
        jobs: trainings at once.
    """
    at_once = ["--jobs", str(jobs)]
    return {
        "claims": [Step("claims", "reproduce", at_once, ["training/*/*/seed-*"])],
        "seeds": [
            Step("policies", "tuning", ["train", "--studies", *EVERY_SPEED, *at_once], tuned(*EVERY_SPEED)),
            Step("both", "tuning", ["train", "--studies", "both", *at_once], tuned("both")),  # cloned from those
            Step("rules", "tuning", ["rules", "--studies", *EVERY_SPEED]),
            Step("every-speed", "tuning", ["show", "--studies", *EVERY_SPEED, "both"]),
            Step("domains", "origins", ["domains"]),
            Step("promises", "tuning", ["promise", "--studies", *EVERY_SPEED]),
        ],
        "puzzles": [
            Step("dllms", "puzzles", ["dllms", "--places", *DLLMS, *at_once], DLLMS),
            Step("puzzle-policies", "tuning", ["train", "--studies", *OF_PUZZLES, *at_once], tuned(*OF_PUZZLES)),
            Step("puzzle-rules", "tuning", ["rules", "--studies", "house", "ledger", *PUZZLE_BLOCKS]),
            Step("mixture", "mixture", ["train", *at_once], tuned("all")),
            Step("puzzle-tables", "tuning", ["show", "--studies", *PUZZLES]),
            *(Step(name, "puzzles", [name, "--prompts", str(n)]) for name, n in PROMPTS.items()),
            *(Step(name, "mixture", [name, "--prompts", "300"]) for name in ("elsewhere", "speeds")),
            Step("overlap", "overlap", []),
            Step("puzzle-claims", "puzzle_claims", []),
            Step("leaderboard", "leaderboard", []),
        ],
    }


def run(step: Step) -> None:
    """Do it, unless it is done; what it prints is shown and kept, its time adds up over stops.

    Raises:
        SystemExit: it failed, or was stopped.
    """
    record = KEPT / f"{step.name}.json"
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if before.get("done"):
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    print(f"{step.name}: {' '.join(step.command[1:])}", flush=True)
    started, code = time.monotonic(), 1
    try:
        with (KEPT / f"{step.name}.txt").open("w", encoding="utf-8") as kept:
            with subprocess.Popen(step.command, stdout=subprocess.PIPE, encoding="utf-8") as running:
                for line in running.stdout or ():
                    print(line, end="", flush=True)
                    print(line, end="", file=kept, flush=True)
            code = running.returncode
    finally:
        seconds = time.monotonic() - started + before.get("seconds", 0.0)
        write_text(record, json.dumps({"seconds": seconds, "done": code == 0}) + "\n")
    if code:
        raise SystemExit(f"{step.name} failed; the same command goes on there. What it printed: {KEPT}/{step.name}.txt")
    print(f"{step.name}: {duration(seconds)}", flush=True)


def times(steps: Sequence[Step], jobs: int) -> None:
    """What each step has taken, and all together: its own time, or that of its trainings if they took longer."""
    total = 0.0
    for step in steps:
        record = KEPT / f"{step.name}.json"
        found = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"seconds": 0.0, "done": False}
        count, seconds = step.trained()
        took = max(found["seconds"], seconds / jobs)
        total += took
        made = f"  {count} trainings, {duration(seconds)} of one core" if count else ""
        print(f"{step.name:16} {duration(took):>9}{made}{'' if found['done'] else '  (not done)'}")
    print(f"{'all':16} {duration(total):>9}")


def main() -> None:
    """Run the parts, then say how long they took."""
    known = parts(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--jobs", type=int, default=2, help="Trainings at once.")
    parser.add_argument("--times", action="store_true", help="Only say how long it has taken.")
    args = parser.parse_args()
    steps = [step for name in args.parts for step in parts(args.jobs)[name]]
    for step in () if args.times else steps:
        run(step)
    times(steps, args.jobs)


if __name__ == "__main__":
    main()
