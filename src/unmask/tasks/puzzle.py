"""Puzzles with exact answers: what may be revealed together, and in which order, is known or can be computed."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from unmask.errors import UnmaskError
from unmask.settings import Settings, build
from unmask.tasks.base import Example
from unmask.tasks.procedural import MISSES, ProceduralTask, Stage, split_of


class Puzzle(ProceduralTask):
    """A task whose answer fills its region, a word at each position.

    Attributes:
        kind: its name without settings.
        Options: its difficulty.
        options: as given. The name has those that are not the default, in one order: other words for the same
            difficulty are the same task.
        prompt_length: words of a prompt.
    """

    kind: ClassVar[str]
    Options: ClassVar[type[Settings]]
    options: Any
    prompt_length: int

    def __init__(self, **options: Any) -> None:
        """
        Raises:
            UnmaskError: an unknown setting, or one without a problem.
        """
        self.options = build(self.Options, options, where=self.kind, known=set(self.Options.model_fields))
        told = ",".join(f"{key}={value}" for key, value in self.options.model_dump(exclude_defaults=True).items())
        self.name = f"{self.kind}:{told}" if told else self.kind

    @abstractmethod
    def draw(self, rng: random.Random, grown: float = 1.0) -> Example:
        """A random problem with one of its correct answers, all of them equally likely.

        Args:
            grown: below 1, an easier one, for the beginning of a pretraining.
        """

    @abstractmethod
    def is_correct(self, prompt: Sequence[str], answer: Sequence[str]) -> bool:
        """Whether the words of the whole region answer the prompt."""

    def order(self, example: Example) -> list[int] | None:
        """The pass in which the task's known order reveals each position, from 0; None if it has none."""
        return None

    def answers(self, example: Example) -> list[tuple[str, ...]] | None:
        """All correct answers, equally likely in the training text; None if they are too many to list."""
        return None

    def places(self) -> list[tuple[str, ...]]:
        """What each position of prompt and region is about: positions about the same thing share a name."""
        return [()] * (self.prompt_length + self.gen_length)

    def region(self, asked: int | None) -> int:
        if asked not in (None, self.gen_length):
            raise UnmaskError(
                f"The answers of {self.name!r} fill a region of {self.gen_length} positions, not {asked}: leave out "
                "gen_length, or choose another difficulty."
            )
        return self.gen_length

    def draw_within(self, split: str, rng: random.Random) -> Example | None:
        for _ in range(MISSES):
            example = self.draw_test(rng) if split != "pretrain" else self.draw(rng)
            if split_of(example.prompt) == split:
                return example
        return None

    def draw_test(self, rng: random.Random) -> Example:
        """A problem as policies meet it; harder than those of training text where a task says so."""
        return self.draw(rng)

    def training_text(self, rng: random.Random, stage: Stage) -> tuple[str, str]:
        for _ in range(MISSES):
            example = self.draw(rng, stage.grown)
            if split_of(example.prompt) == "pretrain":
                return example.prompt, example.answer
        raise UnmaskError(f"Task {self.name!r} has no prompts to train a dLLM on: choose another difficulty.")

    def verify(self, example: Example, text: str) -> bool:
        """Every position holds a word, and together they answer the prompt."""
        words = text.split()
        return len(words) == self.gen_length and self.is_correct(example.prompt.split(), words)
