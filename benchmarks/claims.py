"""The paper's claims (arXiv 2512.09106), each judged by a rule that stands here, on what benchmarks/reproduce.py ran."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.paper import ALPHAS, folder, rows_of
from benchmarks.studies import SEEDS
from benchmarks.verdicts import FAILS, HOLDS, PARTLY, UNSETTLED, above, alike, below, not_below

from unmask.evaluation.differences import Difference, Outcomes, paired_bootstrap, paired_difference
from unmask.evaluation.entries import Entry
from unmask.evaluation.gather import read_results
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import outcomes, summary
from unmask.pareto import Point, accuracy_at, frontier
from unmask.rl.run import read_metrics

FULL, BLOCKS = 32, 8


@dataclass(frozen=True)
class Claim:
    """A claim of the paper beside what was found here.

    Attributes:
        paper: the claim with its numbers.
        ours: the same of the bundled dLLM.
        verdict: of benchmarks/verdicts.py.
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


def rules(results: Sequence[tuple[Entry, Any]], keep: Callable[[Entry], bool]) -> list[tuple[Entry, Outcomes]]:
    """Outcomes of the rules' entries."""
    return [(entry, outcomes(rows)) for entry, rows in results if entry.kind == "rule" and keep(entry)]


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


def most_accurate(cells: Sequence[tuple[Entry, Outcomes]]) -> tuple[Entry, Outcomes]:
    """The faster one on a tie."""
    return max(cells, key=lambda one: (mean(one[1])[1], -mean(one[1])[0]))


def beside(policy: Outcomes, cells: Sequence[tuple[Entry, Outcomes]], name: str) -> tuple[str, Difference]:
    """The policy against rules at its NFE: in words, and the difference (NaN: none so fast)."""
    cells = _best_of_each(cells)
    mixed = len({cell.label for cell, _ in cells}) > 1  # several rules: the best mixture of any two cells
    found = paired_bootstrap(policy, [one for _, one in cells], hull=mixed)
    if math.isnan(found.mean):
        fastest = min((one for _, one in cells), key=lambda one: mean(one)[0])
        return f"no {name} is so fast (the fastest: {at(fastest)})", found
    nfe = mean(policy)[0]
    level = accuracy_at([Point(*mean(one)) for _, one in cells], nfe, hull=mixed)
    return f"{name} {100 * level:.1f}% there, {gap(found)}", found


def _best_of_each(cells: Sequence[tuple[Entry, Outcomes]]) -> list[tuple[Entry, Outcomes]]:
    """The cells on their own rule's frontier."""
    best = []
    for label in dict.fromkeys(cell.label for cell, _ in cells):
        points = [Point(*mean(one), (cell, one)) for cell, one in cells if cell.label == label]
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
        threshold = rules(results, lambda c: c.label == "threshold" and c.decode.block_length == BLOCKS)
        words, here = beside(policy, threshold, "threshold")
        wider, _ = beside(policy, rules(results, lambda c: True), "any rule in any blocks")
        fastest = min((one for _, one in threshold), key=lambda one: mean(one)[0])
        faster = HOLDS if mean(policy)[1] > mean(fastest)[1] else FAILS
        found.append(
            Claim(
                f"{paper}: the policy is well above the threshold where speed matters most",
                f"{task}, blocks of 8, alpha 10: {at(policy)}; {words}; not in the claim: {wider}",
                faster if math.isnan(here.mean) else above(here),
            )
        )
    middle = e.policy("semi", "warm start, alpha 0.3")
    threshold = rules(e.house, lambda c: c.label == "threshold" and c.decode.block_length == BLOCKS)
    plain = rules(e.house, lambda c: c.label in ("random", "top-k") and c.decode.block_length == BLOCKS)
    words, here = beside(middle, threshold, "threshold")
    others, far = beside(middle, plain, "random or top-K")
    same, well_above = FAILS if math.isnan(here.mean) else alike(here), above(far)
    found.append(
        Claim(
            "GSM8K, BL 32, middle of the curve: about 80, threshold about the same; random and top-K far below",
            f"house, blocks of 8, alpha 0.3: {at(middle)}; {words}; {others}",
            well_above if well_above != HOLDS else PARTLY if same == FAILS else same,
        )
    )
    return found


def in_full(e: Evidence) -> list[Claim]:
    """Full diffusion."""
    every = rules(e.house, lambda c: c.decode.block_length == FULL)
    top = most_accurate(every)
    found = []
    fast, slow = e.policy("alpha", "scaled, alpha 3"), e.policy("alpha", "scaled, alpha 0")
    words, here = beside(fast, every, "any rule")
    difference = paired_difference(slow.correct, top[1].correct)
    found.append(
        Claim(
            "GSM8K, BL 256: 48.3 ± 0.6 @ 13.0 and 56.1 ± 0.9 @ 50.5; no heuristic above 30 at 12, about 34 at any NFE",
            f"house, full diffusion: alpha 3 {at(fast)}, {words}; alpha 0 {at(slow)}, the best rule at any NFE "
            f"({top[0].label}) {at(top[1])}, {gap(difference)}",
            above(here) if above(difference) == HOLDS else above(difference),
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
            above(difference),
        )
    )
    second = e.policy("elsewhere", "ledger, full, alpha 1")
    every = rules(e.ledger, lambda c: c.decode.block_length == FULL)
    words, here = beside(second, every, "any rule")
    found.append(
        Claim(
            "MATH-500, BL 256, expert steering: 31.4 ± 0.5 @ 86.7: a second task, too",
            f"ledger, full diffusion, alpha 1, by a warm start, as steering was not run there: {at(second)}; {words}",
            above(here),
        )
    )
    return found


def worst(verdicts: Iterable[str]) -> str:
    """Of a claim that has several cases."""
    found = set(verdicts)
    return next(one for one in (FAILS, UNSETTLED, PARTLY, HOLDS) if one in found)


def moved(one: dict[str, Any]) -> str:
    """A transferred policy beside the native one."""
    accuracy, loss = Interval(**one["accuracy"]), Interval(**one["loss"])
    return f"{percent(accuracy)} @ {one['nfe']['mean']:.1f}, {gap(loss)} and {one['slower']['mean']:+.1f} NFE to the native"


def elsewhere(e: Evidence) -> list[Claim]:
    """Transfer to another dLLM, length and domain. Close: not more than five points below."""
    found = []
    small = {
        (where, alpha): e.transfers[f"house-small, {where}, alpha {alpha}", f"{where}, alpha {alpha}"]
        for where in ("blocks", "full")
        for alpha in (1, 10)
    }
    close = {key: not_below(Interval(**one["loss"])) for key, one in small.items()}
    kept = worst(close[where, 1] for where in ("blocks", "full"))
    except_10 = all(close[where, 10] == FAILS for where in ("blocks", "full"))
    found.append(
        Claim(
            "Trained on LLaDA, decoded with Dream: close to a policy trained on Dream, except alpha = 10",
            "trained on house-base, decoded with house-small: "
            + "; ".join(f"{where}, alpha {alpha}: {moved(one)}" for (where, alpha), one in small.items()),
            PARTLY if kept == HOLDS and not except_10 else kept,
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
            worst(not_below(Interval(**one["loss"])) for one in long.values()),
        )
    )
    found.append(
        Claim(
            "the threshold at L = 512: clear loss",
            f"threshold 0.9, blocks of 8: {at(short)} at 32, {at(twice)} at 64, {gap(lost)}",
            below(lost),
        )
    )
    for where in ("blocks", "full"):
        alone = e.transfers[f"ledger, {where}", f"{where}, alpha 1"]
        both = e.transfers[f"ledger, {where}", f"both domains, {where}"]
        mended = both["loss"]["low"] > alone["loss"]["high"]
        lost_clearly = below(Interval(**alone["loss"]))
        found.append(
            Claim(
                f"Trained on maths, decoded on code ({where}): clear loss; training on code mends part of it",
                f"trained on house, decoded on ledger, {where}: {moved(alone)}; trained on both: {moved(both)}",
                PARTLY if lost_clearly == HOLDS and not mended else lost_clearly,
            )
        )
    return found


def _baseline(cell: Entry) -> bool:
    return cell.label == "threshold" and cell.decode.block_length == BLOCKS and cell.policy["threshold"] == 0.9


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
        gain = Interval(-difference.mean, -difference.high, -difference.low)  # of doing without
        verdict = {"same": alike(difference), "no gain": not_below(gain), "worse": below(difference)}[expected]
        same.append(Claim(paper, f"{found[0]}; {words}", verdict))
    additive = e.policy("ablations", "additive, alpha 10")
    times = e.policy("alpha", "scaled, alpha 10")
    collapsed = summary(additive)[0]
    same.append(
        Claim(
            "the additive reward collapses to unmasking everything at once",
            f"alpha 10: additive {at(additive)}, multiplicative {at(times)}; alpha 1: additive "
            f"{at(e.policy('ablations', 'additive, alpha 1'))}",
            HOLDS if collapsed.high < 0.05 else FAILS if collapsed.low > 0.05 else UNSETTLED,
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
            f"(8, 0.9): {at(usual)}; ({cell.decode.block_length}, {cell.policy['threshold']}): {at(best)}, {saved:.0f}% fewer NFE",
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
