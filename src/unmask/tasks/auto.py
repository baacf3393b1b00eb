"""`load_task`: name -> task."""

from __future__ import annotations

from collections.abc import Callable

from unmask.errors import UnmaskError, nearest
from unmask.tasks.base import Task
from unmask.tasks.house import House
from unmask.tasks.ledger import Ledger

DEFAULT_TASK = "house"

TASKS: dict[str, Callable[[], Task]] = {
    "house": lambda: House("house", lengths=(6, 7, 8)),
    "house-long": lambda: House("house-long", lengths=(9, 10, 11, 12), gen_length=64),
    "ledger": lambda: Ledger("ledger", lengths=(3, 4, 5)),
}


def load_task(name: str | None = None) -> Task:
    """Load a task by name; None is the bundled default.

    Raises:
        UnmaskError: an unknown name.
    """
    name = DEFAULT_TASK if name is None else name
    if name not in TASKS:
        raise UnmaskError(f"Unknown task {name!r}: {nearest(name, TASKS)}")
    return TASKS[name]()
