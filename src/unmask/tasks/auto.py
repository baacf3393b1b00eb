"""`load_task`: name -> task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.settings import function_of, parse_spec, refuse_unknown
from unmask.tasks.addition import Addition
from unmask.tasks.base import Task
from unmask.tasks.dataset import DataSet, Format
from unmask.tasks.files import FileTask
from unmask.tasks.gsm8k import GSM8K
from unmask.tasks.hendrycks_math import MATH
from unmask.tasks.house import House
from unmask.tasks.humaneval import HUMANEVAL
from unmask.tasks.kodcode import KODCODE, KODCODE_V1
from unmask.tasks.ledger import Ledger
from unmask.tasks.lists import Lists
from unmask.tasks.mbpp import MBPP
from unmask.tasks.mixture import MixtureTask
from unmask.tasks.nae_sat import NaeSat
from unmask.tasks.puzzle import Puzzle
from unmask.tasks.rows import FILES
from unmask.tasks.splits import Paths
from unmask.tasks.sudoku import Sudoku
from unmask.tasks.verifiers import Verifier

DEFAULT_TASK = "house"

TASKS: dict[str, Callable[[], Task]] = {
    "house": lambda: House("house", lengths=(6, 7, 8)),
    "house-long": lambda: House("house-long", lengths=(9, 10, 11, 12), gen_length=64),
    "ledger": lambda: Ledger("ledger", lengths=(3, 4, 5)),
}
PUZZLES: dict[str, type[Puzzle]] = {one.kind: one for one in (Addition, Lists, NaeSat, Sudoku)}
DATA_SETS: dict[str, Format] = {
    "gsm8k": GSM8K,
    "math": MATH,
    "humaneval": HUMANEVAL,
    "mbpp": MBPP,
    "kodcode": KODCODE,
    "kodcode-v1": KODCODE_V1,
}
HUB_NAMES = {
    "openai/gsm8k": "gsm8k",
    "EleutherAI/hendrycks_math": "math",
    "HuggingFaceH4/MATH-500": "math",
    "openai/openai_humaneval": "humaneval",
    "google-research-datasets/mbpp": "mbpp",
    "KodCode/KodCode-Light-RL-10K": "kodcode",
    "KodCode/KodCode-V1": "kodcode-v1",
}


def load_task(
    name: str | Sequence[str] | None = None,
    verifier: str | Verifier | Mapping[str, Any] | None = None,
    *,
    path: Paths | Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    few_shot: int = 0,
    chat: bool | None = None,
    weights: Sequence[float] | None = None,
) -> Task:
    """Load a task.

    Of a mixture, `verifier`, `path` and `columns` are mappings from the name of a task to its own.

    Args:
        name: a bundled task (None: the default); a puzzle (``lists``, ``nae-sat``, ``addition``, ``sudoku``), with its
            difficulty as in ``lists:items=16``; a data set (``gsm8k``, ``math``, ``humaneval``, ``mbpp``, ``kodcode``,
            or its name on the Hub); the path of a JSONL or Parquet file with the columns ``prompt`` and ``answer``, or
            ``file`` with a path for each split; a function that gives a task, as ``module.function``; several, as
            ``gsm8k+math`` or a list: a mixture.
        verifier: of a file, or instead of a data set's own: a name, ``module.function``, or a function; see
            `unmask.tasks.verifiers`.
        path: where a data set is, if not on the Hub: a JSONL or Parquet file, or one for each split.
        columns: our name of a column -> the file's, such as ``{"prompt": "question"}``.
        few_shot: worked examples before each prompt of a data set.
        chat: prompts for a chat template; False: for a base model. None: a data set's, unless few_shot is given.
        weights: of the tasks of a mixture; None: by their sizes.

    Raises:
        UnmaskError: an unknown name, data that cannot be read, or arguments that the task has no use for.
    """
    name = DEFAULT_TASK if name is None else name
    if not isinstance(name, Sequence) or not all(isinstance(each, str) for each in name):
        raise UnmaskError(f"The task is {name!r}: give its name, or a list of names.")
    names = names_of(name)
    if len(names) > 1 or not isinstance(name, str):
        given = {"verifier": verifier, "path": path, "columns": columns}
        by_task = {what: _by_task(what, value, names) for what, value in given.items()}
        own = [{what: values.get(each) for what, values in by_task.items()} for each in names]
        tasks = [_load(each, **mine, few_shot=few_shot, chat=chat) for each, mine in zip(names, own, strict=True)]
        return MixtureTask(tasks, weights)
    if weights is not None:
        raise UnmaskError(f"Weights are for mixtures, and {name!r} is one task: leave them out.")
    return _load(name, verifier=verifier, path=path, columns=columns, few_shot=few_shot, chat=chat)


def names_of(name: str | Sequence[str]) -> list[str]:
    """The tasks of a mixture; of a single task, it."""
    if not isinstance(name, str):
        return list(name)
    return [name] if Path(name).is_file() else name.split("+")


def _by_task(what: str, value: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UnmaskError(f"A mixture needs {what} by task, such as {{{names[0]!r}: ...}}, not {value!r}.")
    for each in value:
        if each not in names:
            raise UnmaskError(f"Unknown task {each!r} in {what}: {nearest(each, names)}")
    return value


def _load(name: str, *, verifier: Any, path: Any, columns: Any, few_shot: int, chat: bool | None) -> Task:
    name = HUB_NAMES.get(name, name)
    if name in DATA_SETS:
        return DataSet(name, DATA_SETS[name], path, columns, verifier, few_shot, chat)
    if name.endswith(FILES) or name == "file":
        if few_shot:
            raise UnmaskError("few_shot is for data sets: write worked examples into the prompts of your file.")
        if (path is None) == (name == "file"):
            raise UnmaskError(
                "Name a file, as in load_task('mine.jsonl'), or give load_task('file', path={'train': ...})."
            )
        return FileTask(name if path is None else path, verifier, columns=columns, chat=bool(chat))
    for what, value in {"path": path, "columns": columns, "few_shot": few_shot or None, "chat": chat}.items():
        if value is not None:
            raise UnmaskError(f"The task {name!r} has no use for {what}: leave it out, or name a data set or a file.")
    puzzle = PUZZLES.get(name.partition(":")[0])
    if puzzle or name in TASKS or "." in name or ":" in name:
        if verifier is not None:
            raise UnmaskError(f"The task {name!r} has a verifier of its own: leave out verifier, or give a JSONL file.")
        if puzzle is not None:
            given = parse_spec(name.replace(puzzle.kind, "puzzle", 1))
            if given["type"] != "puzzle":
                refuse_unknown(["type"], set(puzzle.Options.model_fields), puzzle.kind)
            return puzzle(**{key: value for key, value in given.items() if key != "type"})
        return TASKS[name]() if name in TASKS else _own(name)
    raise UnmaskError(f"Unknown task {name!r}: {nearest(name, [*TASKS, *PUZZLES, *DATA_SETS, *HUB_NAMES])}")


def _own(name: str) -> Task:
    function = function_of(name, "task")
    try:
        task = function()
    except Exception as e:
        raise UnmaskError(f"The task {name!r} failed ({type(e).__name__}: {e}): mend it.") from e
    if not isinstance(task, Task):
        raise UnmaskError(f"The task {name!r} gave a {type(task).__name__}: return an unmask.tasks.Task.")
    return task
