"""Procedural tasks whose solutions can be worked out step by step, or guessed.

A problem is a chain of steps; each step's result has several names (hall, foyer, lobby), the final answer only one.
A solution comes in one of three styles, as answers in instruction data do:

    straight  the answer is hall
    terse     go red veranda blue lobby. the answer is hall
    full      go red veranda, blue lobby. the answer is hall

The wording of a worked step is free and that of the answer is fixed, so that a model is less sure of any word of its
reasoning than of a guess at the answer. Confidence-ordered decoding that may reveal any position therefore answers
before it has reasoned. Blocks keep it from the answer until the steps stand.
"""

from __future__ import annotations

import hashlib
import random
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from unmask.errors import UnmaskError, nearest
from unmask.tasks.base import Example, Split, Task, check_count, check_split

STYLES = ("straight", "terse", "full")
SHARE_OF_TEN: dict[str, Split] = {**dict.fromkeys("0123456", "pretrain"), "7": "train", "8": "validation", "9": "test"}
ANSWER = re.compile(r"\banswer is (\S+)")


@dataclass(frozen=True)
class Problem:
    """A prompt and its worked steps: (operation, names of the result) each; the first name is the canonical one."""

    prompt: str
    steps: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def answer(self) -> str:
        return self.steps[-1][1][0]


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, by its hash: 70% pretrain, 10% each of the others."""
    digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
    return SHARE_OF_TEN[str(digest % 10)]


def check_styles(styles: Iterable[str]) -> None:
    """
    Raises:
        UnmaskError: an unknown answer style.
    """
    for style in styles:
        if style not in STYLES:
            raise UnmaskError(f"Unknown answer style {style!r}: {nearest(style, STYLES)}")


class WorkedTask(Task):
    """A procedural task. A subclass draws problems and lists its words."""

    block_length = 8
    endless = True

    def __init__(self, name: str, lengths: Sequence[int], gen_length: int = 32) -> None:
        """
        Args:
            lengths: numbers of steps of the problems, equally frequent.
            gen_length: region that holds the longest worked solution, 3 * steps + 5 tokens.
        """
        self.gen_length = gen_length
        self.name = name
        self.lengths = tuple(lengths)

    @abstractmethod
    def draw(self, rng: random.Random, length: int) -> Problem:
        """A random problem of `length` steps."""

    @abstractmethod
    def words(self) -> list[str]:
        """Every word that prompts and solutions use."""

    def draw_from(self, split: str, rng: random.Random, length: int) -> Problem:
        """A random problem of a split."""
        while True:
            problem = self.draw(rng, length)
            if split_of(problem.prompt) == split:
                return problem

    def solution(self, problem: Problem, style: str, rng: random.Random) -> str:
        """A correct solution in a style; names of intermediate results are drawn freely."""
        answer = f"the answer is {problem.answer}"
        if style == "straight":
            return answer
        steps = [f"{operation} {rng.choice(names)}" for operation, names in problem.steps]
        return f"go {(', ' if style == 'full' else ' ').join(steps)}. {answer}"

    def training_text(
        self, rng: random.Random, lengths: Mapping[int, float], styles: Mapping[str, float]
    ) -> tuple[str, str]:
        """A (prompt, solution) pair of the pretrain split, with weighted numbers of steps and styles."""
        length = rng.choices(list(lengths), list(lengths.values()))[0]
        style = rng.choices(list(styles), list(styles.values()))[0]
        problem = self.draw_from("pretrain", rng, length)
        return problem.prompt, self.solution(problem, style, rng)

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        split = "test" if split is None else split
        check_split(split)
        check_count(n)
        if n is None:
            raise UnmaskError(f"The prompts of {self.name!r} are drawn and have no end: say how many.")
        rng = random.Random(f"{self.name}/{split}/{seed}")
        found: dict[str, Example] = {}
        misses = 0
        while len(found) < n:
            problem = self.draw_from(split, rng, rng.choice(self.lengths))
            misses = misses + 1 if problem.prompt in found else 0
            if misses > 1000:
                raise UnmaskError(f"Task {self.name!r} has about {len(found)} {split} prompts: ask for fewer than {n}.")
            found[problem.prompt] = Example(problem.prompt, problem.answer)
        return list(found.values())

    def verify(self, example: Example, text: str) -> bool:
        """The last ``answer is X`` of the text names the gold answer, or what a solution in its place answers."""
        answers = ANSWER.findall(text)
        gold = ANSWER.findall(example.answer) or [example.answer]
        return bool(answers) and answers[-1] == gold[-1]
