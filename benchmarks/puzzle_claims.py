"""The paper's claims, and this project's, judged on each puzzle: the second half of docs/reproduction.md.

python benchmarks/puzzle_claims.py            judges what benchmarks/tuning.py and puzzles.py have made; writes the page
python benchmarks/puzzle_claims.py --print    only prints; `make puzzles` makes all of it

Verdicts of the page whose runs are not there stay; with other prompts or seeds than the usual ones, all of them do.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.claims import reward
from benchmarks.curves import against, curves, nfe_of, point, results
from benchmarks.mixture import MIXED
from benchmarks.puzzles import PUZZLES, TWICE, Setting, made, region, run, setting, trained
from benchmarks.studies import PUZZLE_BLOCKS, SEEDS, folder
from benchmarks.verdicts import FAILS, HOLDS, PARTLY, UNSETTLED, VERDICTS, above, alike, below, not_below

from unmask.evaluation.bounds import decode_in_order
from unmask.evaluation.differences import Outcomes, paired_difference
from unmask.evaluation.entries import Entry
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import outcomes
from unmask.policies.auto import load_policy
from unmask.tasks.auto import load_task
from unmask.tasks.puzzle import Puzzle

DOCS, HEAD = Path("docs/reproduction.md"), "## On the puzzles"


@dataclass(frozen=True)
class Judged:
    """A claim on one puzzle."""

    claim: str
    where: str
    found: str
    verdict: str


Cells = Sequence[tuple[Entry, Outcomes]]


def above_rules(args: argparse.Namespace, place: str) -> Iterator[Judged]:
    """Curves of the training seeds against rules at equal NFE, on the same held-out prompts."""
    seeds = [seed for seed in args.seeds if (folder(args.out, place, seed) / "held-out" / place).exists()]
    if not seeds or not (args.out / "rules" / place).exists():
        print(f"{place}: no policies, or no rules, have decoded its held-out prompts", file=sys.stderr)
        return
    policies = curves(argparse.Namespace(out=args.out, seeds=seeds), place, place)
    cells = [(entry, outcomes(rows)) for entry, rows in results(args.out / "rules" / place) if entry.kind == "rule"]
    full = load_task(place).gen_length
    inside = [one for one in cells if one[0].decode.block_length in (None, full)]
    threshold = [one for one in cells if one[0].label == "threshold"]
    speeds = [nfe for nfe in nfe_of(policies) if nfe > AT_ONCE] or nfe_of(policies)[:1]
    many = f"{place}, {len(seeds)} seeds"
    fastest = _against(policies, threshold, speeds[-1])
    yield Judged("1 to 3: above the threshold where speed matters most", many, *fastest)
    yield Judged(
        "4: above every rule in full diffusion, where it is slowest", many, *_against(policies, inside, speeds[0])
    )
    each = [_against(policies, cells, nfe) for nfe in speeds]
    verdicts = [verdict for _, verdict in each]
    verdict = FAILS if FAILS in verdicts else UNSETTLED if UNSETTLED in verdicts else HOLDS
    words = next(words for words, one in each if one == verdict)
    claim = "ours: above the best mixture of all rules in any blocks at each of its speeds"
    yield Judged(claim, many, words, verdict)
    best = max(cells, key=lambda one: (one[1].correct.mean().item(), -one[1].nfe.mean().item()))
    slow = Outcomes(torch.cat([each[0].correct for each in policies]), torch.cat([each[0].nfe for each in policies]))
    gap = paired_difference(slow.correct, best[1].correct)
    words = f"{point(slow)}, the best rule ({best[0].label}) {point(best[1])}, {_points(gap)}"
    verdict = not_below(gap, 0.01) if slow.nfe.mean() < best[1].nfe.mean() else FAILS
    yield Judged("ours: at most a point below the most accurate rule, in fewer passes", many, words, verdict)


AT_ONCE = 1.01  # passes: all is revealed in one, and all ways to decode are the same


def _against(policies: Sequence[Sequence[Outcomes]], cells: Cells, nfe: float) -> tuple[str, str]:
    reached, gap = against(policies, [[one for _, one in cells]] * len(policies), nfe, hull=True)
    if not math.isnan(gap[0]):
        return f"{reached}, {_points(Interval(*gap))}", above(Interval(*gap))
    fastest = min((one for _, one in cells), key=lambda one: one.nfe.mean().item())
    ours = float(reached.partition(" ")[0]) / 100 if reached[0].isdigit() else 0.0
    words = f"{reached}, no such rule is as fast (the fastest {point(fastest)})"
    return words, HOLDS if ours > fastest.correct.mean() else FAILS


def _points(gap: Interval) -> str:
    return f"{100 * gap.mean:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}) points"


def usual_baseline(args: argparse.Namespace, place: str) -> Iterator[Judged]:
    """Threshold 0.9 in the shortest blocks beside its whole grid, on the prompts that choose cells."""
    tried, shortest = args.out / "rules" / f"{place}-tried", min(PUZZLE_BLOCKS[place])
    if not tried.exists():
        return
    grid = [(entry, outcomes(rows)) for entry, rows in results(tried) if entry.label == "threshold"]
    usual = next(o for e, o in grid if e.decode.block_length == shortest and e.policy["threshold"] == 0.9)
    good = [(e, o) for e, o in grid if o.correct.mean() >= usual.correct.mean() - 0.005]
    cell, best = min(good, key=lambda one: one[1].nfe.mean().item())
    saved = 1 - (best.nfe.mean() / usual.nfe.mean()).item()
    words = f"(blocks of {shortest}, 0.9) {point(usual)}; ({cell.decode.block_length}, {cell.policy['threshold']}) "
    words += f"{point(best)}: {100 * saved:.0f}% fewer passes"
    claim = "18: the usual baseline is beaten by another cell of its grid"
    yield Judged(claim, place, words, HOLDS if saved > 0.05 else FAILS)


def reached(args: argparse.Namespace, one: Setting, source: str, study: str | None = None) -> Outcomes | None:
    """What a place's policies do elsewhere, at speed 0, seeds by prompts; the bundled one of house if none is there."""
    paths = (made if source == "house" else trained)(args, source, study).values()
    found = [run(one, load_policy(path), region(one, speed=0.0), costs=False) for path in paths]
    if not found:
        return None
    return Outcomes(
        torch.stack([each.correct.float() for each in found]), torch.stack([each.nfe.float() for each in found])
    )


def beside_native(
    args: argparse.Namespace, claim: str, one: Setting, where: str, sources: tuple[str, str]
) -> tuple[Judged, Interval] | None:
    """A policy made elsewhere beside the native one; close: at most five points below, as in claims.py."""
    away, native = reached(args, one, sources[0]), reached(args, one, sources[1])
    if away is None or native is None:
        return None
    gap = paired_difference(away.correct, native.correct)
    many = f"{len(away.correct)} and {len(native.correct)} seeds"
    words = f"{point(away)}, native {point(native)}, {_points(gap)}, {many}"
    return Judged(claim, where, words, not_below(gap)), gap


def elsewhere(args: argparse.Namespace) -> Iterator[Judged]:
    """Another dLLM, twice the length, other domains."""
    small = setting("lists-small", args.prompts) if "lists" in args.places else None
    if small is not None:
        claim = "7: close to a native policy on another dLLM"
        found = beside_native(args, claim, small, "lists, dLLM of half the width", ("lists", "lists-small"))
        yield from [found[0]] if found else []
    for place, name in TWICE.items():
        if place in args.places:
            yield from _twice(args, place, name)
    pairs = [("house", "nae-sat"), ("nae-sat", "house"), ("house", "lists"), ("addition", "nae-sat")]
    for source, place in pairs:
        if not {source, place} <= {"house", *args.places}:
            continue
        one = setting(place, args.prompts)
        found = beside_native(args, "", one, "", (source, place)) if one else None
        mixed = beside_native(args, "", one, "", ("all", place)) if one else None
        if found is None or mixed is None:
            continue
        loss, mended = found[1], mixed[1]
        words = f"{_points(loss)}; trained on all in turns {_points(mended)}"
        lost, better = below(loss), mended.low > loss.high
        verdict = PARTLY if lost == HOLDS and not better else lost
        claim = "10, 11: clear loss in another domain, mended by training on both"
        yield Judged(claim, f"{source}'s on {place}", words, verdict)
    for place in [place for place in MIXED if place in ("house", *args.places)]:
        one = setting(place, args.prompts)
        mixed = beside_native(args, "", one, "", ("all", place)) if one else None
        if mixed is not None:
            claim = "ours: one policy of all is within two points of a native one"
            yield Judged(claim, place, mixed[0].found, not_below(mixed[1], 0.02))


def _twice(args: argparse.Namespace, place: str, name: str) -> Iterator[Judged]:
    here, task = setting(place, args.prompts), load_task(name)
    if here is None:
        return
    assert isinstance(task, Puzzle)
    long = Setting(task, here.model, task.examples("test", args.prompts))
    policy, known = (
        reached(args, long, place),
        decode_in_order(long.model, task, long.examples, [task.order(example) or [] for example in long.examples]),
    )
    if policy is not None:
        can = known.correct[None].float()
        gap = paired_difference(policy.correct, can)
        words = f"{point(policy)}, known order {100 * can.mean():.1f} @ {known.nfe.float().mean():.2f}, {_points(gap)}"
        words += f", {len(policy.correct)} seeds"
        claim = "8: hardly any loss at twice the length, beside what the dLLM can do there"
        yield Judged(claim, name, words, not_below(gap))
    rule = load_policy("confidence_threshold:threshold=0.9")
    short, twice = (run(one, rule, region(one), costs=False) for one in (here, long))
    lost = [found.correct[None].float() for found in (twice, short)]
    gap = paired_difference(*lost)
    words = (
        f"threshold 0.9: {100 * lost[1].mean():.1f} at the length, {100 * lost[0].mean():.1f} at twice, {_points(gap)}"
    )
    yield Judged("9: the threshold loses clearly at twice the length", name, words, below(gap))


def ablations(args: argparse.Namespace) -> Iterator[Judged]:
    """Bernoulli beside DPLS; a policy that sees beside a blind one. By the reward of alpha 1, as in claims.py."""
    pairs = [("12: Bernoulli ~ DPLS", "lists", "lists, bernoulli", "lists")]
    pairs += [("12: Bernoulli ~ DPLS", "nae-sat", "nae-sat", "nae-sat, dpls")]
    claim = "ours: a policy that sees confidences is worth more than one that sees the step and the mask"
    pairs += [(claim, place, place, f"{place}, blind") for place in ("house", *PUZZLES)]
    for claim, place, first, second in [pair for pair in pairs if pair[1] in ("house", *args.places)]:
        one = setting(place, args.prompts)
        if one is None:
            continue
        a, b = (reached(args, one, place, study) for study in (first, second))
        if a is None or b is None:
            continue
        length = one.task.gen_length
        gap = paired_difference(reward(a, length), reward(b, length))
        names = ("Bernoulli", "DPLS") if claim.startswith("12") else ("seeing", "blind")
        words = (
            f"{names[0]} {point(a)}, {names[1]} {point(b)}, reward {gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
        )
        words += f", {len(a.correct)} and {len(b.correct)} seeds"
        if claim.startswith("12"):
            right = paired_difference(a.correct, b.correct)
            words += f"; {_points(right)}"
            verdict = alike(gap)
            verdict = PARTLY if verdict == HOLDS and alike(right) != HOLDS else verdict
        else:
            verdict = above(gap)
        yield Judged(claim, place, words, verdict)


def judge(args: argparse.Namespace) -> Iterator[Judged]:
    """All that has been run."""
    for place in args.places:
        yield from above_rules(args, place)
        yield from usual_baseline(args, place)
    yield from elsewhere(args)
    yield from ablations(args)


ABOUT = """`make puzzles` makes what follows from scratch, `python benchmarks/puzzle_claims.py` this section. The dLLMs
and tasks are those of [Puzzles](puzzles.md), policies are of every speed, in full diffusion. Accuracy in percent @
passes, over training seeds; intervals (95%) are over prompts and, where there are several, seeds. Numbers are those of
the claims above, "ours" are this project's. Not tried on puzzles: hidden states, alpha, the additive reward, steering,
50 confidences, leaving out t or m."""
READING = """What decides, as above: the interval of a difference. 1 to 4 and "at each of its speeds": at equal passes
it lies above 0; where no rule is as fast, the fastest is less accurate. One pass for all is left out: all ways to
decode are the same there. 7 to 12 and those below are at speed 0. 7, 8: close. 9: clear loss. 10, 11: clear loss;
the interval of the policy of all lies above it, or it holds in part. 12: rewards of alpha 1 are about the same; in part
if accuracies are not. 18: 5% fewer passes within half a point. At most a point, or two, below: the whole interval is.
Seeing beside blind: the reward of alpha 1 is higher."""


def section(found: Sequence[Judged]) -> str:
    """As Markdown, claims in the order of the paper's numbers, ours last."""
    claims = sorted(dict.fromkeys(one.claim for one in found), key=_place)
    rows = [one for claim in claims for one in found if one.claim == claim]
    lines = "\n".join(f"| {one.claim} | {one.where} | {one.found} | {one.verdict} |" for one in rows)
    count = ", ".join(f"{v} {sum(one.verdict == v for one in rows)}" for v in VERDICTS)
    table = f"| claim | where | found | verdict |\n|---|---|---|---|\n{lines}"
    return f"{HEAD}\n\n{ABOUT}\n\nOf {len(rows)} verdicts: {count}.\n\n{table}\n\n{READING}\n"


def merged(found: Sequence[Judged], page: str) -> list[Judged]:
    """With the verdicts of the page whose runs are not there."""
    lines = [line[2:-2].split(" | ") for line in page.partition(HEAD)[2].splitlines() if line.startswith("| ")]
    old = [Judged(*cells) for cells in lines if cells[0] != "claim"]
    return list({(one.claim, one.where.partition(", ")[0]): one for one in (*old, *found)}.values())


def _place(claim: str) -> float:
    number = claim.partition(":")[0].partition(" ")[0].strip(",")
    return float(number) if number.isdecimal() else math.inf


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--places", nargs="+", choices=PUZZLES, default=list(PUZZLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--prompts", type=int, default=300, help="Where policies decode anew.")
    parser.add_argument("--print", action="store_true", help="Leave the page as it is.")
    args = parser.parse_args()
    found = []
    for one in judge(args):
        found.append(one)
        print(f"| {one.claim} | {one.where} | {one.found} | {one.verdict} |", flush=True)
    usual = args.prompts == parser.get_default("prompts") and args.seeds == list(SEEDS)
    if args.print or not found or not usual:
        print("The page is left as it is.", file=sys.stderr)
    else:
        page = DOCS.read_text(encoding="utf-8")
        first = page.partition(f"\n{HEAD}")[0].rstrip()
        DOCS.write_text(f"{first}\n\n{section(merged(found, page))}", encoding="utf-8")


if __name__ == "__main__":
    main()
