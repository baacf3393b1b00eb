"""List operations: how many positions may be revealed at once depends on the operation (after arXiv 2510.04767).

    reverse b k a   ->   a k b
    mark b k a      ->   b * a     (exactly one item, whichever)
    shuffle b k a   ->   k b a     (any order)

Copied, reversed and sorted items are all known at once. Of shuffled items each excludes one elsewhere: one per pass. Of
`mark` all but one position may be revealed at once, and the last one must be the mark if no other is. Two more must be
asked for: `replace`, which is `mark` with any other letter, and `pairs`.

    pairs 2 b 1 k 1 a 2 c   ->   c k a b   (items of one number may have changed places: b and c have, k and a not)

Two passes do for `pairs`, one of each pair first, but who is whose partner is in the prompt and not in a confidence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import permutations, product
from typing import Annotated, ClassVar, Literal, get_args

from annotated_types import Ge, Le
from pydantic import model_validator

from unmask.settings import Settings
from unmask.tasks.base import Example
from unmask.tasks.puzzle import Puzzle

Operation = Literal["copy", "reverse", "sort", "shuffle", "mark", "replace", "pairs"]
MARK = "*"
MOST_ANSWERS = math.factorial(8)


class ListOptions(Settings):
    """Difficulty of list operations.

    Attributes:
        items: of a list, all different.
        letters: that items are drawn from.
        operation: one for all problems; None: copy, reverse, sort, shuffle and mark, equally often.
    """

    items: Annotated[int, Ge(2)] = 8
    letters: Annotated[int, Le(26)] = 26
    operation: Operation | None = None

    @model_validator(mode="after")
    def _enough_letters(self) -> ListOptions:
        if self.operation == "pairs" and self.items % 2:
            raise ValueError(f"{self.items} items are no pairs: give an even number")
        if self.items > self.letters - (self.operation == "replace"):
            raise ValueError(
                f"{self.letters} letters are too few for {self.items} different items: give fewer items or more letters"
            )
        return self


class Lists(Puzzle):
    """`items` letters after an operation."""

    kind = "lists"
    Options: ClassVar[type[Settings]] = ListOptions
    options: ListOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.gen_length, self.prompt_length = self.options.items, self.options.items + 1
        if self.options.operation == "pairs":
            self.prompt_length += self.options.items
        self.block_length = self.options.items
        self.alphabet = [chr(ord("a") + i) for i in range(self.options.letters)]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """Of its problems."""
        chosen = self.options.operation
        return get_args(Operation)[:5] if chosen is None else (chosen,)

    def words(self) -> list[str]:
        return [*self.alphabet, *get_args(Operation), MARK, *self._numbers]

    @property
    def _numbers(self) -> list[str]:
        return [str(i + 1) for i in range(self.options.items // 2)] if self.options.operation == "pairs" else []

    def draw(self, rng: random.Random, grown: float = 1.0) -> Example:
        operation, n = rng.choice(self.operations), self.options.items
        drawn = rng.sample(self.alphabet, n + (operation == "replace"))
        items = drawn[:n]
        result = [*_result(operation, items)]
        if operation == "shuffle":
            rng.shuffle(result)
        elif operation == "pairs":
            items = [word for pair in zip(rng.sample(self._numbers * 2, n), items, strict=True) for word in pair]
            result = list(rng.choice(_exchanged(items)))
        elif operation in ("mark", "replace"):
            result[rng.randrange(n)] = MARK if operation == "mark" else drawn[n]
        return Example(" ".join([operation, *items]), " ".join(result), {"operation": operation})

    def is_correct(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        operation, *items = prompt
        if operation == "shuffle":
            return sorted(answer) == sorted(items)
        if operation in ("copy", "reverse", "sort"):
            return tuple(answer) == _result(operation, items)
        if operation == "pairs":
            return tuple(answer) in _exchanged(items)
        new = [word for item, word in zip(items, answer, strict=True) if item != word]
        right = {MARK} if operation == "mark" else {*self.alphabet} - {*items}
        return len(new) == 1 and new[0] in right

    def order(self, example: Example) -> list[int]:
        """All at once; shuffled items one by one; of `mark` and `replace` all but the last; of each pair the first."""
        n, (operation, *items) = self.options.items, example.prompt.split()
        if operation == "shuffle":
            return list(range(n))
        if operation == "pairs":
            numbers = items[::2]
            return [int(number in numbers[:i]) for i, number in enumerate(numbers)]
        return [0] * (n - 1) + [int(operation in ("mark", "replace"))]

    def answers(self, example: Example) -> list[tuple[str, ...]] | None:
        operation, *items = example.prompt.split()
        if operation in ("mark", "replace"):
            new = [MARK] if operation == "mark" else sorted({*self.alphabet} - {*items})
            return [(*items[:i], one, *items[i + 1 :]) for i in range(len(items)) for one in new]
        if operation == "pairs":
            return _exchanged(items)
        if operation != "shuffle":
            return [_result(operation, items)]
        return list(permutations(items)) if math.factorial(len(items)) <= MOST_ANSWERS else None

    def places(self) -> list[tuple[str, ...]]:
        n = self.options.items
        items = [("item", f"{i}") for i in range(n)]
        if self.options.operation == "pairs":
            items = [(part, f"{i}") for i in range(n) for part in ("number", "item")]
        return [("operation",), *items, *(("result", f"{i}") for i in range(n))]


def _result(operation: str, items: Sequence[str]) -> tuple[str, ...]:
    """Of an operation that leaves nothing open; of the others, the items."""
    if operation == "reverse":
        return tuple(reversed(items))
    return tuple(sorted(items) if operation == "sort" else items)


def _exchanged(pairs: Sequence[str]) -> list[tuple[str, ...]]:
    """The items of numbered pairs, each pair exchanged or not, in every way."""
    numbers, items = pairs[::2], pairs[1::2]
    of = {number: [i for i, each in enumerate(numbers) if each == number] for number in dict.fromkeys(numbers)}
    found = []
    for chosen in product((False, True), repeat=len(of)):
        result = [*items]
        for (i, j), change in zip(of.values(), chosen, strict=True):
            if change:
                result[i], result[j] = items[j], items[i]
        found.append(tuple(result))
    return found
