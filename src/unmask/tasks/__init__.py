"""Tasks: prompts and a verifier. Nothing here needs torch."""

from unmask.tasks.auto import load_task
from unmask.tasks.base import Example, Task
from unmask.tasks.dataset import DataSet, Format, Prompts
from unmask.tasks.files import FileTask
from unmask.tasks.mixture import MixtureTask

__all__ = ["DataSet", "Example", "FileTask", "Format", "MixtureTask", "Prompts", "Task", "load_task"]
