"""`load_task`: name -> task."""

from __future__ import annotations

from collections.abc import Callable

from unmask.errors import UnmaskError, nearest
from unmask.tasks.base import Task
from unmask.tasks.house import House
from unmask.tasks.jsonl import JsonlTask
from unmask.tasks.ledger import Ledger

DEFAULT_TASK = "house"

TASKS: dict[str, Callable[[], Task]] = {
    "house": lambda: House("house", lengths=(6, 7, 8)),
    "house-long": lambda: House("house-long", lengths=(9, 10, 11, 12), gen_length=64),
    "ledger": lambda: Ledger("ledger", lengths=(3, 4, 5)),
}


def load_task(name: str | None = None, verifier: str | None = None) -> Task:
    """Load a task.

    Args:
        name: a bundled one (None: the default), or the path of a JSONL file with the columns ``prompt`` and ``answer``.
        verifier: of a file, see `unmask.tasks.jsonl.JsonlTask`.

    Raises:
        UnmaskError: an unknown name, or a file that cannot be read.
    """
    name = DEFAULT_TASK if name is None else name
    if name.endswith(".jsonl"):
        return JsonlTask(name, verifier)
    if verifier is not None:
        raise UnmaskError(f"The task {name!r} has a verifier of its own: leave out verifier, or give a JSONL file.")
    if name not in TASKS:
        raise UnmaskError(f"Unknown task {name!r}: {nearest(name, TASKS)}")
    return TASKS[name]()
