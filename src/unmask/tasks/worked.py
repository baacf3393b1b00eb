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

import random
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unmask.errors import UnmaskError, nearest
from unmask.tasks.base import Example
from unmask.tasks.procedural import ProceduralTask, Stage, split_of

STYLES = ("straight", "terse", "full")
ANSWER = re.compile(r"\banswer is (\S+)")


@dataclass(frozen=True)
class Problem:
    """A prompt and its worked steps: (operation, names of the result) each; the first name is the canonical one."""

    prompt: str
    steps: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def answer(self) -> str:
        return self.steps[-1][1][0]


def check_styles(styles: Iterable[str]) -> None:
    """
    Raises:
        UnmaskError: an unknown answer style.
    """
    for style in styles:
        if style not in STYLES:
            raise UnmaskError(f"Unknown answer style {style!r}: {nearest(style, STYLES)}")


class WorkedTask(ProceduralTask):
    """A procedural task. A subclass draws problems and lists its words."""

    block_length = 8

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

    def training_text(self, rng: random.Random, stage: Stage) -> tuple[str, str]:
        length = rng.choices(list(stage.lengths), list(stage.lengths.values()))[0]
        style = rng.choices(list(stage.styles), list(stage.styles.values()))[0]
        problem = self.draw_from("pretrain", rng, length)
        return problem.prompt, self.solution(problem, style, rng)

    def draw_within(self, split: str, rng: random.Random) -> Example:
        problem = self.draw_from(split, rng, rng.choice(self.lengths))
        return Example(problem.prompt, problem.answer)

    def verify(self, example: Example, text: str) -> bool:
        """The last ``answer is X`` of the text names the gold answer, or what a solution in its place answers."""
        answers = ANSWER.findall(text)
        gold = ANSWER.findall(example.answer) or [example.answer]
        return bool(answers) and answers[-1] == gold[-1]
