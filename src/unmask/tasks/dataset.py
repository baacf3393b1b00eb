"""Data sets as tasks: rows from the Hub or from files, splits, prompts for chats and for base models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from unmask.errors import UnmaskError, nearest
from unmask.tasks.base import SPLITS, Example, Task, check_split
from unmask.tasks.rows import Columns, HubSplit, Row, check_disjoint, hashed_split, held_out, hub_rows, read_rows
from unmask.tasks.verifiers import Verifier, code, load_verifier

Paths = str | Path | Mapping[str, str | Path]
ALL = "all"  # the one source of a task whose splits are drawn from its rows by a hash


class DataSet(Task):
    """Rows of a data set. A subclass says what its columns are called and what its prompts look like.

    Splits. A split that the source has is that split; where it has none for validation, one in twenty training prompts
    is held out, by a hash of the question. A single file (or a data set of one split) serves all: 8 of 10 rows for
    training, one each for validation and test, by the same hash.

    Args:
        path: None for the Hub; a JSONL or Parquet file; or such files by split.
        columns: our name of a column -> the file's.
        verifier: see `unmask.tasks.verifiers.load_verifier`; None for the task's own.
        few_shot: worked examples in each prompt: the first of the training split, which then lacks them.
        chat: prompts as messages for a chat template; False for base models. None: unless there are worked examples.

    Raises:
        UnmaskError: a file that cannot be read, a row that lacks a column, a prompt in two splits.
    """

    gen_length = 256
    block_length = 32
    known: ClassVar[Mapping[str, Sequence[str]]]
    hub: ClassVar[Mapping[str, Sequence[HubSplit]]] = {}
    own_verifier: ClassVar[str | None] = None
    stops: ClassVar[tuple[str, ...]] = ()  # a base model that has answered goes on with another question

    def __init__(
        self,
        name: str,
        path: Paths | None = None,
        columns: Mapping[str, str] | None = None,
        verifier: str | Verifier | None = None,
        few_shot: int = 0,
        chat: bool | None = None,
    ) -> None:
        if few_shot < 0:
            raise UnmaskError(f"few_shot must be 0 or more, not {few_shot}.")
        self.name = name
        self.chat = few_shot == 0 if chat is None else chat
        self.few_shot = few_shot
        verifier = self.own_verifier if verifier is None else verifier
        self.verifiable = verifier is not None
        self._verify = None if verifier is None else load_verifier(verifier)
        self._runs_code = verifier in ("code", code)
        self.columns = Columns(self.known, columns)
        self._from_files = path is not None
        self._sources = self._hub_sources() if path is None else _file_sources(path)
        self._sources_read: dict[str, list[Row]] = {}
        self._splits: dict[str, list[Row]] = {}
        if self._from_files:
            questions = {key: [(self.question(row), row.place) for row in self._source(key)] for key in self._sources}
            check_disjoint(questions)

    @abstractmethod
    def message(self, row: Row, split: str) -> tuple[str, str]:
        """A user's message and the prefix of the answer to it."""

    @abstractmethod
    def plain(self, row: Row) -> str:
        """The prompt for a base model."""

    @abstractmethod
    def shot(self, row: Row) -> str:
        """A worked example."""

    def question(self, row: Row) -> str:
        """What tells a row from others, whatever the prompt around it."""
        return self.columns.text(row, "prompt")

    def answer(self, row: Row) -> str:
        """The gold answer."""
        return self.columns.text(row, "answer")

    def details(self, row: Row) -> dict[str, Any]:
        """The example's columns."""
        return self.columns.others(row, "prompt", "answer")

    def split_of(self, row: Row) -> str:
        """The split of a row of a source that has but one."""
        return hashed_split(self.question(row))

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        """The first n of a split in the order of its rows, or all there are.

        Raises:
            UnmaskError: an unknown split, or one without rows.
        """
        if split is None and self._from_files and ALL in self._sources:
            shown = {row.place for row in self.shot_rows()} if self.few_shot else set()
            rows = [row for key in self._sources for row in self._source(key) if row.place not in shown]
            return [self._example(row, "test") for row in rows[:n]]
        split = "test" if split is None else split
        check_split(split)
        return [self._example(row, split) for row in self.rows(split)[:n]]

    def prepare(self) -> None:
        if self._runs_code:
            from unmask.tasks.code import sandbox  # code tasks are data sets

            sandbox()

    def verify(self, example: Example, text: str) -> bool:
        assert self._verify is not None
        return self._verify(self.cut(example, text), example.answer, example.columns)

    def cut(self, example: Example, text: str) -> str:
        """The answer of a base model without what it goes on with."""
        for stop in () if example.chat else self.stops:
            text = text.partition(stop)[0]
        return text

    @cached_property
    def shots(self) -> str:
        """Worked examples, to stand before a prompt.

        Raises:
            UnmaskError: there are not so many.
        """
        rows = self.shot_rows() if self.few_shot else []
        if len(rows) < self.few_shot:
            raise UnmaskError(
                f"{self.name} has {len(rows)} rows for worked examples: lower few_shot = {self.few_shot}."
            )
        return "".join(f"{self.shot(row)}\n\n" for row in rows)

    def shot_rows(self) -> list[Row]:
        """The rows that are worked examples."""
        return self._of("train")[: self.few_shot]

    def rows(self, split: str) -> list[Row]:
        """The rows of a split, in order.

        Raises:
            UnmaskError: there are none.
        """
        rows = self._of(split)
        if split == "train" and self.few_shot:
            shown = {row.place for row in self.shot_rows()}
            rows = [row for row in rows if row.place not in shown]
        if not rows:
            count = sum(map(len, self._sources_read.values()))
            raise UnmaskError(f"{self.name} has no {split} examples among its {count} rows: add rows.")
        return rows

    def _example(self, row: Row, split: str) -> Example:
        prompt, prefix = self.message(row, split) if self.chat else (self.shots + self.plain(row), "")
        return Example(prompt, self.answer(row), self.details(row), chat=self.chat, prefix=prefix)

    def _of(self, split: str) -> list[Row]:
        if split not in self._splits:
            self._splits[split] = self._divide(split)
        return self._splits[split]

    def _divide(self, split: str) -> list[Row]:
        if ALL in self._sources:
            return [row for row in self._source(ALL) if self.split_of(row) == split]
        if "train" in self._sources and "validation" not in self._sources and split in ("train", "validation"):
            return [row for row in self._source("train") if held_out(self.question(row)) == (split == "validation")]
        return self._source(split)

    def _source(self, key: str) -> list[Row]:
        if key not in self._sources:
            has = ", ".join(self._sources)
            remedy = f"path={{{key!r}: ...}}" if self._from_files else "another task"
            raise UnmaskError(f"The task {self.name!r} has no {key} split (it has: {has}): give {remedy}.")
        if key not in self._sources_read:
            self._sources_read[key] = self._sources[key]()
            for row in self._sources_read[key]:
                self.question(row), self.answer(row), self.details(row)  # all that can be wrong with a row
        return self._sources_read[key]

    def _hub_sources(self) -> Mapping[str, Callable[[], list[Row]]]:
        return {split: partial(hub_rows, parts) for split, parts in self.hub.items()}


def _file_sources(path: Paths) -> Mapping[str, Callable[[], list[Row]]]:
    if not isinstance(path, Mapping):
        return {ALL: partial(read_rows, path)}
    for split in path:
        if split not in SPLITS:
            raise UnmaskError(f"Unknown split {split!r} in path: {nearest(split, SPLITS)}")
    if not path:
        raise UnmaskError("path names no file: give one, or one for each split.")
    return {split: partial(read_rows, file) for split, file in path.items()}
