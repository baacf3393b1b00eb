"""Which task to load, as settings that commands and configs share."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt
from pydantic import Field

from unmask.errors import UnmaskError
from unmask.settings import Settings
from unmask.tasks.auto import load_task, names_of
from unmask.tasks.base import Task
from unmask.tasks.rows import FILES


class TaskConfig(Settings):
    """Of `unmask.load_task`."""

    task: Annotated[
        str | None,
        Field(
            description="Task: bundled (house), puzzle (lists, nae-sat, addition, sudoku), data set (gsm8k, math, "
            "humaneval, mbpp, kodcode), file, or a+b."
        ),
    ] = None
    tasks: Annotated[tuple[str, ...], Field(description="Instead of task: a mixture.")] = ()
    weights: Annotated[tuple[Annotated[float, Gt(0)], ...], Field(description="Of its tasks (default: by size).")] = ()
    task_path: Annotated[
        str | None, Field(description="JSONL or Parquet file of the data set, instead of the Hub.")
    ] = None
    task_paths: Annotated[
        dict[str, Any], Field(description="The same for each split, or for each task of a mixture.")
    ] = {}
    columns: Annotated[dict[str, Any], Field(description="Our name of a column -> the file's.")] = {}
    verifier: Annotated[
        str | None, Field(description="Of a file, or another one: exact, number, gsm8k, math, or module.function.")
    ] = None
    verifiers: Annotated[dict[str, str], Field(description="The same for each task of a mixture.")] = {}
    few_shot: Annotated[int, Ge(0), Field(description="Worked examples before each prompt of a data set.")] = 0
    chat: Annotated[
        bool | None, Field(description="Prompts as user messages (default: the task's; few-shot prompts are not).")
    ] = None

    @property
    def from_file(self) -> bool:
        """Its prompts come from the user's files."""
        names = self.tasks or names_of(self.task or "")
        return bool(self.task_path or self.task_paths) or all(name.endswith(FILES) for name in names)

    def load_task(self) -> Task:
        """
        Raises:
            UnmaskError: as `unmask.load_task`; both a task and a mixture, or both one path or verifier and several.
        """
        for one, several in (("task", "tasks"), ("task_path", "task_paths"), ("verifier", "verifiers")):
            if getattr(self, one) is not None and getattr(self, several):
                raise UnmaskError(f"Give {one} or {several}, not both.")
        return load_task(
            list(self.tasks) or self.task,
            self.verifiers or self.verifier,
            path=self.task_paths or self.task_path,
            columns=self.columns or None,
            few_shot=self.few_shot,
            chat=self.chat,
            weights=self.weights or None,
        )
