"""Tasks whose problems are drawn: endless prompts, splits that share none, and texts to train a small dLLM on."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from unmask.errors import UnmaskError
from unmask.tasks.base import Example, Split, Task, check_count, check_split

SHARE_OF_TEN: dict[str, Split] = {**dict.fromkeys("0123456", "pretrain"), "7": "train", "8": "validation", "9": "test"}
MISSES = 1000  # draws in a row that give nothing new, until a split counts as drawn out


@dataclass(frozen=True)
class Stage:
    """What a pretraining asks of its texts at a step.

    Attributes:
        grown: share of the curriculum that is done, from 0 to 1.
        lengths: numbers of steps of a worked problem, weighted.
        styles: answer styles of a worked problem, weighted.
    """

    grown: float = 1.0
    lengths: Mapping[int, float] = field(default_factory=dict)
    styles: Mapping[str, float] = field(default_factory=dict)


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, by its hash: 70% pretrain, 10% each of the others."""
    digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
    return SHARE_OF_TEN[str(digest % 10)]


class ProceduralTask(Task):
    """A task that draws its problems. A prompt's hash decides its split."""

    endless = True

    @abstractmethod
    def words(self) -> list[str]:
        """Every word that prompts and solutions use."""

    @abstractmethod
    def draw_within(self, split: str, rng: random.Random) -> Example | None:
        """A random problem of a split; None if many draws gave none of it."""

    @abstractmethod
    def training_text(self, rng: random.Random, stage: Stage) -> tuple[str, str]:
        """A (prompt, solution) pair of the pretrain split."""

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
            example = self.draw_within(split, rng)
            if example is not None and example.prompt not in found:
                found[example.prompt], misses = example, 0
                continue
            misses += 1
            if example is None or misses > MISSES:
                some = f"about {len(found)} {split} prompts, not {n}: ask for no more than that"
                few = some if found else f"no {split} prompts"
                raise UnmaskError(f"Task {self.name!r} has {few}{'' if found else ': choose another difficulty'}.")
        return list(found.values())
