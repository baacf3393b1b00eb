"""Prompts from a Parquet file and rows to one, some thousand at a time: neither need fit into memory.

The rows that are finished wait in the JSONL journal of `unmask.cli.prompts`. In the end they are put beside the
input's other columns, which keep their types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from unmask.cli.prompts import Given, Prompt, is_prompt
from unmask.decoding.results import Completion
from unmask.errors import UnmaskError, nearest
from unmask.files import draft_of
from unmask.journal import Kept, check_begun

ENDING = ".parquet"
ROWS = 1024  # that are read, or written, at a time
METADATA = b"unmask"  # of the output: its settings, and the rows of its input


class ParquetPrompts:
    """
    Args:
        column: that holds the prompts: texts, messages of chats (structs with role and content), or token ids.

    Raises:
        UnmaskError: pyarrow is not installed; there is no such file, or it is broken, or has no such column or rows.
    """

    unit = "row"

    def __init__(self, path: str, column: str) -> None:
        self.name, self._column = path, column
        try:
            self._arrow, self._parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError:
            raise UnmaskError("Parquet files need pyarrow: pip install 'unmask[tasks]'.") from None
        if not Path(path).is_file():
            raise UnmaskError(f"No input file at {path}: give a Parquet or JSONL file.")
        with self._opened(path) as file:
            self._schema, self._rows = file.schema_arrow, file.metadata.num_rows
        if column not in self._schema.names:
            raise UnmaskError(f"{path} has no column {column!r}: {nearest(column, self._schema.names)} Give --column.")
        for name in self._schema.names:
            if self._schema.names.count(name) > 1:
                raise UnmaskError(f"{path} has several columns {name!r}: rename all but one.")
            if "_view" in str(self._schema.field(name).type):
                raise UnmaskError(
                    f"The column {name!r} of {path} holds {self._schema.field(name).type}, which cannot be kept: write "
                    "it as string or binary, or leave it out."
                )
        kind = self._schema.field(column).type
        if not self._holds_prompts(kind):
            raise UnmaskError(
                f"The column {column!r} of {path} holds {kind}: give one of texts, messages (role and content) or "
                "token ids."
            )
        if not self._rows:
            raise UnmaskError(f"{path} holds no rows: give another file.")

    def __len__(self) -> int:
        return int(self._rows)

    def __iter__(self) -> Iterator[Given]:
        index = -1
        for batch in self._batches([self._column]):
            for value in batch.column(0).to_pylist():
                index += 1
                prompt = _without_nulls(value)
                if is_prompt(prompt):
                    yield Given(index, prompt)
                else:
                    null = " (null)" if value is None else ""
                    yield Given(index, problem=f"has no text under {self._column!r}{null}")

    def finished(self, output: Path) -> Sequence[Path]:
        return []  # rows come from the journal alone

    def complete(self, output: Path, settings: Mapping[str, Any]) -> bool:
        if not output.exists():
            return False
        with self._opened(output) as file:
            told = (file.schema_arrow.metadata or {}).get(METADATA)
        if told is None:
            raise UnmaskError(f"{output} is no output of unmask decode: give another --output.")
        before = json.loads(told)
        check_begun(output, before["settings"], settings, "--output")
        if before["rows"] != self._rows:
            raise UnmaskError(
                f"{output} is of an input of {before['rows']} rows, and {self.name} has {self._rows}: give another "
                "--output."
            )
        return self._has_all(output)

    def _has_all(self, output: Path) -> bool:
        """Whether each prompt is in the output.

        Raises:
            UnmaskError: it was made of other prompts.
        """
        with self._opened(output) as file:
            made = (row for batch in file.iter_batches(ROWS, columns=["index", "prompt"]) for row in batch.to_pylist())
            row, whole = next(made, None), True
            for given in self:
                if row is None or row["index"] != given.index:
                    whole = False
                    continue
                if _without_nulls(row["prompt"]) != given.prompt:
                    raise UnmaskError(
                        f"{output} was begun with another prompt in row {given.index + 1}: give another --output."
                    )
                row = next(made, None)
        return whole

    def write(self, output: Path, kept: Kept, settings: Mapping[str, Any]) -> None:
        schema = self._output_schema(settings)
        others = [name for name in self._schema.names if name != self._column]
        with draft_of(output) as draft, self._parquet.ParquetWriter(draft, schema) as writer:
            start = 0
            for batch in self._batches(None):
                found = [i for i in range(len(batch)) if start + i in kept]
                rows = list(kept.rows(start + i for i in found))
                start += len(batch)
                if not rows:
                    continue
                chosen = batch.take(self._arrow.array(found))
                columns = {"prompt": chosen.column(self._column)}
                columns |= {
                    name: self._arrow.array([row[name] for row in rows], schema.field(name).type)
                    for name in schema.names
                    if name not in ("prompt", "input")
                }
                if others:
                    columns["input"] = self._arrow.StructArray.from_arrays(
                        [chosen.column(name) for name in others], fields=list(schema.field("input").type)
                    )
                writer.write_batch(
                    self._arrow.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
                )

    def _output_schema(self, settings: Mapping[str, Any]) -> Any:
        """The columns of a JSONL row; the settings are in the file's metadata."""
        arrow = self._arrow
        kinds = {"index": arrow.int64(), "text": arrow.string(), "ended": arrow.string(), "seconds": arrow.float64()}
        kinds |= {"equivalents": arrow.float64()} | dict.fromkeys(("tokens", "revealed_at"), arrow.list_(arrow.int32()))
        names = [field.name for field in fields(Completion)]
        found = [arrow.field("prompt", self._schema.field(self._column).type)]
        found += [arrow.field(name, kinds.get(name, arrow.int64())) for name in names]
        others = [field for field in self._schema if field.name != self._column]
        found += [arrow.field("input", arrow.struct(others))] if others else []
        told = json.dumps({"settings": dict(settings), "rows": self._rows})
        return arrow.schema(found, metadata={METADATA: told})

    def _holds_prompts(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_string(kind) or types.is_large_string(kind):
            return True
        if not (types.is_list(kind) or types.is_large_list(kind)):
            return False
        item = kind.value_type
        if types.is_struct(item):
            texts = {field.name for field in item if types.is_string(field.type) or types.is_large_string(field.type)}
            return texts >= {"role", "content"} and len(texts) == item.num_fields
        return bool(types.is_integer(item))

    def _batches(self, columns: list[str] | None) -> Iterator[Any]:
        with self._opened(self.name) as file:
            yield from file.iter_batches(ROWS, columns=columns)

    @contextmanager
    def _opened(self, path: str | Path) -> Iterator[Any]:
        """
        Raises:
            UnmaskError: the file is broken.
        """
        try:
            # Else the columns of a whole row group would be held.
            with self._parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
        except (self._arrow.ArrowException, OSError) as e:
            told = str(e).strip().partition("\n")[0].rstrip(".")
            raise UnmaskError(f"Cannot read {path} ({told}): give a whole Parquet file.") from None


def _without_nulls(value: Any) -> Prompt | Any:
    """Messages without the fields that they lack, which Parquet holds as nulls."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{name: told for name, told in (message or {}).items() if told is not None} for message in value]
    return value
