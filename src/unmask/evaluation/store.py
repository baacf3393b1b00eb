"""Rows of evaluations in a folder: kept as they are made, so that what was stopped goes on and nothing is done twice.

config.json      what all rows have in common: dLLM, task, split, lengths
rows.jsonl       a row per prompt and seed of each entry
rows.N.jsonl     those of process N, until an evaluation has ended
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.entries import COLUMNS, Entry, entry_key
from unmask.evaluation.rows import ResultRow
from unmask.files import jsonl, read_jsonl, read_object, write_text
from unmask.journal import Claim, Journal, check_begun

Key = tuple[str, int, int]
KINDS = {  # of what is counted, averaged or compared
    "index": int,
    "seed": int,
    "prompt": str,
    "correct": int,
    "nfe": int,
    "tokens": int,
    "model": str,
    "task": str,
    "split": str,
    "versions": dict,
    "hardware": str,
}


class RowStore:
    """
    Args:
        folder: where the rows are.
        shared: what all of them must have in common.
        defaults: of these, what they were before there was such a setting.
        resume: add to those that are there.
        rank: of this process; each appends to a file of its own.

    Raises:
        UnmaskError: there are rows and `resume` is False; there is nothing to resume; they have something else in
            common; a row is broken; another process (of another launch) writes to the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        shared: Mapping[str, Any],
        *,
        resume: bool = False,
        rank: int = 0,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(folder)
        self._config = self.path / "config.json"
        self._part = Journal(self.path / f"rows.{rank}.jsonl")
        if resume and not self._config.exists():
            if any(self.path.glob("rows*.jsonl")):
                raise UnmaskError(f"{self._config} is missing: put it back, or give another --output.")
            raise UnmaskError(f"Nothing to resume in {folder}: start without --resume.")
        self._claim = Claim(folder, self.path / ".lock", "--output") if rank == 0 else None
        if not resume and (self._config.exists() or (self.path / "rows.jsonl").exists()):
            raise UnmaskError(f"{folder} holds results: pass --resume to add what is missing, or another --output.")
        if resume:
            before = read_object(self._config, "give another --output, or put the file back")
            check_begun(folder, before, shared, "--output", defaults=defaults)
            self._part.mend()
        elif rank == 0:
            write_text(self._config, json.dumps(shared, indent=2) + "\n")
        self._rows: dict[str, dict[tuple[int, int], ResultRow]] = {}  # entry -> (seed, prompt) -> row
        if resume:
            self.reload()

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """See that rows that are there are of these prompts.

        Raises:
            UnmaskError: naming the first that is not.
        """
        for (_, index), row in (item for rows in self._rows.values() for item in rows.items()):
            if index < len(prompts) and row["prompt"] != prompts[index]:
                raise UnmaskError(
                    f"{self.path} was begun with another prompt {index} ({row['prompt'][:40]!r}, not "
                    f"{prompts[index][:40]!r}): the data or the rows have changed; give another --output."
                )

    def done(self, entry: Entry) -> set[tuple[int, int]]:
        """(seed, prompt) of the rows that an entry has."""
        return set(self._rows.get(entry.key, ()))

    def append(self, rows: Sequence[ResultRow]) -> None:
        """Keep rows at once."""
        self._part.append(rows)
        self._take(rows)

    def abandon(self) -> None:
        """Leave no folder behind in which nothing could be made, so that the mended command may begin it."""
        made = self._rows or any(part.stat().st_size for part in self._parts())  # other processes may have rows
        if not made and self._claim is not None:
            for path in (self._config, *self._parts()):
                path.unlink(missing_ok=True)

    def of(self, entry: Entry, seeds: Sequence[int], prompts: int) -> list[ResultRow]:
        """An entry's rows of these seeds and of the first prompts, in order."""
        rows = self._rows[entry.key]
        return [rows[seed, index] for seed in seeds for index in range(prompts)]

    def reload(self) -> None:
        """Take the rows that other processes have made."""
        self._rows = {}
        for rows in self._read():
            self._take(rows)

    def finish(self, entries: Iterable[Entry]) -> None:
        """Put the rows of all processes into rows.jsonl: these entries first, each by seed and prompt."""
        self.reload()
        first = {entry.key: index for index, entry in enumerate(entries)}
        order = sorted(self._rows, key=lambda key: (first.get(key, len(first)), key))
        write_text(self.path / "rows.jsonl", jsonl(row for key in order for _, row in sorted(self._rows[key].items())))
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("rows.*.jsonl"))

    def _take(self, rows: Iterable[ResultRow]) -> None:
        for row in rows:
            key, seed, index = key_of(row)
            self._rows.setdefault(key, {})[seed, index] = row

    def _read(self) -> Iterator[list[ResultRow]]:
        """All rows. The last line of a part may be cut short, by a kill: that row is made again."""
        whole = self.path / "rows.jsonl"
        for path in [*([whole] if whole.exists() else []), *self._parts()]:
            yield read_rows(path, may_be_cut=path != whole)


def read_rows(path: Path, *, may_be_cut: bool = False) -> list[ResultRow]:
    """Rows of a file.

    Args:
        may_be_cut: leave out a last line that was cut short.

    Raises:
        UnmaskError: naming the line: it is no row, or a row that stood there before.
    """
    rows: dict[Key, ResultRow] = {}
    for line in read_jsonl(path):
        if line.cut and may_be_cut:
            break
        wrong = _wrong(line.value)
        if wrong:
            raise UnmaskError(
                f"{path}, line {line.number}, is no row of an evaluation ({wrong}): delete the line and resume, or "
                "evaluate anew."
            )
        key = key_of(line.value)
        if key in rows:
            raise UnmaskError(
                f"{path}, line {line.number}, is a second row of prompt {key[2]} and seed {key[1]} in its entry: "
                "delete one."
            )
        rows[key] = line.value
    return list(rows.values())


def _wrong(row: Any) -> str:
    """What of a row cannot be used, if anything."""
    if not isinstance(row, dict) or not row.keys() >= {*COLUMNS, *KINDS}:
        return "cut short, or of another version"
    wrong = (key for key, kind in KINDS.items() if not isinstance(row[key], kind))
    key = next(wrong, "index" if row["index"] < 0 else None)
    return "" if key is None else f"{key} = {row[key]!r}"


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells a row from all others: its entry, seed and prompt."""
    return entry_key(row), row["seed"], row["index"]
