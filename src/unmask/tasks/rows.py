"""Rows of a data set, from a JSONL or Parquet file or the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.files import read_jsonl

FILES = (".jsonl", ".parquet")
HEAVY = ("trials",)  # of KodCode: other models' attempts, gigabytes that nothing here reads


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set on the Hub."""

    repo: str
    config: str | None
    split: str


@dataclass(frozen=True)
class Row:
    """A row of a data set, read by our names of its columns.

    Attributes:
        place: where it stands, for messages: ``train.jsonl, row 12``.
        names: our name of a column -> names it goes by in the data set.
    """

    values: Mapping[str, Any]
    place: str
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """What the row has under one of our names; None if nothing."""
        return next((self.values[each] for each in self.names[name] if self.values.get(each) not in (None, "")), None)

    def need(self, name: str) -> Any:
        """As `get`, of a column that no row may lack.

        Raises:
            UnmaskError: naming the row and the column.
        """
        names = self.names[name]
        value = self.get(name)
        if value is None and not any(each in self.values for each in names):
            has = ", ".join(self.values) or "none"
            ours = " or ".join(map(repr, names))
            raise UnmaskError(f"{self.place}: no column {ours} (it has: {has}): rename or add it.")
        if value is None:
            empty = next(each for each in names if each in self.values)
            raise UnmaskError(f"{self.place}: column {empty!r} is empty: fill it or leave the row out.")
        return value

    def text(self, name: str) -> str:
        """As `need`, of text or a number.

        Raises:
            UnmaskError: naming the row and the column.
        """
        value = self.need(name)
        if not isinstance(value, str | int | float):
            kind = type(value).__name__
            raise UnmaskError(f"{self.place}: the {name} is a {kind}: give text, or another column by columns=.")
        return str(value)

    def others(self, *names: str) -> dict[str, Any]:
        """The row's columns without ours of these names."""
        ours = {each for name in names for each in self.names[name]}
        return {name: value for name, value in self.values.items() if name not in ours}


def column_names(
    known: Mapping[str, Sequence[str]], renamed: Mapping[str, str] | None = None
) -> dict[str, Sequence[str]]:
    """Our name of a column -> names it goes by: those that the data set usually has, or the one that the user says.

    Raises:
        UnmaskError: a column that we do not have is renamed.
    """
    for name in renamed or {}:
        if name not in known:
            raise UnmaskError(f"Unknown column {name!r}: {nearest(name, known)}")
    return {**known, **{ours: (theirs,) for ours, theirs in (renamed or {}).items()}}


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
