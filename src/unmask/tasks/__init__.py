"""Tasks: prompts and a verifier. Nothing here needs torch."""

from unmask.tasks.auto import load_task
from unmask.tasks.base import Example, Task

__all__ = ["Example", "Task", "load_task"]
