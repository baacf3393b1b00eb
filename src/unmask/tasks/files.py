"""A file of your own as a task: a row an example, with the columns ``prompt`` and ``answer``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unmask.tasks.dataset import DataSet, Format, Prompts, prompt_of
from unmask.tasks.splits import Paths
from unmask.tasks.verifiers import Verifier

FILE = Format(
    columns={"prompt": ("prompt",), "answer": ("answer",)},
    prompts=Prompts(
        message=lambda row, split, shots: (shots + prompt_of(row), ""),
        plain=prompt_of,
        shot=lambda row, chat: f"{prompt_of(row)} {row.text('answer')}",
    ),
)


class FileTask(DataSet):
    """Prompts and answers from a JSONL or Parquet file, or one for each split; see `DataSet`.

    Args:
        verifier: None leaves the task without one, for decoding only.
        chat: the prompts are messages for a chat template.
        gen_length: region that holds the answers.
    """

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
        lengths = {"gen_length": gen_length, "block_length": block_length}
        super().__init__(name, FILE, path, columns, verifier, chat=chat, **lengths)
