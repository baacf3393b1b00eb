"""Rows of a data set, from a JSONL or Parquet file or the Hub, and how they fall into splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.files import read_jsonl

FILES = (".jsonl", ".parquet")
HEAVY = ("trials",)  # of KodCode: other models' attempts, gigabytes that nothing here reads


@dataclass(frozen=True)
class Row:
    """A row and where it stands, for messages: ``train.jsonl, row 12``."""

    values: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set on the Hub."""

    repo: str
    config: str | None
    split: str


class Columns:
    """Finds our columns in a row, by the names that a data set usually gives them, or by those that the user says.

    Args:
        known: our name -> names it usually goes by.
        renamed: our name -> the file's.

    Raises:
        UnmaskError: a column that we do not have is renamed.
    """

    def __init__(self, known: Mapping[str, Sequence[str]], renamed: Mapping[str, str] | None = None) -> None:
        for name in renamed or {}:
            if name not in known:
                raise UnmaskError(f"Unknown column {name!r}: {nearest(name, known)}")
        self._names = {**known, **{ours: (theirs,) for ours, theirs in (renamed or {}).items()}}

    def get(self, row: Row, name: str) -> Any:
        """What a row has under one of our names; None if nothing."""
        return next((row.values[each] for each in self._names[name] if row.values.get(each) not in (None, "")), None)

    def need(self, row: Row, name: str) -> Any:
        """As `get`, of a column that no row may lack.

        Raises:
            UnmaskError: naming the row and the column.
        """
        names = self._names[name]
        value = self.get(row, name)
        if value is None and not any(each in row.values for each in names):
            has = ", ".join(row.values) or "none"
            ours = " or ".join(map(repr, names))
            raise UnmaskError(f"{row.place}: no column {ours} (it has: {has}): rename or add it.")
        if value is None:
            empty = next(each for each in names if each in row.values)
            raise UnmaskError(f"{row.place}: column {empty!r} is empty: fill it or leave the row out.")
        return value

    def text(self, row: Row, name: str) -> str:
        """As `need`, of text or a number.

        Raises:
            UnmaskError: naming the row and the column.
        """
        value = self.need(row, name)
        if not isinstance(value, str | int | float):
            kind = type(value).__name__
            raise UnmaskError(f"{row.place}: the {name} is a {kind}: give text, or another column by columns=.")
        return str(value)

    def others(self, row: Row, *names: str) -> dict[str, Any]:
        """The row without our columns of these names."""
        ours = {each for name in names for each in self._names[name]}
        return {name: value for name, value in row.values.items() if name not in ours}


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a JSONL or Parquet file.

    Raises:
        UnmaskError: naming the file, and the row if one is to blame.
    """
    path = Path(path)
    if path.suffix not in FILES:
        raise UnmaskError(
            f"Cannot read {path}: give a JSONL or Parquet file, by a name that ends in {' or '.join(FILES)}."
        )
    if not path.is_file():
        raise UnmaskError(
            f"Cannot read the task file {path} (there is none): give the path of a JSONL or Parquet file."
        )
    rows = list(_parquet(path) if path.suffix == ".parquet" else _jsonl(path))
    if not rows:
        raise UnmaskError(f"{path} holds no rows: give one JSON object a line, or another file.")
    return rows


def hub_rows(parts: Sequence[HubSplit]) -> list[Row]:
    """All rows of splits on the Hub, one after the other, through `datasets`.

    Raises:
        UnmaskError: `datasets` is not installed, or a split cannot be loaded.
    """
    datasets = _optional("datasets", "Data sets from the Hub need")
    rows = []
    for part in parts:
        try:
            data = datasets.load_dataset(part.repo, part.config, split=part.split)
            data = data.remove_columns([name for name in HEAVY if name in data.column_names])
        except Exception as e:  # of the network, the cache, the Hub or Arrow: the remedy is the same
            told = str(e).strip().partition("\n")[0].rstrip(".") or type(e).__name__
            raise UnmaskError(
                f"Cannot load {part.repo} ({told}): go online, or give path= (--task-path) with a JSONL or "
                "Parquet file of its rows."
            ) from e
        where = "/".join(name for name in (part.repo, part.config, part.split) if name)
        rows += [Row(values, f"{where}, row {i}") for i, values in enumerate(data, start=1)]
    return rows


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


def _hash(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(f"split of {prompt}".encode("utf-8", "surrogatepass")).digest()[:8])


def _jsonl(path: Path) -> Iterator[Row]:
    for line in read_jsonl(path):
        if line.problem:
            raise UnmaskError(f"{path}, row {line.number}, {line.problem}: write one object a line.")
        if not isinstance(line.value, dict):
            raise UnmaskError(f"{path}, row {line.number}: not a JSON object: write one object a line.")
        yield Row(line.value, f"{path}, row {line.number}")


def _parquet(path: Path) -> Iterator[Row]:
    parquet = _optional("pyarrow.parquet", "Parquet files need")
    try:
        table = parquet.read_table(path).to_pylist()
    except Exception as e:  # pyarrow has errors of its own for each way in which a file can be broken
        told = str(e).strip().partition("\n")[0].rstrip(".")
        raise UnmaskError(f"Cannot read the task file {path} ({told}): give a Parquet file.") from None
    for i, values in enumerate(table, start=1):
        yield Row(values, f"{path}, row {i}")


def _optional(module: str, need: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise UnmaskError(f"{need} the package {module.partition('.')[0]!r}: pip install 'unmask[tasks]'.") from None
