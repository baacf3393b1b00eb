"""Data sets as tasks: a format says what the rows hold and how to ask; rows come from the Hub or from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from unmask.errors import UnmaskError
from unmask.sandbox import Program
from unmask.tasks.base import Example, Task, check_count, check_split
from unmask.tasks.programs import ByTests
from unmask.tasks.rows import HubSplit, Row, column_names
from unmask.tasks.splits import ALL, Paths, Source
from unmask.tasks.verifiers import Verifier, load_verifier


def prompt_of(row: Row) -> str:
    """The column ``prompt``."""
    return row.text("prompt")


def answer_of(row: Row) -> str:
    """The column ``answer``."""
    return row.text("answer")


def other_columns(row: Row) -> dict[str, Any]:
    """All columns but ``prompt`` and ``answer``."""
    return row.others("prompt", "answer")


@dataclass(frozen=True)
class Prompts:
    """How a data set asks.

    Attributes:
        message: (row, split, worked examples) -> a user's message, and the prefix of the answer to it.
        plain: row -> the prompt for a base model, without worked examples.
        shot: (row, for a chat) -> a worked example.
        stops: where the answer of a base model ends; it goes on with another question.
    """

    message: Callable[[Row, str, str], tuple[str, str]]
    plain: Callable[[Row], str]
    shot: Callable[[Row, bool], str]
    stops: Sequence[str] = ()


@dataclass(frozen=True)
class Format:
    """What a data set holds, how it asks and what is correct. Each data set is one, in a file of its own.

    Attributes:
        columns: our name of a column -> names it usually goes by; all have ``prompt`` and ``answer``.
        hub: where the Hub has the splits.
        verifier: name of the verifier; None where the user gives one.
        program: of a data set whose rows bring tests: (example, text) -> what the sandbox runs to verify the text.
        question: what tells a row from others, whatever the prompt around it.
        answer: the gold answer.
        details: the example's columns.
        split_of: the split of a row of a source that has but one; None: by a hash of the question.
        shots_from: where the worked examples are from, if the source has it; else they are from ``train``.
    """

    columns: Mapping[str, Sequence[str]]
    prompts: Prompts
    hub: Mapping[str, Sequence[HubSplit]] = field(default_factory=dict)
    verifier: str | None = None
    program: Callable[[Example, str], Program] | None = None
    question: Callable[[Row], str] = prompt_of
    answer: Callable[[Row], str] = answer_of
    details: Callable[[Row], dict[str, Any]] = other_columns
    split_of: Callable[[Row], str] | None = None
    shots_from: str = "train"


class DataSet(Task):
    """Rows of a data set. `Source` says how they fall into splits.

    Args:
        format: its columns, prompts and verifier.
        path: None for the Hub; a JSONL or Parquet file; or such files by split.
        columns: our name of a column -> the file's.
        verifier: see `unmask.tasks.verifiers.load_verifier`; None for the data set's own.
        few_shot: worked examples in each prompt: the first of the training split, which then lacks them.
        chat: prompts as messages for a chat template; False for base models. None: unless there are worked examples.

    Raises:
        UnmaskError: a file that cannot be read, a row that lacks a column, a prompt in two splits, or a verifier for
            what its tests verify.
    """

    def __init__(
        self,
        name: str,
        format: Format,
        path: Paths | None = None,
        columns: Mapping[str, str] | None = None,
        verifier: str | Verifier | None = None,
        few_shot: int = 0,
        chat: bool | None = None,
        *,
        gen_length: int = 256,
        block_length: int = 32,
    ) -> None:
        if format.program is not None and verifier is not None:
            raise UnmaskError(f"The task {name!r} is verified by its tests: leave out verifier, or give a JSONL file.")
        if few_shot < 0:
            raise UnmaskError(f"few_shot must be 0 or more, not {few_shot}.")
        self.name, self.gen_length, self.block_length = name, gen_length, block_length
        self.format, self.few_shot = format, few_shot
        self.chat = few_shot == 0 if chat is None else chat
        verifier = format.verifier if verifier is None else verifier
        by_answer = None if verifier is None else load_verifier(verifier)
        self._verifier = by_answer if format.program is None else ByTests(format.program)
        self.verifiable = self._verifier is not None
        self._source = Source(
            name,
            path,
            format.hub,
            columns=column_names(format.columns, columns),
            question=format.question,
            split_of=format.split_of,
            check=lambda row: (format.question(row), self._gold(row), format.details(row)),
        )

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        """The first n of a split in the order of its rows, or all there are.

        Raises:
            UnmaskError: an unknown split, or one without rows.
        """
        check_count(n)
        if split is None and self._source.from_files and ALL in self._source:
            return [self._example(row, "test") for row in self._without_shots(self._source.all_rows())[:n]]
        split = "test" if split is None else split
        check_split(split)
        return [self._example(row, split) for row in self._rows(split)[:n]]

    def _gold(self, row: Row) -> str:
        """The gold answer; where nothing verifies by it, a row may do without."""
        return self.format.answer(row) if self.verifiable else str(row.get("answer") or "")

    def prepare(self) -> None:
        if self._verifier is not None:
            self._verifier.prepare()

    def verify(self, example: Example, text: str) -> bool:
        return self.verify_all([example], [text])[0]

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        assert self._verifier is not None
        cut = [self.cut(example, text) for example, text in zip(examples, texts, strict=True)]
        return self._verifier.verify_all(examples, cut)

    def cut(self, example: Example, text: str) -> str:
        """The answer of a base model without what it goes on with."""
        for stop in () if example.chat else self.format.prompts.stops:
            text = text.partition(stop)[0]
        return text

    @cached_property
    def shots(self) -> str:
        """Worked examples, to stand before a prompt.

        Raises:
            UnmaskError: there are not so many.
        """
        rows = self._shot_rows()
        if len(rows) < self.few_shot:
            raise UnmaskError(
                f"{self.name} has {len(rows)} rows for worked examples: lower few_shot = {self.few_shot}."
            )
        return "".join(f"{self.format.prompts.shot(row, self.chat)}\n\n" for row in rows)

    def _shot_rows(self) -> list[Row]:
        if not self.few_shot:
            return []
        split = self.format.shots_from
        split = split if ALL in self._source or split in self._source else "train"
        return self._source.rows(split)[: self.few_shot]

    def _without_shots(self, rows: Sequence[Row]) -> list[Row]:
        shown = {row.place for row in self._shot_rows()}
        return [row for row in rows if row.place not in shown]

    def _rows(self, split: str) -> list[Row]:
        rows = self._source.rows(split)
        if split == "train":
            rows = self._without_shots(rows)
        if not rows:
            count = self._source.count_read()
            raise UnmaskError(f"{self.name} has no {split} examples among its {count} rows: add rows.")
        return rows

    def _example(self, row: Row, split: str) -> Example:
        prompts = self.format.prompts
        prompt, prefix = prompts.message(row, split, self.shots) if self.chat else (self.shots + prompts.plain(row), "")
        answer, details = self._gold(row), self.format.details(row)
        return Example(prompt, answer, details, chat=self.chat, prefix=prefix)
