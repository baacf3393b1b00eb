"""Rows of evaluations in a folder: kept as they are made, so that what was stopped goes on and nothing is done twice.

config.json      what all rows have in common: dLLM, task, split, lengths
rows.jsonl       a row a prompt and seed of each cell
rows.N.jsonl     those of process N, until an evaluation has ended
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.cells import Cell, key_of_cell
from unmask.evaluation.evaluate import Row
from unmask.files import jsonl, write_text

Key = tuple[str, int, int]


class RowStore:
    """
    Args:
        folder: where the rows are.
        shared: what all of them must have in common.
        resume: add to those that are there.
        rank: of this process; each appends to a file of its own.

    Raises:
        UnmaskError: there are rows and `resume` is False; there is nothing to resume; they have something else in
            common; a row is broken.
    """

    def __init__(self, folder: str | Path, shared: Mapping[str, Any], *, resume: bool = False, rank: int = 0) -> None:
        self.path = Path(folder)
        self._config = self.path / "config.json"
        self._part = self.path / f"rows.{rank}.jsonl"
        begun = self._config.exists() or (self.path / "rows.jsonl").exists()
        if begun and not resume:
            raise UnmaskError(f"{folder} holds results: pass --resume to add what is missing, or another --output.")
        if resume and not self._config.exists():
            raise UnmaskError(f"Nothing to resume in {folder}: start without --resume.")
        if resume:
            self._compare(shared)
        elif rank == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self._config, json.dumps(shared, indent=2) + "\n")
        self._rows: dict[str, dict[tuple[int, int], Row]] = {}  # cell -> (seed, prompt) -> row
        if resume:
            self.reload()

    def done(self, cell: Cell) -> set[tuple[int, int]]:
        """(seed, prompt) of the rows that a cell has."""
        return set(self._rows.get(cell.key, ()))

    def append(self, rows: Sequence[Row]) -> None:
        """Keep rows at once."""
        with self._part.open("a", encoding="utf-8") as file:
            file.write(jsonl(rows))
        self._take(rows)

    def of(self, cell: Cell, seeds: Sequence[int], prompts: int) -> list[Row]:
        """A cell's rows of these seeds and of the first prompts, in order."""
        rows = self._rows[cell.key]
        return [rows[seed, index] for seed in seeds for index in range(prompts)]

    def reload(self) -> None:
        """Take the rows that other processes have made."""
        self._rows = {}
        for rows in self._read():
            self._take(rows)

    def finish(self, cells: Iterable[Cell]) -> None:
        """Put the rows of all processes into rows.jsonl: these cells first, each by seed and prompt."""
        self.reload()
        places = {cell.key: place for place, cell in enumerate(cells)}
        order = sorted(self._rows, key=lambda key: (places.get(key, len(places)), key))
        write_text(self.path / "rows.jsonl", jsonl(row for key in order for _, row in sorted(self._rows[key].items())))
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("rows.*.jsonl"))

    def _take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key, seed, index = key_of(row)
            self._rows.setdefault(key, {})[seed, index] = row

    def _read(self) -> Iterator[list[Row]]:
        """All rows. The last line of a part may be cut short, by a kill: that row is made again."""
        whole = self.path / "rows.jsonl"
        for path in [*([whole] if whole.exists() else []), *self._parts()]:
            rows, cut = read_rows(path, may_be_cut=path != whole)
            if cut and path == self._part:
                write_text(path, jsonl(rows))
            yield rows

    def _compare(self, shared: Mapping[str, Any]) -> None:
        before = json.loads(self._config.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(shared))
        for key in sorted({*before, *wanted}):
            if before.get(key) != wanted.get(key):
                raise UnmaskError(
                    f"{self.path} was begun with {key} = {before.get(key)!r}, not {wanted.get(key)!r}: resume with the "
                    "same settings, or give another --output."
                )


def read_rows(path: Path, *, may_be_cut: bool = False) -> tuple[list[Row], bool]:
    """Rows of a file, and whether its last line was cut short and left out.

    Raises:
        UnmaskError: naming the line: it is no row, or a row that stood there before.
    """
    rows: dict[Key, Row] = {}
    text = path.read_text(encoding="utf-8")
    written = text.splitlines(keepends=True)
    for number, line in enumerate(written, start=1):
        try:
            row = json.loads(line)
            key = key_of(row)
        except (ValueError, KeyError, TypeError):
            if may_be_cut and number == len(written) and not line.endswith("\n"):
                return list(rows.values()), True
            raise UnmaskError(
                f"{path}, line {number}, is no row of an evaluation (cut short, or of another version): delete the "
                "line and resume, or evaluate anew."
            ) from None
        if key in rows:
            raise UnmaskError(
                f"{path}, line {number}, is a second row of prompt {key[2]} and seed {key[1]} in its cell: delete one."
            )
        rows[key] = row
    return list(rows.values()), False


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells a row from all others: its cell, seed and prompt."""
    return key_of_cell(row), row["seed"], row["index"]
