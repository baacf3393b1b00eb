"""The task seam: where prompts come from, and what counts as correct."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal, SupportsIndex, get_args

from unmask.errors import UnmaskError, nearest

Split = Literal["pretrain", "train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Example:
    """One prompt and its gold answer.

    Attributes:
        columns: what else a data set says of it.
        chat: the prompt is a user's message, for the chat template of a dLLM that has one.
        prefix: how the answer begins, given to the dLLM after the prompt.
        task: name of the task it comes from, in a mixture.
    """

    prompt: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    chat: bool = False
    prefix: str = ""
    task: str = ""


class Task(ABC):
    """Prompts with a verifier.

    Attributes:
        name: for result rows and the command line.
        gen_length: generation region that holds the task's solutions.
        block_length: a sensible semi-autoregressive block.
        endless: its prompts are drawn, so that it needs to be told how many.
        verifiable: False where nothing can say what is correct; such a task is for decoding only.
    """

    name: str
    gen_length: int
    block_length: int
    endless: bool = False
    verifiable: bool = True

    @abstractmethod
    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        """n distinct examples of a split (a data set with fewer gives all it has); the same ones for the same seed.

        Splits share no prompt: ``pretrain`` is for training dLLMs, ``train`` for policies, ``validation`` for choosing
        checkpoints and settings, ``test`` for the numbers that are reported.

        Args:
            split: None for the rows of a single file as they are, or else the test split.
            n: None for all of a data set; drawn tasks have no end and need a number.

        Raises:
            UnmaskError: an unknown split, no example, or more than can be drawn.
        """

    def region(self, asked: int | None) -> int:
        """Positions to generate: as many as asked for, or its own.

        Raises:
            UnmaskError: its answers fill a region of another length.
        """
        return self.gen_length if asked is None else asked

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Make sure, before anything is decoded, that answers can be verified here.

        Raises:
            UnmaskError: naming what this machine lacks, such as a sandbox for programs.
        """

    @abstractmethod
    def verify(self, example: Example, text: str) -> bool:
        """True if the text answers the example correctly."""

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        """`verify` of each; overridden where many at once are cheaper."""
        return [self.verify(example, text) for example, text in zip(examples, texts, strict=True)]


def check_split(split: str) -> None:
    """
    Raises:
        UnmaskError: an unknown split.
    """
    if split not in SPLITS:
        raise UnmaskError(f"Unknown split {split!r}: {nearest(split, SPLITS)}")


def check_count(n: Any) -> None:
    """
    Raises:
        UnmaskError: a number of examples that is none.
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, SupportsIndex) or index(n) < 0):
        raise UnmaskError(f"The number of examples is {n!r}: give a whole number from 0, or None for all.")


def verdicts(task: Task, examples: Sequence[Example], texts: Sequence[str], complete: Sequence[bool]) -> list[bool]:
    """What counts as correct, decided here alone: the verifier's verdict, and a completion without masks.

    Args:
        task: one without a verifier counts nothing as correct.
        complete: False where the step budget was spent with masks left: such an answer is wrong, whatever its text.
    """
    if not task.verifiable:
        return [False] * len(texts)
    return [right and whole for right, whole in zip(task.verify_all(examples, texts), complete, strict=True)]
