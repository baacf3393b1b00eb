"""What could be reached: a task's known order, the best of many roll-outs, and what revealing together must cost.

A pass writes its positions as if they did not depend on each other. How far they do is their total correlation, given
what stands: the sum of their entropies minus their joint entropy. Where all correct answers of a task can be listed it
is exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from pydantic import Field, FiniteFloat, TypeAdapter
from torch import Tensor

from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import in_order
from unmask.decoding.session import Session
from unmask.decoding.source import check_prompts, encode_example
from unmask.errors import UnmaskError
from unmask.evaluation.differences import Outcomes
from unmask.evaluation.intervals import Interval, bootstrap
from unmask.evaluation.summaries import summary
from unmask.files import write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.noise import row_keys
from unmask.observation import Needs, Observation
from unmask.settings import Settings
from unmask.tasks.base import Example, Task, verdicts
from unmask.tasks.puzzle import Puzzle

Answers = Sequence[Sequence[str]]


Choose = Callable[[Observation, Int[Tensor, " b"]], Bool[Tensor, "b l"]]
"""What to reveal of an observation, whose rows are the prompts of these indices."""


@dataclass(frozen=True)
class RollOuts:
    """How prompts were decoded.

    Attributes:
        correct: of each prompt.
        nfe: forward passes of each prompt.
        revealed_at: the pass that revealed each position.
        texts: of each prompt.
    """

    correct: Bool[Tensor, " b"]
    nfe: Int[Tensor, " b"]
    revealed_at: Int[Tensor, "b l"]
    texts: Sequence[str]


def decode_in_order(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    order: Sequence[Sequence[int]],
    config: DecodeConfig | None = None,
    seed: int = 0,
) -> RollOuts:
    """Reveal each prompt's positions in a given order.

    Args:
        order: of each prompt, the pass in which each position of the region is revealed, from 0, none left out.
        config: the token temperature and more; the region is the task's, and one block, but for a dLLM with blocks of
            its own, which are filled one by one, each in the given order.

    Raises:
        UnmaskError: no examples, orders that do not fit; as `unmask.generate`.
    """
    if not examples:
        raise UnmaskError("No examples were given: pass at least one.")
    if len(order) != len(examples) or any(len(one) != task.gen_length or min(one) < 0 for one in order):
        raise UnmaskError(
            f"Give an order for each of {len(examples)} prompts, a pass from 0 for each of {task.gen_length} positions."
        )
    when = torch.tensor([list(one) for one in order], device=model.device)
    never = int(when.max()) + 1

    def choose(seen: Observation, rows: Int[Tensor, " b"]) -> Bool[Tensor, "b l"]:
        left = when[rows].masked_fill(~seen.selectable, never)
        return seen.selectable & (left == left.amin(dim=1, keepdim=True))

    return roll_out(model, task, examples, choose, config, seed)


def roll_out(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    choose: Choose,
    config: DecodeConfig | None = None,
    seed: int = 0,
) -> RollOuts:
    """Decode in full diffusion, by a choice that may know which prompt it is asked about."""
    own = {"gen_length": task.gen_length, "block_length": None, "stop_at_eos": False}
    options = (config or DecodeConfig()).model_copy(update=own).resolve(model, task)
    prompts = [encode_example(model, example) for example in examples]
    check_prompts(model, prompts, options.gen_length)
    session, keys = Session(model, Needs(), options), row_keys(seed, torch.arange(len(prompts)))
    ended = []
    for first in range(0, len(prompts), options.batch_size):
        rows = range(first, min(first + options.batch_size, len(prompts)))
        session.add([prompts[i] for i in rows], rows, keys[rows.start : rows.stop])
        while len(session):
            found = session.reveal(choose(session.observe(), session.rows).long())
            ended += [] if found is None else [found]
    done = in_order(ended, total_seconds=0.0, **vars(session.totals))
    right = verdicts(task, examples, done.texts, done.complete.tolist())
    return RollOuts(torch.tensor(right), done.nfe.cpu(), done.revealed_at.cpu(), done.texts)


@dataclass(frozen=True)
class BestOf:
    """Many random roll-outs of each prompt.

    Attributes:
        correct: of each roll-out of each prompt.
        nfe: the same.
    """

    correct: Bool[Tensor, "n b"]
    nfe: Int[Tensor, "n b"]

    @property
    def found(self) -> Float[Tensor, " b"]:
        """The fewest passes of a roll-out that was right, for each prompt; infinite if none was."""
        return torch.where(self.correct, self.nfe.float(), math.inf).amin(dim=0)

    def within(self, passes: float) -> float:
        """Share of prompts with a roll-out that was right within so many passes."""
        return (self.found <= passes).float().mean().item()


def best_of(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    n: int = 64,
    seed: int = 0,
    config: DecodeConfig | None = None,
    on_progress: Callable[[int], None] = lambda n: None,
) -> BestOf:
    """Decode each prompt n times, each time revealing every position of a pass with one probability, 0.1 to 0.9.

    A guide, no limit: no rule is told which roll-out was right, but a good order can be faster than all of them.

    Args:
        on_progress: called with how often each prompt has been decoded.

    Raises:
        UnmaskError: no roll-outs; as `unmask.generate`.
    """
    if n < 1:
        raise UnmaskError(f"The best of {n} roll-outs is none: give at least 1.")
    generator, found = torch.Generator().manual_seed(seed), []
    for i in range(n):
        rate = 0.1 + 0.8 * torch.rand(len(examples), 1, generator=generator)

        def choose(seen: Observation, rows: Int[Tensor, " b"], rate: Tensor = rate) -> Bool[Tensor, "b l"]:
            may = seen.selectable.cpu()
            score = torch.rand(may.shape, generator=generator).masked_fill(~may, 2.0)
            chosen = (score < rate[rows.cpu()]) | (score == score.amin(dim=1, keepdim=True))  # never none
            return (chosen & may).to(seen.masked.device)

        found.append(roll_out(model, task, examples, choose, config, seed=i))
        on_progress(i + 1)
    return BestOf(torch.stack([one.correct for one in found]), torch.stack([one.nfe for one in found]))


@dataclass(frozen=True)
class Bound:
    """A line beside what policies reach, of a decoding that was told what to do, or which roll-out was right.

    Attributes:
        accuracy: share of prompts, in [0, 1].
        nfe: forward passes of a prompt; of random roll-outs those of prompts with one that was right, NaN if none has.
    """

    name: str
    accuracy: Interval
    nfe: Interval


ROLL_OUTS, ROLLED = 64, 100  # of each prompt; prompts
BOUNDS = "bounds.json"


def bounds_of(
    model: MaskedDiffusionModel,
    task: Puzzle,
    examples: Sequence[Example],
    batch_size: int = 256,
    on_progress: Callable[[int], None] = lambda n: None,
) -> list[Bound]:
    """The task's known order, if it has one; of the first `ROLLED` prompts the best of `ROLL_OUTS` random roll-outs.

    Args:
        on_progress: as of `best_of`.

    Raises:
        UnmaskError: no examples; as `unmask.generate`.
    """
    if not examples:
        raise UnmaskError("No examples were given: pass at least one.")
    config = DecodeConfig(batch_size=batch_size)
    found, orders = [], [order for order in map(task.order, examples) if order is not None]
    if len(orders) == len(examples):
        known = decode_in_order(model, task, examples, orders, config)
        found.append(Bound("known order", *summary(Outcomes(known.correct[None].float(), known.nfe[None].float()))))
    first = examples[:ROLLED]
    rolled = best_of(model, task, first, ROLL_OUTS, config=config, on_progress=on_progress)
    solved = rolled.found.isfinite()
    accuracy, _ = summary(Outcomes(solved[None].float(), solved[None].float()))
    taken = rolled.found[solved]
    nfe = bootstrap(taken[None]) if len(taken) > 1 else Interval(taken.mean().item(), math.nan, math.nan)
    return [*found, Bound(f"best of {ROLL_OUTS} random roll-outs, first {len(first)} prompts", accuracy, nfe)]


def write_bounds(folder: Path, found: Sequence[Bound]) -> None:
    """Beside the rows of a comparison."""
    write_text(folder / BOUNDS, json.dumps([asdict(one) for one in found], indent=1).replace("NaN", "null") + "\n")


def read_bounds(folder: Path) -> list[Bound]:
    """What `write_bounds` wrote; none if it did not.

    Raises:
        UnmaskError: the file is broken.
    """
    path = folder / BOUNDS
    try:
        kept = _KEPT.validate_json(path.read_bytes())
        return [Bound(one.name, one.accuracy.interval, one.nfe.interval) for one in kept]
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        raise UnmaskError(f"{path} is broken: delete it, and --resume makes it again with --bounds.") from None


class _Ends(Settings):
    """An interval in a file; null stands for NaN."""

    mean: Annotated[FiniteFloat, Ge(0)] | None
    low: FiniteFloat | None
    high: FiniteFloat | None

    @property
    def interval(self) -> Interval:
        """As it was.

        Raises:
            ValueError: it ends before it begins.
        """
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.low} to {self.high} is no interval")
        return Interval(*(math.nan if end is None else end for end in (self.mean, self.low, self.high)))


class _Share(_Ends):
    mean: Annotated[FiniteFloat, Ge(0), Le(1)] | None


class _Kept(Settings):
    """A `Bound` in a file."""

    name: str
    accuracy: _Share
    nfe: _Ends


_KEPT = TypeAdapter(Annotated[list[_Kept], Field(min_length=1)])


def correlation(task: Task, example: Example, order: Sequence[int], words: Sequence[str]) -> float | None:
    """`total_correlation` of a roll-out of a puzzle that was right; None of another, or where answers cannot be listed.

    A roll-out that has gone wrong has skipped what would have come: it would look cheap.

    Args:
        words: of each position of the region.
    """
    if not isinstance(task, Puzzle) or min(order) < 0 or not task.verify(example, " ".join(words)):
        return None
    answers = task.answers(example)
    if answers is None:
        return None
    alone = len(answers) == 1 or len({*order}) == len(order)  # nothing is open, or one position per pass
    return 0.0 if alone else total_correlation(answers, order, words)


def ceiling(answers: Answers, order: Sequence[int]) -> float:
    """The probability that positions drawn in this order, those of a pass independently, make a correct answer.

    Each is drawn from its exact distribution given what stands, all answers being equally likely.

    Args:
        answers: all that are correct.
        order: the pass in which each position is revealed.

    Raises:
        UnmaskError: no answers, or of another length than the order.
    """
    codes = _codes(answers, order)
    log_p = torch.zeros(len(codes), dtype=torch.float64)
    for stands, at in _passes(order):
        before = _groups(codes[:, stands])
        size = before.bincount().double()[before]
        for position in at:
            both = _groups(torch.stack([before, codes[:, position]], dim=1))
            log_p += (both.bincount().double()[both] / size).log()
    return log_p.exp().sum().item()


def total_correlation(answers: Answers, order: Sequence[int], tokens: Sequence[str]) -> float:
    """What the positions revealed together know of each other, in nats, summed over the passes of a roll-out.

    Its mean over the answers is what an order costs: draws in that order end in an answer with a probability of at
    least exp of minus this mean (`ceiling` is the probability; by Jensen's inequality).

    Args:
        answers: all that are correct, equally likely.
        order: the pass in which each position was revealed.
        tokens: what was revealed. From the first pass that no answer agrees with, nothing is left to know.

    Raises:
        UnmaskError: no answers, or answers or tokens of another length than the order.
    """
    if not answers:
        raise UnmaskError("Give at least one answer: of none nothing is known.")
    codes, total = _codes([*answers, tuple(tokens)], order), 0.0
    said, left = codes[-1], codes[:-1]
    for _, at in _passes(order):
        if len(at) > 1:
            total += sum(_entropy(left[:, [position]]) for position in at) - _entropy(left[:, at])
        left = left[(left[:, at] == said[at]).all(dim=1)]
        if not len(left):
            break
    return max(0.0, total)  # but for a rounding it is


def _codes(answers: Answers, order: Sequence[int]) -> Int[Tensor, "n l"]:
    if not answers or any(len(answer) != len(order) for answer in answers):
        raise UnmaskError(f"Give answers of as many words as the order has positions, {len(order)}.")
    words = [word for answer in answers for word in answer]
    known = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return torch.tensor([known[word] for word in words]).view(len(answers), -1)


def _passes(order: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Of each pass, the positions that stand before it and those that it reveals."""
    places = range(len(order))
    return [([i for i in places if order[i] < now], [i for i in places if order[i] == now]) for now in sorted({*order})]


def _groups(codes: Int[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """The same number for the same row, from 0."""
    group = torch.zeros(len(codes), dtype=torch.long)
    for column in codes.unbind(dim=1):
        group = (group * (int(column.max()) + 1) + column).unique(return_inverse=True)[1]
    return group


def _entropy(codes: Int[Tensor, "n k"]) -> float:
    p = _groups(codes).bincount().double() / len(codes)
    return torch.special.entr(p).sum().item()
