"""Rules and policies by family, one line each: docs/leaderboard.md.

python benchmarks/puzzles.py dllms                           the dLLMs of the puzzles
python benchmarks/tuning.py train --studies lists nae-sat    policies, three seeds each; the same for others
python benchmarks/tuning.py rules --studies house lists      rules, their frontiers on held-out prompts
python benchmarks/leaderboard.py                             the page; bundled policies are decoded here

The table of a family that has not been run stays. `--out` is that of benchmarks/tuning.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.curves import results
from benchmarks.studies import PLACES, STUDIES, folder, region
from benchmarks.tuning import decode

from unmask.evaluation.entries import Entry
from unmask.evaluation.intervals import Interval, quantiles, resample, t95
from unmask.evaluation.rows import ResultRow
from unmask.hub import weights_digest
from unmask.pareto import Point, aup, frontier, hypervolume
from unmask.policies.auto import load_policy

DOCS = Path("docs/leaderboard.md")
BUNDLED = {"house": "house-base-full", "ledger": "house-base-both"}  # decoded here where the rules are there
FAMILIES = ("house", "ledger", "lists", "nae-sat", "addition", "sudoku")
DRAWS = 1000
Cells = Sequence[tuple[Entry, Sequence[ResultRow]]]


@dataclass(frozen=True)
class Line:
    """One method in a family.

    Attributes:
        best: its most accurate cell, accuracy and NFE; of a policy the means of its training seeds.
        study: that trains a policy; None of a rule, or of a policy that was made elsewhere.
    """

    name: str
    cells: int
    seeds: int
    aup: Interval
    volume: Interval
    best: Point
    study: str | None = None


def matrix(cells: Cells) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correct, NFE and tokens of each cell (c) and prompt (p)."""
    each = [[[row[name] for row in rows] for _, rows in cells] for name in ("correct", "nfe", "tokens")]
    correct, nfe, tokens = (torch.tensor(values, dtype=torch.float64) for values in each)
    return correct, nfe, tokens


def score(cells: Cells, length: int, top: float) -> tuple[Interval, Interval]:
    """AUP and hypervolume of one method's cells, with 95% intervals over prompts; the frontier is found in each draw.

    Args:
        top: the best accuracy of all methods of the family.
    """
    correct, nfe, tokens = matrix(cells)
    prompts = correct.shape[1]
    weights = torch.cat([torch.ones(1, prompts, dtype=torch.float64), resample(prompts, DRAWS, 0)]) / prompts
    found: list[tuple[float, float]] = []
    right, passes, written = (values @ weights.T for values in (correct, nfe, tokens))
    right = right.clamp(max=1)  # the weights sum to 1 but for a rounding
    for draw in range(len(weights)):
        each = zip(passes[:, draw].tolist(), right[:, draw].tolist(), written[:, draw].tolist(), strict=True)
        points = [Point(*one) for one in each]
        curve = [(point.cell / point.nfe, point.accuracy) for point in frontier(points) if point.cell > 0]
        found.append((aup(curve, best=top) if curve else 0.0, 100 * hypervolume(points, length)))
    (area, volume), draws = found[0], torch.tensor(found[1:], dtype=torch.float64)
    return tuple(Interval(mean, *quantiles(draws[:, i], 0.025, 0.975)) for i, mean in enumerate((area, volume)))  # type: ignore[return-value]


def over_seeds(each: Sequence[Interval]) -> Interval:
    """The mean of training seeds; their t-interval, or the prompts' where that is wider."""
    means = torch.tensor([one.mean for one in each], dtype=torch.float64)
    mean = means.mean().item()
    within = max(max(one.high - one.mean, one.mean - one.low) for one in each)
    between = t95(len(each) - 1) * means.std().item() / len(each) ** 0.5 if len(each) > 1 else 0.0
    return Interval(mean, mean - max(within, between), mean + max(within, between))


def lines(out: Path, place: str, seeds: Sequence[int]) -> list[Line]:
    """Of a family, the best by AUP first; none where nothing has been run."""
    if not (out / "rules" / place).exists():
        return []
    length = region(place)
    rules: dict[str, list[tuple[Entry, Sequence[ResultRow]]]] = {}
    for entry, rows in results(out / "rules" / place):
        rules.setdefault(entry.label, []).append((entry, rows))
    policies: dict[str, list[Cells]] = {}
    names = {folder(out, study, 0).parent.name: study for study in STUDIES}
    added = {path.parts[-4] for path in out.glob(f"*/seed-*/held-out/{place}")} - {
        _bundled(out, place).parts[-4],
        *names,
    }
    studies = [study for study, (home, _) in STUDIES.items() if home == place]
    for study in [*studies, *sorted(added)]:
        for seed in seeds:
            path = folder(out, study, seed) / "held-out" / place
            if path.exists():
                policies.setdefault(study, []).append([one for one in results(path) if one[0].kind == "policy"])
    if place in BUNDLED and (bundled := _bundled(out, place)).exists():
        own = load_policy(BUNDLED[place]).weights()
        now = None if own is None else weights_digest(own)  # rows of earlier weights may lie there, too
        policies[f"{place}, bundled"] = [[one for one in results(bundled) if one[0].weights == now]]
    every = [*rules.values(), *(cells for each in policies.values() for cells in each)]
    top = max(sum(row["correct"] for row in rows) / len(rows) for cells in every for _, rows in cells)
    found = []
    for label, cells in rules.items():
        area, volume = score(cells, length, top)
        found.append(Line(label, len(cells), 1, area, volume, _best([cells])))
    for study, each in policies.items():
        scores = [score(cells, length, top) for cells in each]
        area, volume = (over_seeds([one[i] for one in scores]) for i in range(2))
        differs = f", {study}" if study in added else study.removeprefix(place)  # "" of the place's own study
        name, trained = f"policy of every speed{differs}", study if study in STUDIES else None
        found.append(Line(f"**{name}**", len(each[0]), len(each), area, volume, _best(each), trained))
    return sorted(found, key=lambda line: -line.aup.mean)


def _bundled(out: Path, place: str) -> Path:
    return folder(out, f"{place}, bundled", 0) / "held-out" / place


def _best(seeds: Sequence[Cells]) -> Point:
    """By the means of training seeds, cell by cell."""
    correct, nfe, _ = (torch.stack(values).mean(dim=0) for values in zip(*map(matrix, seeds), strict=True))
    points = [Point(n, a) for n, a in zip(nfe.mean(dim=1).tolist(), correct.mean(dim=1).tolist(), strict=True)]
    return max(points, key=lambda point: (point.accuracy, -point.nfe))


def told(one: Interval) -> str:
    """With its interval."""
    return f"{one.mean:.1f} ({one.low:.1f} to {one.high:.1f})"


def table(place: str, found: Sequence[Line], prompts: int) -> str:
    """A family as Markdown."""
    model, task = PLACES[place].get("model", "house-base"), PLACES[place]["task"]
    head = f"## {place}\n\ndLLM `{model}`, task `{task}`, {prompts} held-out prompts, region {region(place)}.\n\n"
    head += "| method | AUP | hypervolume, % | most accurate, % @ NFE | settings | seeds |\n|---|---|---|---|---|---|\n"
    rows = [
        f"| {line.name} | {told(line.aup)} | {told(line.volume)} "
        f"| {100 * line.best.accuracy:.1f} @ {line.best.nfe:.2f} | {line.cells} | {line.seeds} |"
        for line in found
    ]
    studies = [line.study for line in found if line.study is not None]
    commands = "\n".join(f'python benchmarks/tuning.py train --studies "{study}"' for study in studies)
    run = f"python benchmarks/tuning.py rules --studies {place}\n{commands}".strip()
    return f"{head}{chr(10).join(rows)}\n\n```\n{run}\n```\n"


ABOUT = """# Leaderboard

Rules and policies by family, made by `python benchmarks/leaderboard.py` from results that the commands below each table
make (`addition` and `sudoku` need `python benchmarks/puzzles.py dllms` first). *Settings*: of a rule those on the
frontier of its whole grid, chosen on other prompts; of a policy, which is one network, its eight speeds. Methods are
sorted by AUP. Where intervals overlap, the order is inconclusive.

- **AUP** (accuracy under parallelism, arXiv 2601.07568): tokens per forward pass, weighted by how near the accuracy is
  to the best of the family.
- **Hypervolume**: the area under the frontier, from NFE 0 to the region's length.
- **bundled**: the policy that comes with the package, `house-base-full` on `house` and `house-base-both` on `ledger`.
  This command decodes the prompts with it.
- Intervals are 95%, over prompts by bootstrap; of several training seeds, over seeds where that is wider.

## Add your own

- **A rule**: one file in `src/unmask/policies` with a `grid` ([write a rule](howto/your-rule.md)). `tuning.py rules`
  finds it.
- **A policy**: a line in `STUDIES` of `benchmarks/studies.py` that trains it, or its decoded prompts in
  `runs/tuning/NAME/seed-0/held-out/PLACE`, as `unmask eval --policies FOLDER --speeds ... --output ...` writes them;
  `NAME` is how the table calls it. Take as many prompts as the family has: 1,000, of `--seeds 1`.
- **A dLLM**: a line in `PLACES` of `benchmarks/studies.py` with its folder or Hub id and its task ([your
  dLLM](howto/your-model.md)), then `tuning.py rules --studies PLACE` and `leaderboard.py --families PLACE`.
"""


def merged(tables: Mapping[str, str], page: str) -> str:
    """The page anew, with its tables of families that are not among these."""
    old = {part.partition("\n")[0].strip(): f"## {part}" for part in page.split("\n## ")[1:]}
    others = [place for place in (*old, *tables) if place in PLACES]
    kept = {place: tables.get(place, old.get(place)) for place in (*FAMILIES, *others)}
    return f"{ABOUT}\n{chr(10).join(f'{text.rstrip()}{chr(10)}' for text in kept.values() if text)}"


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--families", nargs="+", choices=list(PLACES), default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--print", action="store_true", help="Print the tables, and leave the page as it is.")
    args = parser.parse_args()
    tables = {}
    for place in args.families:
        if place in BUNDLED and (args.out / "rules" / place).exists():
            prompts = len(results(args.out / "rules" / place)[0][1])
            decode(argparse.Namespace(prompts=prompts), Path(BUNDLED[place]), place, _bundled(args.out, place))
        found = lines(args.out, place, args.seeds)
        if found:
            prompts = len(results(args.out / "rules" / place)[0][1])
            tables[place] = table(place, found, prompts)
            print(tables[place], flush=True)
    if not args.print:
        DOCS.write_text(merged(tables, DOCS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
