"""A file of your own as a task: a row an example, with the columns ``prompt`` and ``answer``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.tasks.dataset import DataSet, Paths
from unmask.tasks.rows import Row
from unmask.tasks.verifiers import Verifier


class FileTask(DataSet):
    """Prompts and answers from a JSONL or Parquet file, or one for each split; see `DataSet`.

    Args:
        verifier: None leaves the task without one, for decoding only.
        chat: the prompts are messages for a chat template.
        gen_length: region that holds the answers.
    """

    known = {"prompt": ("prompt",), "answer": ("answer",)}

    def __init__(
        self,
        path: Paths,
        verifier: str | Verifier | None = None,
        *,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
        chat: bool = False,
        gen_length: int = 256,
        block_length: int = 32,
    ) -> None:
        if name is None:
            name = "file" if isinstance(path, Mapping) else Path(path).stem
        super().__init__(name, path, columns, verifier, chat=chat)
        self.gen_length, self.block_length = gen_length, block_length

    def message(self, row: Row, split: str) -> tuple[str, str]:
        return self.question(row), ""

    def plain(self, row: Row) -> str:
        return self.question(row)

    def shot(self, row: Row) -> str:
        raise UnmaskError("few_shot is for data sets: write worked examples into the prompts of your file.")
