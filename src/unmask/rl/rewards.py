"""Rewards: what an episode is worth, given at its end (arXiv 2512.09106, section 3 and appendix).

A reward of your own is a function ``reward(completions, **columns) -> list[float]``, named by its dotted path
(``my_module.my_reward``). Each column is a list with one entry a completion: ``prompts``, ``answer``, ``correct``
(the verifier's verdict), ``nfe`` (forward passes), ``equivalents`` (passes over the whole row that compute as many
positions: fewer with a cache), ``speed`` (that was asked for, or None), ``gen_length``, and the data set's own (None
where a row lacks one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from unmask.decoding.results import Cost
from unmask.errors import UnmaskError, nearest
from unmask.settings import Ends, function_of
from unmask.tasks.base import Example, Task, verdicts


@dataclass(frozen=True)
class Outcome:
    """How r episodes ended.

    Attributes:
        texts: completions.
        correct: the verifier's verdict; an episode that still holds a mask is wrong.
        nfe: forward passes.
        gen_length: positions of the region, L.
        speed: that each was asked for, of a policy with a speed.
        unfinished: episodes that still hold a mask; None where nobody asks.
        equivalents: passes over the whole row that compute as many positions; None where nobody has counted.
    """

    examples: Sequence[Example]
    texts: Sequence[str]
    correct: Bool[Tensor, " r"]
    nfe: Int[Tensor, " r"]
    gen_length: int
    speed: Float[Tensor, " r"] | None = None
    unfinished: Bool[Tensor, " r"] | None = None
    equivalents: Float[Tensor, " r"] | None = None

    def spent(self, cost: Cost) -> Real[Tensor, " r"]:
        """What the episodes cost.

        Raises:
            UnmaskError: positions are to be counted, and nobody has.
        """
        if cost == "passes":
            return self.nfe
        if self.equivalents is None:
            raise UnmaskError("The cost is positions, which were not counted here: decode anew, or let cost be passes.")
        return self.equivalents

    def by_task(self) -> list[tuple[str, bool]]:
        """The task of each episode of a mixture, and whether it is correct; nothing for one task."""
        pairs = zip(self.examples, self.correct.tolist(), strict=True)
        return [(example.task, right) for example, right in pairs if example.task]


def judge(
    task: Task,
    examples: Sequence[Example],
    texts: Sequence[str],
    nfe: Int[Tensor, " r"],
    complete: Bool[Tensor, " r"],
    gen_length: int,
    speeds: Sequence[float] | None = None,
    judge_unfinished: bool = False,
    equivalents: Float[Tensor, " r"] | None = None,
) -> Outcome:
    """What the task's verifier says of episodes.

    Args:
        complete: False where the step budget was spent with masks left: such an answer is wrong.
        judge_unfinished: judge it by the text it has.
        equivalents: as in `Outcome`.
    """
    verified = verdicts(task, examples, texts, (complete | judge_unfinished).tolist())
    speed = None if speeds is None else torch.tensor(speeds, device=nfe.device)
    right = torch.tensor(verified, device=nfe.device)
    return Outcome(examples, texts, right, nfe, gen_length, speed, ~complete, equivalents)


def correct_by_task(pairs: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """``correct_gsm8k`` and the like: the share that is correct of each task of a mixture."""
    verdicts: dict[str, list[bool]] = {}
    for task, right in pairs:
        verdicts.setdefault(f"correct_{task}", []).append(right)
    return {name: sum(each) / len(each) for name, each in sorted(verdicts.items())}


Reward = Callable[[Outcome], Tensor]
LEAST = 1e-3  # whole passes that positions may amount to: with an exact cache all of them together are less than one


def multiplicative(
    correct: Bool[Tensor, " r"], nfe: Real[Tensor, " r"], gen_length: int, alpha: float | Float[Tensor, " r"]
) -> Float[Tensor, " r"]:
    """R = correct * ((L - min(NFE, L) + 1) / L) ** alpha: speed pays only where the answer is right.

    Args:
        nfe: forward passes of each roll-out.
        alpha: weight of speed; 0 is correctness alone.
    """
    speed = (gen_length - nfe.clamp(max=gen_length) + 1) / gen_length
    return correct * speed**alpha


def additive(
    correct: Bool[Tensor, " r"], nfe: Real[Tensor, " r"], gen_length: int, alpha: float | Float[Tensor, " r"]
) -> Float[Tensor, " r"]:
    """R = correct - alpha * NFE / L: an ablation; speed pays without an answer too, so that revealing all at once does.

    Args:
        nfe: forward passes of each roll-out.
        alpha: weight of speed.
    """
    return correct.float() - alpha * nfe / gen_length


def correctness(
    correct: Bool[Tensor, " r"], nfe: Real[Tensor, " r"], gen_length: int, alpha: float | Float[Tensor, " r"]
) -> Float[Tensor, " r"]:
    """R = correct, whatever it cost."""
    return correct.float()


def scale_free(
    correct: Bool[Tensor, " r"], nfe: Real[Tensor, " r"], gen_length: int, beta: float | Float[Tensor, " r"]
) -> Float[Tensor, " r"]:
    """R = correct * NFE ** -beta: beta is an elasticity, and means the same at every region length.

    One percent fewer forward passes are worth beta percent of the accuracy. Each beta has an optimum of its own on a
    frontier that is concave in logarithms, so that a policy of every speed is trained with a range of them.

    Args:
        nfe: forward passes of each roll-out.
        beta: weight of speed; 0 is correctness alone.
    """
    least = LEAST if nfe.is_floating_point() else 1
    return correct * nfe.clamp(min=least).float() ** -beta


def weight_at(ends: Ends, speed: Float[Tensor, " r"] | None) -> float | Float[Tensor, " r"]:
    """The weight of speed that goes with each roll-out's speed: linear in its logarithm.

    Args:
        ends: one number, or that at speed 0 and that at speed 1.

    Raises:
        UnmaskError: two numbers, and no speed to choose by.
    """
    if not isinstance(ends, tuple):
        return ends
    if speed is None:
        raise UnmaskError(
            f"The weight of speed is {ends}, for a policy with a speed; this one has none: give a number."
        )
    slow, fast = ends
    return slow * (fast / slow) ** speed


def check_ends(name: str, weight: Any) -> None:
    """
    Raises:
        UnmaskError: neither a finite number from 0 nor two rising ones above it.
    """
    ends = weight if isinstance(weight, tuple) else (weight,)
    if not all(isinstance(end, int | float) and 0 <= end < math.inf for end in ends):
        raise UnmaskError(f"{name} is {weight!r}: give a finite number from 0.")
    if isinstance(weight, tuple) and (len(ends) != 2 or not 0 < ends[0] < ends[1]):
        raise UnmaskError(f"{name} is {weight!r}: give one number, or two above 0, the smaller first (at speed 0).")


PAPER = {f.__name__: f for f in (multiplicative, additive, correctness)}  # weighed by alpha
REWARDS = {**PAPER, scale_free.__name__: scale_free}


def load_reward(name: str, alpha: Ends = 1.0, beta: Ends = 1.0, cost: Cost = "passes") -> Reward:
    """A reward by its name, or a user's own by its dotted path (looked up in the working folder too).

    Args:
        alpha: weight of speed in the paper's rewards.
        beta: weight of speed in `scale_free`.
        cost: what their NFE counts; a reward of your own has both columns.

    Raises:
        UnmaskError: no such reward, or a weight that is none.
    """
    for what, weight in (("alpha", alpha), ("beta", beta)):
        check_ends(what, weight)
    if name in REWARDS:
        known, ends = REWARDS[name], alpha if name in PAPER else beta
        return lambda outcome: known(
            outcome.correct, outcome.spent(cost), outcome.gen_length, weight_at(ends, outcome.speed)
        )
    if "." not in name and ":" not in name:
        raise UnmaskError(
            f"Unknown reward {name!r}: {nearest(name, REWARDS)} A reward of your own is named by its dotted path, "
            "such as my_module.my_reward."
        )
    function = function_of(name, "reward")
    return lambda outcome: _own(name, function, outcome)


def _own(name: str, function: Callable[..., Any], outcome: Outcome) -> Tensor:
    """Call a user's function and take nothing but one finite number a completion.

    Raises:
        UnmaskError: it fails, or gives something else.
    """
    n = len(outcome.texts)
    names = {name: None for example in outcome.examples for name in example.columns}
    columns = {name: [example.columns.get(name) for example in outcome.examples] for name in names}
    columns |= {
        "prompts": [example.prompt for example in outcome.examples],
        "answer": [example.answer for example in outcome.examples],
        "correct": outcome.correct.tolist(),
        "nfe": outcome.nfe.tolist(),
        "equivalents": [None] * n if outcome.equivalents is None else outcome.equivalents.tolist(),
        "speed": [None] * n if outcome.speed is None else outcome.speed.tolist(),
        "gen_length": [outcome.gen_length] * n,
    }
    try:
        values = function(list(outcome.texts), **columns)
    except Exception as e:
        raise UnmaskError(f"The reward {name!r} failed ({type(e).__name__}: {e}): mend it.") from e
    values = values.tolist() if isinstance(values, Tensor | np.ndarray) and values.ndim else values
    if not isinstance(values, Sequence) or len(values) != n:
        got = f"{len(values)} values" if isinstance(values, Sequence) else f"a {type(values).__name__}"
        raise UnmaskError(f"The reward {name!r} gave {got} for {n} completions: return a list with one number each.")
    for i, value in enumerate(values):
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise UnmaskError(
                f"The reward {name!r} gave {value!r} for completion {i} ({outcome.texts[i][:40]!r}): "
                "return a finite number for each."
            )
    return torch.tensor([float(value) for value in values], dtype=torch.float32, device=outcome.nfe.device)
