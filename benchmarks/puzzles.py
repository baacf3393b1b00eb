"""Puzzles: their dLLMs, their bounds, and what rules and policies choose. Policies are those of benchmarks/tuning.py.

python benchmarks/puzzles.py dllms                     the dLLMs that are not bundled, two at once, a quarter of an hour
python benchmarks/tuning.py train --studies lists      a policy of every speed, three seeds; the same for the others
python benchmarks/tuning.py rules --studies lists      every cell of every rule; the best on the held-out prompts
python benchmarks/puzzles.py bounds                    the known order, the best of 64, the best rules, the policies
python benchmarks/puzzles.py ceilings                  drawn tokens against the exact ceilings of shuffle, mark, replace
python benchmarks/puzzles.py state                     does a policy see the problem, or only its own pace?
python benchmarks/puzzles.py twice                     policies where there are twice the items, or clauses
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ceilings import most, splits
from benchmarks.curves import results
from benchmarks.studies import PLACES, SEEDS, folder, unmask

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Generation
from unmask.decoding.source import encode_example
from unmask.decoding.state import Step
from unmask.evaluation.bounds import best_of, ceiling, correlation, decode_in_order
from unmask.evaluation.differences import Outcomes
from unmask.evaluation.entries import Entry
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import outcomes, summary
from unmask.models.auto import load_model, path_of
from unmask.models.base import MaskedDiffusionModel
from unmask.pareto import Point, frontier
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy, StochasticPolicy
from unmask.policies.fixed_schedule import FixedSchedule, average_pace
from unmask.tasks.auto import load_task
from unmask.tasks.base import Example, Task, verdicts
from unmask.tasks.puzzle import Puzzle
from unmask.testing import ExactModel

PUZZLES = ("lists", "nae-sat", "addition", "sudoku")
SPEEDS = (0.0, 0.5, 1.0)
HOUSE = "house-base-full"  # trained elsewhere
SHIPPED = {"house": HOUSE, "nae-sat": "nae-sat"}
SHOWN = 12  # rules of a table at most


@dataclass(frozen=True)
class Setting:
    """A task with its dLLM."""

    task: Task
    model: MaskedDiffusionModel
    examples: list[Example]

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids."""
        return [encode_example(self.model, example) for example in self.examples]


@dataclass(frozen=True)
class Found:
    """How one way of decoding did on each prompt.

    Attributes:
        cost: total correlation of what was revealed together, in nats; NaN of wrong answers, and where it cannot be
            computed.
    """

    correct: torch.Tensor
    nfe: torch.Tensor
    cost: torch.Tensor

    def told(self) -> str:
        """As columns of a table."""
        known = self.cost[~self.cost.isnan()].double()
        cost = f"{known.mean():.2f}" if len(known) else ""
        return f"{percent(self.accuracy)} | {self.nfe.double().mean():.2f} | {cost}"

    @property
    def accuracy(self) -> Interval:
        """Share of prompts, in [0, 1]."""
        accuracy, _ = summary(Outcomes(self.correct[None].double(), self.nfe[None].double()))
        return accuracy


def percent(one: Interval) -> str:
    """With its interval."""
    return f"{100 * one.mean:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"


@cache
def lacking(place: str) -> None:
    """Said once."""
    print(f"{place}: {PLACES[place]['model']} is not there; `python benchmarks/puzzles.py dllms` makes it", flush=True)


def setting(place: str, prompts: int) -> Setting | None:
    """None where its dLLM has not been made."""
    name, task = PLACES[place].get("model", "house-base"), load_task(PLACES[place]["task"])
    if "model" in PLACES[place] and not Path(path_of(name)).exists():
        lacking(place)
        return None
    return Setting(task, load_model(name), task.examples("test", prompts))


def made(args: argparse.Namespace, place: str, study: str | None = None) -> dict[int, Path]:
    """The run of each seed that is there; of house and nae-sat, the bundled policy if there is none."""
    shipped = SHIPPED.get(study or place)
    return trained(args, place, study) or ({} if shipped is None else {0: Path(shipped)})


def trained(args: argparse.Namespace, place: str, study: str | None = None) -> dict[int, Path]:
    """The run of each seed that is there."""
    runs = {seed: folder(args.out, study or place, seed) for seed in args.seeds}
    return {seed: run for seed, run in runs.items() if (run / "best" / "README.md").exists()}


def dllms(args: argparse.Namespace) -> None:
    """Those that are neither bundled nor there; can be stopped and started again."""

    def make(place: str) -> None:
        name = PLACES[place]["model"]
        if not (Path(path_of(name)) / "README.md").exists():
            again = ["--resume"] if Path(f"{name}.checkpoint").exists() or Path(name).exists() else []
            unmask("pretrain", "--config", f"configs/pretrain/{place}.toml", "--output", name, "--threads", 1, *again)
        print(f"{place}: {name}", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(make, args.places))


def run(one: Setting, policy: Policy, config: DecodeConfig, costs: bool = True, seed: int = 0) -> Found:
    """Decode all prompts."""
    out = decode(one.model, policy, one.prompts, config, seed=seed)
    right = verdicts(one.task, one.examples, out.texts, out.complete.tolist())
    cost = [math.nan] * len(one.examples)
    if costs:
        rows = zip(one.examples, out.revealed_at.tolist(), out.tokens.tolist(), strict=True)
        words = one.model.tokenizer.convert_ids_to_tokens
        cost = [cost_of(one.task, example, order, words(tokens)) for example, order, tokens in rows]
    return Found(torch.tensor(right), out.nfe, torch.tensor(cost))


def cost_of(task: Task, example: Example, order: Sequence[int], words: Sequence[str]) -> float:
    """`correlation`, NaN where there is none."""
    found = correlation(task, example, order, words)
    return math.nan if found is None else found


def region(one: Setting, block_length: int | None = None, speed: float | None = None) -> DecodeConfig:
    """How it is decoded."""
    return DecodeConfig(
        gen_length=one.task.gen_length, block_length=block_length, stop_at_eos=False, speed=speed, batch_size=256
    )


def bounds(args: argparse.Namespace) -> None:
    """A table for each puzzle."""
    for place in args.places:
        one = setting(place, args.prompts)
        if one is None:
            continue
        print(
            f"\n{place}: {args.prompts} test prompts; correlation: of what was revealed together, nats per right answer"
        )
        print("| decoding | accuracy %, 95% interval | NFE | correlation |\n|---|---|---|---|")
        assert isinstance(one.task, Puzzle)  # of `places`
        orders = [one.task.order(example) for example in one.examples]
        if None not in orders:
            known = decode_in_order(one.model, one.task, one.examples, [order or [] for order in orders])
            rolled = zip(one.examples, known.revealed_at.tolist(), known.texts, strict=True)
            costs = [cost_of(one.task, example, order, text.split()) for example, order, text in rolled]
            print(f"| known order | {Found(known.correct, known.nfe, torch.tensor(costs)).told()} |")
        none = torch.full((len(one.examples),), math.nan)
        for name, order in (("left to right", range(one.task.gen_length)), ("right to left", _backwards(one.task))):
            by_place = decode_in_order(one.model, one.task, one.examples, [list(order)] * len(one.examples))
            print(f"| {name}, one per pass | {Found(by_place.correct, by_place.nfe, none).told()} |", flush=True)
        many = best_of(one.model, one.task, one.examples[:100], args.best_of)
        found = many.found[many.found.isfinite()]
        share = 100 * many.found.isfinite().float().mean()
        first = min(100, args.prompts)
        print(f"| best of {args.best_of} random roll-outs, {first} prompts | {share:.1f} | {found.mean():.2f} | |")
        mean = f"{100 * many.correct.float().mean():.1f} | {many.nfe.float().mean():.2f}"
        print(f"| random roll-outs, on average | {mean} | |")
        for name, blocks in best_rules(args, place):
            rule = run(one, load_policy(name), region(one, blocks))
            where = "full diffusion" if blocks == one.task.gen_length else f"blocks of {blocks}"
            print(f"| `{name}`, {where} | {rule.told()} |", flush=True)
        for seed, folder_ in made(args, place).items():
            for speed in SPEEDS:
                learned = run(one, load_policy(folder_), region(one, speed=speed))
                print(f"| policy, seed {seed}, speed {speed:g} | {learned.told()} |", flush=True)
        for speed in SPEEDS:
            other = run(one, load_policy(HOUSE), region(one, speed=speed))
            print(f"| `{HOUSE}`, trained elsewhere, speed {speed:g} | {other.told()} |", flush=True)


def _backwards(task: Task) -> Sequence[int]:
    return range(task.gen_length - 1, -1, -1)


def best_rules(args: argparse.Namespace, place: str) -> list[tuple[str, int]]:
    """Rules on the frontier of all, and on that of full diffusion, chosen on other prompts; in their order of NFE."""
    tried = results(args.out / "rules" / f"{place}-tried") if (args.out / "rules" / f"{place}-tried").exists() else []
    cells = [(entry, outcomes(rows)) for entry, rows in tried]
    full = load_task(PLACES[place]["task"]).gen_length
    chosen: dict[str, tuple[float, Entry]] = {}
    for group in (cells, [one for one in cells if one[0].decode.block_length in (None, full)]):
        points = [Point(o.nfe.double().mean().item(), o.correct.double().mean().item(), entry) for entry, o in group]
        chosen |= {point.cell.key: (point.nfe, point.cell) for point in frontier(points)}
    ordered = sorted(chosen.values(), key=lambda one: one[0])
    kept = [entry for _, entry in ordered if not entry.decode.suppress_eos][-SHOWN:]
    return [(_spelled(entry), int(entry.columns()["block_length"])) for entry in kept]


def _spelled(entry: Entry) -> str:
    settings = ",".join(f"{key}={value}" for key, value in entry.policy.items() if key != "type" and value is not None)
    return f"{entry.policy['type']}:{settings}"


def ceilings(args: argparse.Namespace) -> None:
    """Tokens drawn at temperature 1: what positions revealed together can reach at most, and what is reached.

    The bundled dLLM has not learnt `replace`: an exact one takes its place.
    """
    model = load_model("lists")
    for operation in ("shuffle", "mark", "replace"):
        task = load_task(f"lists:operation={operation}")
        assert isinstance(task, Puzzle)
        n, dllm = task.gen_length, ExactModel(task) if operation == "replace" else model
        there = Setting(task, dllm, task.examples("test", args.prompts))
        answers = task.answers(there.examples[0])
        assert answers is not None
        print(f"\n{operation}, dLLM `{dllm.name}`: the most that {n} positions can reach, exactly, in percent")
        print("| passes | any order fixed beforehand | any choice, at this mean |\n|---|---|---|")
        for passes in range(1, n + 1):
            fixed = max(ceiling(answers, order) for order in splits(n, passes))
            print(f"| {passes} | {100 * fixed:.1f} | {100 * most(operation, n, passes):.1f} |")
        print("| decoding at temperature 1 | accuracy % | NFE | most of any choice at its NFE, % |\n|---|---|---|---|")
        names = [(f"top_k_confidence:k={k}", None) for k in (1, 2, 4)]
        names += [(f"confidence_threshold:threshold={t}", None) for t in (0, 0.5, 0.9, 0.99)]
        names += [(f"factor:factor={f}", None) for f in (0.5, 1)]
        policies = [(str(path), speed) for path in made(args, "lists").values() for speed in SPEEDS]
        for name, speed in [*names, *policies]:
            config = region(there, speed=speed).model_copy(update={"temperature": 1.0})
            found = run(there, load_policy(name), config, costs=False)
            nfe = found.nfe.double().mean().item()
            allowed = most(operation, n, nfe)
            above = " (ABOVE)" if found.accuracy.low > allowed else ""
            at = "" if speed is None else f", speed {speed:g}"
            print(f"| `{name}`{at} | {percent(found.accuracy)}{above} | {nfe:.2f} | {100 * allowed:.1f} |", flush=True)
        seen = region(there).model_copy(update={"temperature": 1.0, "confidence_of": "drawn"})
        found = run(there, load_policy(f"top_k_confidence:k={n - 1}"), seen, costs=False)
        nfe = found.nfe.double().mean().item()
        print(f"| `top_k_confidence:k={n - 1}`, sees the tokens drawn | {percent(found.accuracy)} | {nfe:.2f} | |")


def state(args: argparse.Namespace) -> None:
    """How much a policy's actions tell of the problem, beside a policy that sees none, and a replay of the pace."""
    print("| task | policy | speed | accuracy % @ NFE | replay of its pace | information, share of the most |")
    print("|---|---|---|---|---|---|")
    for place in ("house", *args.places):
        one = setting(place, args.prompts)
        if one is None:
            continue
        for study in (place, f"{place}, blind"):
            for seed, path in made(args, study).items():
                policy = load_policy(path)
                assert isinstance(policy, StochasticPolicy)
                for speed in SPEEDS:
                    config = region(one, speed=speed)
                    found, paced = with_replay(one, policy, config)
                    name = "blind" if study != place else "sees"
                    cells = (f"{place} | {name}, seed {seed}", f"{speed:g}", found, paced)
                    print(f"| {' | '.join(cells)} | {information(one, policy, config):.2f} |", flush=True)


def with_replay(one: Setting, policy: Policy, config: DecodeConfig) -> tuple[str, str]:
    """What a policy does, and what as many of the most confident positions per pass do as it reveals on average."""
    out = decode(one.model, policy, one.prompts, config)
    schedule = FixedSchedule(tuple(average_pace(out.revealed_at, out.nfe)))
    paced = decode(one.model, schedule, one.prompts, region(one))

    def at(out: Generation) -> str:
        right = verdicts(one.task, one.examples, out.texts, out.complete.tolist())
        return f"{100 * sum(right) / len(right):.1f} @ {out.nfe.double().mean():.2f}"

    return at(out), at(paced)


def information(one: Setting, policy: StochasticPolicy, config: DecodeConfig, draws: int = 64) -> float:
    """Of each position at each step: the mutual information of whether it is revealed and what the policy sees.

    H(revealed) - H(revealed | seen), by the probabilities of the policy's own draws, over rows in which the position is
    masked; summed over positions and steps and divided by the sum of H(revealed). 0: the action depends on the step and
    the position alone; 1: what is seen decides it. The mask is part of what is seen, so that a policy which draws tells
    something of its own past draws, too.
    """
    probability: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def look(step: Step) -> None:
        seen = step.observation.only(policy.needs)
        logits = policy.logits(seen)
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros_like(logits)
        for _ in range(draws):
            noise = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
            total += policy.actions.sample(logits, seen.selectable, noise) > 0
        for i, number in enumerate(step.before.step.tolist()):
            probability.setdefault(number, []).append((total[i] / draws, seen.selectable[i]))

    decode(one.model, policy, one.prompts, config, callback=look)
    shared, most = 0.0, 0.0
    for rows in probability.values():
        p, masked = torch.stack([row[0] for row in rows]).double(), torch.stack([row[1] for row in rows])
        count = masked.sum(dim=0)
        mean = (p * masked).sum(dim=0) / count.clamp(min=1)
        given = (_binary(p) * masked).sum(dim=0)
        shared += (count * _binary(mean) - given).sum().item()
        most += (count * _binary(mean)).sum().item()
    return shared / most if most else 0.0


def _binary(p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(p) + torch.special.entr(1 - p)


TWICE = {"lists": "lists:items=16", "nae-sat": "nae-sat:clauses=48"}
PLAIN = ("confidence_threshold:threshold=0.9", "factor:factor=1", "rising_threshold:start=0.5,end=0.9")


def twice(args: argparse.Namespace) -> None:
    """Nothing is trained anew: the dLLMs know both lengths, the policies one."""
    print("| task | decoding | accuracy %, 95% interval | NFE | correlation |\n|---|---|---|---|---|")
    for place, name in TWICE.items():
        here = setting(place, 1)
        if here is None:
            continue
        task = load_task(name)
        assert isinstance(task, Puzzle)
        one = Setting(task, here.model, task.examples("test", args.prompts))
        known = decode_in_order(one.model, task, one.examples, [task.order(example) or [] for example in one.examples])
        none = torch.full((len(one.examples),), math.nan)
        print(f"| {name} | known order | {Found(known.correct, known.nfe, none).told()} |", flush=True)
        policies = [(str(path), speed) for path in made(args, place).values() for speed in SPEEDS]
        for policy, speed in [*((rule, None) for rule in PLAIN), *policies]:
            found = run(one, load_policy(policy), region(one, speed=speed), costs=False)
            at = "" if speed is None else f", speed {speed:g}"
            print(f"| {name} | `{policy}`{at} | {found.told()} |", flush=True)


def main(about: str | None, *commands: Callable[[argparse.Namespace], None]) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {one.__name__: one for one in commands}
    parser.add_argument("command", choices=list(known))
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--places", nargs="+", choices=[*PUZZLES, "lists-small"], default=list(PUZZLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--best-of", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=2, help="Trainings at once.")
    args = parser.parse_args()
    if min(args.prompts, args.best_of, args.jobs) < 1:
        parser.error("--prompts, --best-of and --jobs are at least 1")
    known[args.command](args)


if __name__ == "__main__":
    main(__doc__, dllms, bounds, ceilings, state, twice)
