"""The paper's claims, one by one, on the bundled dLLMs (arXiv 2512.09106).

    python benchmarks/reproduce.py --jobs 2     # trains, sweeps, transfers; can be stopped; writes docs/reproduction.md
    python benchmarks/reproduce.py --show       # the page anew from what is there

The bundled dLLM stands for LLaDA, `house` for GSM8K, `ledger` for a second domain, a region of 32 for one of 256, blocks of 8
for blocks of 32. Policies are those of benchmarks/training.py, three training seeds each; intervals are over prompts and
training seeds (`unmask.evaluation.intervals.bootstrap`).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.training import ALPHAS, SEEDS, clone_of, command, folder, options, read_metrics, rows_of, run, unmask

from unmask.evaluation.cells import Cell
from unmask.evaluation.gather import read_results
from unmask.evaluation.intervals import Interval
from unmask.evaluation.pareto import Difference, Outcomes, accuracy_at, frontier, paired_bootstrap, paired_difference
from unmask.evaluation.pareto import Point as ParetoPoint
from unmask.evaluation.summaries import outcomes, summary

STUDIES = ("alpha", "semi", "full", "ablations", "hacking", "elsewhere")
DOCS = Path("docs/reproduction.md")
FULL, BLOCKS = 32, 8

HOLDS, FAILS, PARTLY = "holds", "does not hold", "holds in part"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper beside what was found here.

    Attributes:
        paper: the claim with its numbers.
        ours: the same of the bundled dLLM.
        verdict: `HOLDS`, `FAILS` or `PARTLY`, by a rule that stands in the code.
    """

    paper: str
    ours: str
    verdict: str


class Evidence:
    """Everything that was run."""

    def __init__(self, out: Path) -> None:
        self.out = out
        place = out / "reproduction"
        self.house = read_results([out / "rules"])
        self.ledger = read_results([place / "ledger"])
        self.twice = read_results([place / "twice"])
        transfers = json.loads((place / "transfer" / "transfer.json").read_text(encoding="utf-8"))["transfers"]
        self.transfers = {(one["target"], one["policy"]): one for one in transfers}

    def policy(self, study: str, name: str) -> Outcomes:
        """A policy's training seeds, on the prompts of its own evaluation."""
        found = [outcomes(rows_of(folder(self.out, study, name, s) / "eval" / "rows.jsonl")) for s in SEEDS]
        return Outcomes(torch.cat([one.correct for one in found]), torch.cat([one.nfe for one in found]))

    def stopped(self, study: str, name: str) -> int:
        """Seeds whose training stopped because it had collapsed."""
        lines = [read_metrics(folder(self.out, study, name, s) / "metrics.jsonl") for s in SEEDS]
        return sum(any(line["stage"] == "collapse" for line in one) for one in lines)


def rules(results: Sequence[tuple[Cell, Any]], keep: Callable[[Cell], bool]) -> list[tuple[Cell, Outcomes]]:
    """Outcomes of the rules' cells."""
    return [
        (cell, outcomes(rows))
        for cell, rows in results
        if cell.label not in ("policy", "cloned", "replay") and keep(cell)
    ]


def at(found: Outcomes) -> str:
    """``95.3% (93.7 to 96.8) @ 6.2``."""
    accuracy, nfe = summary(found)
    return f"{percent(accuracy)} @ {nfe.mean:.1f}"


def percent(one: Interval) -> str:
    """With its interval."""
    return f"{100 * one.mean:.1f}% ({100 * one.low:.1f} to {100 * one.high:.1f})"


def gap(one: Interval | Difference) -> str:
    """In points."""
    return f"{100 * one.mean:+.1f} points ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def mean(found: Outcomes) -> tuple[float, float]:
    """NFE and accuracy."""
    return found.nfe.mean().item(), found.correct.mean().item()


def most_accurate(cells: Sequence[tuple[Cell, Outcomes]]) -> tuple[Cell, Outcomes]:
    """The faster one on a tie."""
    return max(cells, key=lambda one: (mean(one[1])[1], -mean(one[1])[0]))


def beside(policy: Outcomes, cells: Sequence[tuple[Cell, Outcomes]], name: str) -> tuple[str, float]:
    """The policy against rules at its NFE: in words, and the lower end of the difference in points (NaN: none so fast)."""
    cells = _best_of_each(cells)
    mixed = len({cell.label for cell, _ in cells}) > 1  # several rules: the best mixture of any two cells
    found = paired_bootstrap(policy, [one for _, one in cells], hull=mixed)
    if math.isnan(found.mean):
        fastest = min((one for _, one in cells), key=lambda one: mean(one)[0])
        return f"no {name} is so fast (the fastest: {at(fastest)})", math.nan
    nfe = mean(policy)[0]
    level = accuracy_at([ParetoPoint(*mean(one)) for _, one in cells], nfe, hull=mixed)
    return f"{name} {100 * level:.1f}% there, {gap(found)}", 100 * found.low


def _best_of_each(cells: Sequence[tuple[Cell, Outcomes]]) -> list[tuple[Cell, Outcomes]]:
    """The cells on their own rule's frontier."""
    best = []
    for label in dict.fromkeys(cell.label for cell, _ in cells):
        points = [ParetoPoint(*mean(one), (cell, one)) for cell, one in cells if cell.label == label]
        best += [point.cell for point in frontier(points)]
    return best


def claims(e: Evidence) -> list[Claim]:
    """All of METHOD's section 7, in its order, then the limits that the authors name."""
    return [
        *in_blocks(e),
        *in_full(e),
        *elsewhere(e),
        *ablations(e),
        *honest(e),
        *limits(e),
    ]


def in_blocks(e: Evidence) -> list[Claim]:
    """Semi-autoregressive decoding."""
    found = []
    for task, results, policy, paper in (
        (
            "house",
            e.house,
            e.policy("semi", "warm start, alpha 10"),
            "GSM8K, BL 32, alpha 10: 35.2 ± 0.3 @ 10.3, threshold 17.5 @ 10.6",
        ),
        (
            "ledger",
            e.ledger,
            e.policy("elsewhere", "ledger, blocks, alpha 10"),
            "MATH-500, BL 32, alpha 10: 15.3 ± 0.2, threshold 7.4",
        ),
    ):
        threshold = rules(results, lambda c: c.label == "threshold" and c.block_length == BLOCKS)
        words, low = beside(policy, threshold, "threshold")
        wider, _ = beside(policy, rules(results, lambda c: True), "any rule in any blocks")
        fastest = min((one for _, one in threshold), key=lambda one: mean(one)[0])
        above = low > 0 or (math.isnan(low) and mean(policy)[1] > mean(fastest)[1])
        found.append(
            Claim(
                f"{paper}: the policy is well above the threshold where speed matters most",
                f"{task}, blocks of 8, alpha 10: {at(policy)}; {words}; not in the claim: {wider}",
                HOLDS if above else FAILS,
            )
        )
    middle = e.policy("semi", "warm start, alpha 0.3")
    threshold = rules(e.house, lambda c: c.label == "threshold" and c.block_length == BLOCKS)
    plain = rules(e.house, lambda c: c.label in ("random", "top-k") and c.block_length == BLOCKS)
    words, low = beside(middle, threshold, "threshold")
    others, far = beside(middle, plain, "random or top-K")
    same = not math.isnan(low) and low <= 0
    found.append(
        Claim(
            "GSM8K, BL 32, middle of the curve: about 80, threshold about the same; random and top-K far below",
            f"house, blocks of 8, alpha 0.3: {at(middle)}; {words}; {others}",
            HOLDS if same and far > 0 else PARTLY if far > 0 else FAILS,
        )
    )
    return found


def in_full(e: Evidence) -> list[Claim]:
    """Full diffusion."""
    every = rules(e.house, lambda c: c.block_length == FULL)
    top = most_accurate(every)
    found = []
    fast, slow = e.policy("alpha", "scaled, alpha 3"), e.policy("alpha", "scaled, alpha 0")
    words, low = beside(fast, every, "any rule")
    difference = paired_difference(slow.correct, top[1].correct)
    found.append(
        Claim(
            "GSM8K, BL 256: 48.3 ± 0.6 @ 13.0 and 56.1 ± 0.9 @ 50.5; no heuristic above 30 at 12, about 34 at any NFE",
            f"house, full diffusion: alpha 3 {at(fast)}, {words}; alpha 0 {at(slow)}, the best rule at any NFE "
            f"({top[0].label}) {at(top[1])}, {gap(difference)}",
            HOLDS if low > 0 and difference.low > 0 else PARTLY if difference.low > 0 else FAILS,
        )
    )
    steered, scratch = e.policy("full", "expert steering"), e.policy("full", "from scratch")
    difference = paired_difference(steered.correct, scratch.correct)
    warm = e.policy("alpha", "scaled, alpha 1")
    found.append(
        Claim(
            "GSM8K, BL 256, expert steering: 77.2 ± 0.4 @ 70.5, above training from scratch",
            f"house, full diffusion, alpha 1: steering {at(steered)}, from scratch {at(scratch)}, {gap(difference)}; "
            f"a warm start by cloning, ours, {at(warm)}",
            HOLDS if difference.low > 0 else FAILS,
        )
    )
    second = e.policy("elsewhere", "ledger, full, alpha 1")
    every = rules(e.ledger, lambda c: c.block_length == FULL)
    words, low = beside(second, every, "any rule")
    found.append(
        Claim(
            "MATH-500, BL 256, expert steering: 31.4 ± 0.5 @ 86.7: a second task, too",
            f"ledger, full diffusion, alpha 1, warm start: {at(second)}; {words}",
            HOLDS if low > 0 else FAILS,
        )
    )
    return found


def moved(one: dict[str, Any]) -> str:
    """A transferred policy beside the native one."""
    accuracy, loss = Interval(**one["accuracy"]), Interval(**one["loss"])
    return f"{percent(accuracy)} @ {one['nfe']['mean']:.1f}, {gap(loss)} and {one['slower']['mean']:+.1f} NFE to the native"


def elsewhere(e: Evidence) -> list[Claim]:
    """Transfer to another dLLM, length and domain. Close: not more than five points below, by the mean."""
    found = []
    small = {
        (where, alpha): e.transfers[f"house-small, {where}, alpha {alpha}", f"{where}, alpha {alpha}"]
        for where in ("blocks", "full")
        for alpha in (1, 10)
    }
    close = {key: one["loss"]["mean"] > -0.05 for key, one in small.items()}
    kept = all(close[where, 1] for where in ("blocks", "full"))
    except_10 = not any(close[where, 10] for where in ("blocks", "full"))
    found.append(
        Claim(
            "Trained on LLaDA, decoded with Dream: close to a policy trained on Dream, except alpha = 10",
            "trained on house-base, decoded with house-small: "
            + "; ".join(f"{where}, alpha {alpha}: {moved(one)}" for (where, alpha), one in small.items()),
            HOLDS if kept and except_10 else PARTLY if kept else FAILS,
        )
    )
    long = {where: e.transfers[f"length 64, {where}", f"{where}, alpha 1"] for where in ("blocks", "full")}
    short = most_accurate(rules(e.house, _baseline))[1]
    twice = most_accurate(rules(e.twice, _baseline))[1]
    lost = paired_difference(twice.correct, short.correct)
    found.append(
        Claim(
            "Trained at L = 256, decoded at L = 512: hardly any loss",
            "; ".join(f"32 to 64, {where}, alpha 1: {moved(one)}" for where, one in long.items()),
            HOLDS
            if all(one["loss"]["mean"] > -0.05 for one in long.values())
            else PARTLY
            if any(one["loss"]["mean"] > -0.05 for one in long.values())
            else FAILS,
        )
    )
    found.append(
        Claim(
            "the threshold at L = 512: clear loss",
            f"threshold 0.9, blocks of 8: {at(short)} at 32, {at(twice)} at 64, {gap(lost)}",
            HOLDS if lost.high < 0 else FAILS,
        )
    )
    for where in ("blocks", "full"):
        alone = e.transfers[f"ledger, {where}", f"{where}, alpha 1"]
        both = e.transfers[f"ledger, {where}", f"both domains, {where}"]
        mended = both["loss"]["mean"] > alone["loss"]["mean"]
        lost_clearly = alone["loss"]["high"] < 0
        found.append(
            Claim(
                "Trained on maths, decoded on code: clear loss; training on code mends part of it",
                f"trained on house, decoded on ledger, {where}: {moved(alone)}; trained on both: {moved(both)}",
                HOLDS if lost_clearly and mended else PARTLY if lost_clearly else FAILS,
            )
        )
    return found


def _baseline(cell: Cell) -> bool:
    return cell.label == "threshold" and cell.block_length == BLOCKS and cell.policy["threshold"] == 0.9


def ablations(e: Evidence) -> list[Claim]:
    """Each beside the default, "scaled, alpha 1": the reward of both, since either may buy speed with accuracy."""
    base = e.policy("alpha", "scaled, alpha 1")

    def compare(name: str) -> tuple[str, Interval]:
        one = e.policy("ablations", name)
        difference = paired_difference(reward(one), reward(base))
        return (
            f"{name}: {at(one)}, reward {difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
            difference,
        )

    found = [f"default: {at(base)}"]
    same = []
    for paper, name, expected in (
        ("Bernoulli ~ DPLS", "DPLS", "same"),
        ("top-50 confidences: no gain", "top 8 confidences", "no gain"),
        ("hidden states: worse", "hidden states", "worse"),
        ("without t: worse", "without t", "worse"),
        ("without m: worse", "without m", "worse"),
    ):
        words, difference = compare(name)
        holds = {
            "same": difference.low <= 0 <= difference.high and abs(difference.mean) < 0.05,
            "no gain": difference.low <= 0,
            "worse": difference.high < 0,
        }[expected]
        same.append(Claim(paper, f"{found[0]}; {words}", HOLDS if holds else FAILS))
    additive = e.policy("ablations", "additive, alpha 10")
    times = e.policy("alpha", "scaled, alpha 10")
    collapsed = mean(additive)[1] < 0.05
    same.append(
        Claim(
            "the additive reward collapses to unmasking everything at once",
            f"alpha 10: additive {at(additive)}, multiplicative {at(times)}; alpha 1: additive "
            f"{at(e.policy('ablations', 'additive, alpha 1'))}",
            HOLDS if collapsed else FAILS,
        )
    )
    return same


def reward(found: Outcomes, gen_length: int = FULL, alpha: float = 1.0) -> torch.Tensor:
    """r ((L - NFE + 1) / L)^alpha of each seed and prompt."""
    return found.correct * ((gen_length - found.nfe + 1) / gen_length) ** alpha


def honest(e: Evidence) -> list[Claim]:
    """The usual baseline against the grid."""
    grid = rules(e.house, lambda c: c.label == "threshold")
    usual = most_accurate(rules(e.house, _baseline))[1]
    as_good = [(cell, one) for cell, one in grid if mean(one)[1] >= mean(usual)[1] - 0.005]
    cell, best = min(as_good, key=lambda one: mean(one[1])[0])
    saved = 100 * (1 - mean(best)[0] / mean(usual)[0])
    return [
        Claim(
            "The usual baseline (BL = 32, threshold 0.9) is beaten by other cells of the grid: (64, 0.7) has the same "
            "accuracy with 42% fewer NFE",
            f"(8, 0.9): {at(usual)}; ({cell.block_length}, {cell.policy['threshold']}): {at(best)}, {saved:.0f}% fewer NFE",
            HOLDS if saved > 5 else FAILS,
        )
    ]


def limits(e: Evidence) -> list[Claim]:
    """What the authors name."""
    paper = {a: e.policy("alpha", f"paper's advantages, alpha {a:g}") for a in (0.3, 1.0, 10.0)}
    ours = {a: e.policy("alpha", f"scaled, alpha {a:g}") for a in ALPHAS}
    speed = {a: mean(one)[0] for a, one in paper.items()}
    coarse = abs(speed[0.3] - speed[1.0]) < 0.5
    all_alike = coarse and abs(speed[1.0] - speed[10.0]) < 0.5
    speeds = [mean(ours[a])[0] for a in ALPHAS]
    stopped = e.stopped("full", "expert steering")
    return [
        Claim(
            "alpha controls speed only coarsely: several alphas collapse to one policy",
            "; ".join(f"alpha {a:g} {at(one)}" for a, one in paper.items())
            + "; with advantages divided by the batch's deviation, ours: "
            + "; ".join(f"alpha {a:g} {at(one)}" for a, one in ours.items())
            + f" (each faster than the one before: {'yes' if speeds == sorted(speeds, reverse=True) else 'no'})",
            HOLDS if all_alike else PARTLY if coarse else FAILS,
        ),
        Claim(
            "expert steering is unstable",
            f"{stopped} of {len(SEEDS)} seeds collapsed to the whole budget; a warm start: "
            f"{e.stopped('alpha', 'scaled, alpha 1')} of {len(SEEDS)}",
            HOLDS if stopped else FAILS,
        ),
    ]


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
    held, partly, failed = (sum(c.verdict == v for c in found) for v in (HOLDS, PARTLY, FAILS))
    lines = "\n\n".join(
        f"**{n}. {c.paper}.**\n{c.verdict.capitalize()}. Here: {c.ours.replace('; ', ';' + chr(10))}."
        for n, c in enumerate(found, 1)
    )
    hours = (
        sum(
            line.get("seconds", 0)
            for path in out.glob("*/*/seed-*/metrics.jsonl")
            if path.parts[-4] in STUDIES
            for line in read_metrics(path)
        )
        / 3600
    )
    return f"""# The paper's claims, one by one

`make reproduce` trains, sweeps and transfers everything below from scratch and writes this page; it can be stopped and goes on
where it was. On two cores it takes about {math.ceil(hours / 2 + 1)} hours, of which training is {hours:.1f} hours of one core (as logged).

The claims are those of "Learning Unmasking Policies for Diffusion Language Models" (arXiv 2512.09106), reported for LLaDA-8B
on GSM8K, MATH-500 and code with a region of 256. Here the bundled dLLM of 0.6M weights stands for LLaDA and `house-small` for
Dream, the task `house` for GSM8K, `ledger` for a second domain, a region of 32 for 256, blocks of 8 for 32: whether a claim's
*shape* carries over can be seen here, its numbers cannot. Accuracy in percent @ NFE; every policy is three training seeds on 500
held-out prompts, and intervals (95%) are over prompts and training seeds. Rules are over their whole grids.

Of {len(found)} claims {held} hold, {partly} hold in part, {failed} do not.

{lines}

![Accuracy against forward passes: every rule over its grid, learned policies, their clones and replays](images/reproduction.png)

What decides: a policy is above a rule if the interval of the difference at equal NFE lies above 0, or if no cell of the rule is as
fast and even its fastest is less accurate; several rules together are read as the best mixture of any two cells. Close, or hardly
any loss, means within five points by the mean; clear loss, that the interval lies below 0. An ablation is worse if the interval
of its reward's difference lies below 0, brings no gain if it reaches 0, and is the same if it holds 0 and its mean is within 0.05.
The additive reward has collapsed below 5% accuracy. A cell is as good as the baseline within half a point, and beats it with 5%
fewer NFE. Alphas are one policy if their NFE are within a half; two of three are a part. The code is `benchmarks/reproduce.py`.
"""


CARD = """---
license: apache-2.0
library_name: unmask
tags: [masked-diffusion, dllm, unmasking-policy]
---

# {name}

An unmasking policy for the dLLM `house-base` in {where}: one transformer block over the dLLM's confidences
(arXiv 2512.09106). Trained on `house`, region 32, alpha 1, starting from a clone of
`confidence_threshold:threshold=0.9` decoded in blocks: 80 iterations of GRPO, 8 prompts x 8 roll-outs each, advantages divided
by the batch's deviation, learning rate 0.00005, seed {seed} of three, the one with the best reward on validation prompts. Kept is the
checkpoint of iteration {iteration}. On 500 held-out prompts: {reached}.

`python benchmarks/reproduce.py` trains it.

```python
model, policy = unmask.load_model("house-base"), unmask.load_policy("{name}")
out = unmask.generate(model, policy, prompts, gen_length=32{block})
```
"""


def ship(out: Path) -> None:
    """The default policies into the package: of three seeds the one with the best validation reward."""
    for name, study, run_name, where, block in (
        ("house-base-full", "alpha", "scaled, alpha 1", "full diffusion", ""),
        ("house-base-block8", "semi", "warm start, alpha 1", "blocks of 8", ", block_length=8"),
    ):
        tried = []
        for seed in SEEDS:
            path = folder(out, study, run_name, seed)
            lines = [line for line in read_metrics(path / "metrics.jsonl") if line["stage"] == "validation"]
            kept = max(lines, key=lambda line: line["reward"])
            tried.append((kept["reward"], -seed, kept["iteration"], path))
        _, seed, iteration, path = max(tried)
        target = Path("src/unmask/assets/policies") / name
        for file in ("config.json", "model.safetensors"):
            shutil.copy(path / "best" / file, target / file)
        reached = at(outcomes(rows_of(path / "eval" / "rows.jsonl"))).replace("@", "at") + " forward passes"
        card = CARD.format(name=name, where=where, seed=-seed, iteration=iteration, reached=reached, block=block)
        (target / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/training"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="only write the page")
    parser.add_argument("--ship", action="store_true", help="put the default policies into the package")
    args = parser.parse_args()
    if not args.show and not args.ship:
        run_all(args.output, args.jobs)
    if args.ship:
        ship(args.output)
        return
    found = claims(Evidence(args.output))
    DOCS.write_text(page(found, args.output), encoding="utf-8")
    figure = args.output / "reproduction" / "report.png"
    if figure.exists():
        shutil.copy(figure, DOCS.parent / "images" / "reproduction.png")
    for number, claim in enumerate(found, 1):
        print(f"{number}. {claim.verdict}: {claim.paper}\n   {claim.ours}")


if __name__ == "__main__":
    main()
