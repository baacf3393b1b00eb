"""How the rows of a data set fall into splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from unmask.errors import UnmaskError, nearest
from unmask.tasks.base import SPLITS
from unmask.tasks.rows import HubSplit, Row, hub_rows, read_rows

Paths = str | Path | Mapping[str, str | Path]
ALL = "all"  # the one part of a source whose splits are drawn from its rows


class Source:
    """Rows by split, read when they are asked for.

    A split that the source has is that split; where it has none for validation, one in twenty training prompts is held
    out, by a hash of the question. A single file (or a data set of one split) serves all.

    Args:
        name: of the task, for messages.
        path: None for the Hub; a JSONL or Parquet file; or such files by split.
        hub: where the Hub has the splits.
        columns: our name of a column -> names it goes by.
        question: what tells a row from others.
        split_of: the split of a row of a single file; None: by a hash of the question.
        check: called with each row that is read; raises where it lacks something.

    Raises:
        UnmaskError: a file that cannot be read, a row that lacks a column, a prompt in two splits.
    """

    def __init__(
        self,
        name: str,
        path: Paths | None,
        hub: Mapping[str, Sequence[HubSplit]],
        *,
        columns: Mapping[str, Sequence[str]],
        question: Callable[[Row], str],
        split_of: Callable[[Row], str] | None,
        check: Callable[[Row], object],
    ) -> None:
        self.from_files = path is not None
        self._name, self._columns, self._check = name, columns, check
        self._question = question
        self._split_of = split_of or (lambda row: hashed_split(question(row)))
        self._readers = _hub_readers(hub) if path is None else _file_readers(path)
        self._parts: dict[str, list[Row]] = {}
        self._splits: dict[str, list[Row]] = {}
        if self.from_files:
            check_disjoint({key: [(question(row), row.place) for row in self._part(key)] for key in self._readers})

    def __contains__(self, part: str) -> bool:
        return part in self._readers

    def all_rows(self) -> list[Row]:
        """The rows of a single file, in order."""
        return self._part(ALL)

    def rows(self, split: str) -> list[Row]:
        """The rows of a split, in order; there may be none.

        Raises:
            UnmaskError: the source has no such split.
        """
        if split not in self._splits:
            self._splits[split] = self._divide(split)
        return self._splits[split]

    def count_read(self) -> int:
        """The number of rows read so far."""
        return sum(map(len, self._parts.values()))

    def _divide(self, split: str) -> list[Row]:
        if ALL in self._readers:
            return [row for row in self._part(ALL) if self._split_of(row) == split]
        if "train" in self._readers and "validation" not in self._readers and split in ("train", "validation"):
            return [row for row in self._part("train") if held_out(self._question(row)) == (split == "validation")]
        return self._part(split)

    def _part(self, key: str) -> list[Row]:
        if key not in self._readers:
            has = ", ".join(self._readers)
            remedy = f"path={{{key!r}: ...}}" if self.from_files else "another task"
            raise UnmaskError(f"The task {self._name!r} has no {key} split (it has: {has}): give {remedy}.")
        if key not in self._parts:
            self._parts[key] = [replace(row, names=self._columns) for row in self._readers[key]()]
            for row in self._parts[key]:
                self._check(row)
        return self._parts[key]


def hashed_split(prompt: str) -> str:
    """The split of a prompt of a single file: 8 of 10 for training, one each for validation and test."""
    return {8: "validation", 9: "test"}.get(_hash(prompt) % 10, "train")


def held_out(prompt: str) -> bool:
    """True for one in twenty prompts: they are kept from a training set that comes without a validation set."""
    return _hash(prompt) % 20 == 0


def check_disjoint(prompts: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """
    Args:
        prompts: split -> (prompt, place) each.

    Raises:
        UnmaskError: a prompt stands in two splits, naming both places.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, places in prompts.items():
        for prompt, place in places:
            first, where = seen.setdefault(prompt, (split, place))
            if first != split:
                raise UnmaskError(f"{place}: the {first} split has the same prompt ({where}): leave one of them out.")


def _hub_readers(hub: Mapping[str, Sequence[HubSplit]]) -> Mapping[str, Callable[[], list[Row]]]:
    return {split: partial(hub_rows, parts) for split, parts in hub.items()}


def _file_readers(path: Paths) -> Mapping[str, Callable[[], list[Row]]]:
    if not isinstance(path, Mapping):
        return {ALL: partial(read_rows, path)}
    for split in path:
        if split not in SPLITS:
            raise UnmaskError(f"Unknown split {split!r} in path: {nearest(split, SPLITS)}")
    if not path:
        raise UnmaskError("path names no file: give one, or one for each split.")
    return {split: partial(read_rows, file) for split, file in path.items()}


def _hash(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(f"split of {prompt}".encode("utf-8", "surrogatepass")).digest()[:8])
