"""Addition digit by digit: least significant first is the right order (after arXiv 2605.29123).

    4 7 + 5 2 =   ->   0 9 9

A digit of the sum waits for the carry from below, through every pair of digits that sum to 9. The length of that run is
the digit's depth: revealing digits in the order of their depth never guesses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from unmask.settings import Settings
from unmask.tasks.base import Example
from unmask.tasks.puzzle import Puzzle


class AdditionOptions(Settings):
    """Difficulty of addition.

    Attributes:
        digits: of each summand.
        nines: in the prompts that policies meet, the probability that a pair of digits is made to sum to 9.
    """

    digits: Annotated[int, Ge(1), Le(1000)] = 11
    nines: Annotated[float, Ge(0), Le(1)] = 0.7


class Addition(Puzzle):
    """Two summands of n digits, zero-padded, most significant digit first; n + 1 digits of the sum."""

    kind = "addition"
    Options: ClassVar[type[Settings]] = AdditionOptions
    options: AdditionOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        n = self.options.digits
        self.prompt_length, self.gen_length = 2 * n + 2, n + 1
        self.block_length = n + 1

    def words(self) -> list[str]:
        return [*map(str, range(10)), "+", "="]

    def draw(self, rng: random.Random, grown: float = 1.0) -> Example:
        """Half of the problems have uniform digits; in the others pairs sum to 9 with a probability of their own.

        In an easier one most digits are 0, so that a sum is a copy: without that, training finds nothing to begin with.
        """
        nines = rng.random() if rng.random() < 0.5 else 0.0
        zero = 0.8 * (1 - grown) if rng.random() < 0.85 else 0.0
        return self._draw(rng, nines, zero)

    def draw_test(self, rng: random.Random) -> Example:
        return self._draw(rng, self.options.nines, 0.0)

    def _draw(self, rng: random.Random, nines: float, zero: float) -> Example:
        pairs = []
        for _ in range(self.options.digits):
            a = rng.randrange(10)
            b = 9 - a if rng.random() < nines else rng.randrange(10)
            pairs.append((a * (rng.random() >= zero), b * (rng.random() >= zero)))
        first, second = (" ".join(str(pair[i]) for pair in pairs) for i in range(2))
        prompt = f"{first} + {second} ="
        depth = max(depths(pairs))
        return Example(prompt, " ".join(self._sum(prompt.split())), {"depth": depth})

    def _summands(self, prompt: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        n = self.options.digits
        return prompt[:n], prompt[n + 1 : -1]

    def _sum(self, prompt: Sequence[str]) -> str:
        a, b = ("".join(digits) for digits in self._summands(prompt))
        return str(int(a) + int(b)).zfill(self.gen_length)

    def is_correct(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        return list(answer) == [*self._sum(prompt)]

    def order(self, example: Example) -> list[int]:
        """Each digit after the carry that it waits for."""
        return depths([(int(a), int(b)) for a, b in zip(*self._summands(example.prompt.split()), strict=True)])

    def answers(self, example: Example) -> list[tuple[str, ...]]:
        return [tuple(self._sum(example.prompt.split()))]

    def places(self) -> list[tuple[str, ...]]:
        n = self.options.digits
        first, second, total = ([(part, f"{i}") for i in range(n)] for part in "abs")
        return [*first, ("plus",), *second, ("equals",), ("s", "carry"), *total]


def depths(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Of each digit of the sum, the length of the run of pairs just below it that sum to 9."""
    found = [0]
    for a, b in reversed(pairs):
        found.append(found[-1] + 1 if a + b == 9 else 0)
    return found[::-1]
