"""The paper's claims, one by one, on the bundled dLLMs (arXiv 2512.09106).

    python benchmarks/reproduce.py --jobs 2     # trains, sweeps, transfers; can be stopped; writes docs/reproduction.md
    python benchmarks/reproduce.py --show       # the page anew from what is there

The bundled dLLM stands for LLaDA, `house` for GSM8K, `ledger` for a second domain, a region of 32 for one of 256, blocks of 8
for blocks of 32. Policies are those of benchmarks/paper.py, three training seeds each; intervals are over prompts and
training seeds (`unmask.evaluation.intervals.bootstrap`).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.claims import BLOCKS, FULL, Claim, Evidence, claims
from benchmarks.paper import ALPHAS, clone_of, command, folder, options, run
from benchmarks.puzzle_claims import HEAD
from benchmarks.studies import SEEDS, logged, unmask
from benchmarks.verdicts import VERDICTS

STUDIES = ("alpha", "semi", "full", "ablations", "hacking", "elsewhere")
DOCS = Path("docs/reproduction.md")


def run_all(out: Path, jobs: int) -> None:
    """Everything that is missing; what does not need each other side by side."""
    run(out, STUDIES, SEEDS, jobs)
    place = out / "reproduction"
    write(place / "policies.toml", sweep_of(out))
    write(place / "transfer.toml", transfer_of(out))
    write(place / "twice.toml", f'[[rules]]\npolicy = "confidence_threshold"\nblock_lengths = [64, {BLOCKS}]\n')
    plain = ["--prompts=500", "--seeds=1"]
    todo = [
        ("sweep", place / "twice", f"--config={place / 'twice.toml'}", "--gen-length=64", *plain),
        ("sweep", place / "ledger", "--task=ledger", *plain, *options({"block-lengths": (FULL, BLOCKS)})),
        ("sweep", place / "policies", f"--config={place / 'policies.toml'}", *plain),
        ("transfer", place / "transfer", f"--config={place / 'transfer.toml'}", "--prompts=500"),
    ]
    with ThreadPoolExecutor(jobs) as pool:
        for job in [pool.submit(command, *one) for one in todo]:
            job.result()
    training = [str(folder(out, "alpha", f"scaled, alpha {a:g}", s)) for a in ALPHAS for s in SEEDS]
    given = [str(out / "rules"), str(place / "policies"), str(place / "transfer"), *training]
    unmask("report", *given, f"--output={place / 'report.html'}", "--figures")


def write(path: Path, text: str) -> None:
    """A config beside what it makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def sweep_of(out: Path) -> str:
    """Seed 0 of each alpha, in the blocks that it was trained for, with its clone; the rules are there."""
    text = ""
    for study, name, length in (("alpha", "scaled", FULL), ("semi", "warm start", BLOCKS)):
        flags = {"block-length": BLOCKS} if length == BLOCKS else {}
        learned = [folder(out, study, f"{name}, alpha {a:g}", 0) / "best" for a in ALPHAS]
        for path in learned:
            text += f'\n[[rules]]\npolicy = "{path}"\nblock_lengths = [{length}]\n'
        text += f'\n[[rules]]\npolicy = "{clone_of(out, flags, 0) / "best"}"\nlabel = "cloned"\nblock_lengths = [{length}]\n'
    return text


def transfer_of(out: Path) -> str:
    """Policies and targets; three training seeds each."""

    def seeds(study: str, name: str) -> str:
        return json.dumps([str(folder(out, study, name, s) / "best") for s in SEEDS])

    studies = {"blocks": ("semi", "warm start"), "full": ("alpha", "scaled")}
    text = "[policies]\n"
    for where, (study, name) in studies.items():
        for alpha in (1, 10):
            text += f'"{where}, alpha {alpha}" = {seeds(study, f"{name}, alpha {alpha}")}\n'
        text += f'"both domains, {where}" = {seeds("elsewhere", f"both domains, {where}, alpha 1")}\n'
    targets = [
        (f"house-small, {w}, alpha {a}", w, f"{w}, alpha {a}", f"house-small, {w}, alpha {a}", 'model = "house-small"')
        for w in studies
        for a in (1, 10)
    ]
    targets += [(f"length 64, {w}", w, f"{w}, alpha 1", f"length 64, {w}, alpha 1", "gen_length = 64") for w in studies]
    targets += [
        (f"ledger, {w}", w, f'{w}, alpha 1", "both domains, {w}', f"ledger, {w}, alpha 1", 'task = "ledger"')
        for w in studies
    ]
    for target, where, tried, native, place in targets:
        block = f"block_length = {BLOCKS}\n" if where == "blocks" else ""
        text += f'\n[[targets]]\nname = "{target}"\n{place}\n{block}policies = ["{tried}"]\nnative = {seeds("elsewhere", native)}\n'
    return text


def page(found: Sequence[Claim], out: Path) -> str:
    """docs/reproduction.md."""
    count = ", ".join(f"{v} {sum(c.verdict == v for c in found)}" for v in VERDICTS)
    lines = "\n\n".join(
        f"**{n}. {c.paper}.**\n{c.verdict.capitalize()}. Here: {c.ours.replace('; ', ';' + chr(10))}."
        for n, c in enumerate(found, 1)
    )
    hours = sum(logged(run) for run in out.glob("*/*/seed-*") if run.parts[-3] in STUDIES) / 3600
    return f"""# The paper's claims, one by one

`benchmarks/reproduce.py`, the first part of `make reproduce`, trains, sweeps and transfers everything down to the picture from
scratch and writes it; it can be stopped and goes on where it was. On two cores it takes about {math.ceil(hours / 2)} hours (training: {hours:.1f}
core-hours, as logged).

The claims are those of "Learning Unmasking Policies for Diffusion Language Models" (arXiv 2512.09106), reported for LLaDA-8B
on GSM8K, MATH-500 and code with a region of 256. Here the bundled dLLM of 0.6M weights stands for LLaDA and `house-small` for
Dream, the task `house` for GSM8K, `ledger` for a second domain, a region of 32 for 256, blocks of 8 for 32: whether a claim's
*shape* carries over can be seen here, its numbers cannot. Accuracy in percent @ NFE; every policy is three training seeds on 500
held-out prompts, and intervals (95%) are over prompts and training seeds. Rules are over their whole grids.

Unless a claim names another way, policies start from a clone and divide advantages by the batch's deviation; the paper does
neither.

Of {len(found)} claims: {count}.

{lines}

![Accuracy against forward passes: every rule over its grid, learned policies, their clones and replays](images/reproduction.png)

What decides is the interval of a difference; what it does not settle is inconclusive. A policy is above a rule if it lies above
0, or if no cell of the rule is as fast and even its fastest is less accurate; several rules together are read as the best mixture
of any two cells. Close, or hardly any loss: it lies above -5 points, and does not hold if it lies below. Clear loss: it lies below
0, and does not hold if it lies above -5 points; mended: the interval of the one lies above that of the other. About the same: it
lies within five points, and does not hold if it lies beside 0. Ablations are judged by the difference in reward, with 0.05 in place
of five points: no gain, if it lies below that. A claim of several cases is judged by the worst.
The additive reward has collapsed below 5% accuracy. A cell is as good as the baseline within half a point, and beats it with 5%
fewer NFE. Alphas are one policy if their NFE are within a half; two of three are a part. The code is `benchmarks/claims.py`.
"""


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/training"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="only write the page")
    args = parser.parse_args()
    if not args.show:
        run_all(args.output, args.jobs)
    found = claims(Evidence(args.output))
    _, head, puzzles = DOCS.read_text(encoding="utf-8").partition(f"\n{HEAD}")  # of benchmarks/puzzle_claims.py
    DOCS.write_text(f"{page(found, args.output)}{head}{puzzles}", encoding="utf-8")
    figure = args.output / "reproduction" / "report.png"
    if figure.exists():
        shutil.copy(figure, DOCS.parent / "images" / "reproduction.png")
    for number, claim in enumerate(found, 1):
        print(f"{number}. {claim.verdict}: {claim.paper}\n   {claim.ours}")


if __name__ == "__main__":
    main()
