"""Prompts of a task that had no part in something."""

from __future__ import annotations

from collections.abc import Set

from unmask.errors import UnmaskError
from unmask.tasks.base import Example, Task


def unseen(task: Task, split: str | None, n: int, seen: Set[str], seed: int = 0) -> list[Example]:
    """The first n examples of a split whose prompts are not among those seen, or all there are.

    Raises:
        UnmaskError: as the task's `examples`.
    """
    asked, found = n, list[Example]()
    while True:
        try:
            some = task.examples(split, asked, seed)
        except UnmaskError:
            if asked > n:  # no more can be drawn
                return found
            raise
        found = [example for example in some if example.prompt not in seen][:n]
        if len(found) == n or len(some) < asked:
            return found
        asked += n - len(found)
