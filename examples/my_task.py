"""A task of your own: a file of prompts and answers, and a function that says what is correct.

From this folder:

    unmask train --task my_task.jsonl --verifier my_task.verify --gen-length 32
    unmask eval --task my_task.task --policies house-base-full
"""

from pathlib import Path

from unmask.tasks import FileTask


def verify(text, answer, columns):
    """The last word is the answer, or another name of that room; `columns` is what else the row holds."""
    return text.split()[-1:] in [[name] for name in (answer, *columns["also"])]


def task():
    """The task, for `unmask eval --task my_task.task`; `unmask.load_task` takes the same name."""
    return FileTask(Path(__file__).with_suffix(".jsonl"), verify, gen_length=32, block_length=8)
