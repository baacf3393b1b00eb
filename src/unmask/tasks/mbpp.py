"""MBPP (arXiv 2108.07732): a sentence and three asserts. Worked examples are those of its paper, tasks 1 to 10."""

from __future__ import annotations

from typing import Any

from unmask.sandbox import Program
from unmask.tasks.base import Example
from unmask.tasks.dataset import Format, Prompts, prompt_of
from unmask.tasks.programs import EXPERT, details_with, of_called, reference
from unmask.tasks.rows import HubSplit, Row
from unmask.tasks.splits import hashed_split

SPLITS = ((601, "train"), (511, "validation"), (11, "test"), (0, "prompt"))  # by the first task_id of each


def _question(row: Row) -> str:
    return f"{prompt_of(row)}\n{_shown(row)}"


def _details(row: Row) -> dict[str, Any]:
    return details_with(row, "tests")


def _split_of(row: Row) -> str:
    number = row.get("task_id")
    if not isinstance(number, int):
        return hashed_split(_question(row))
    return next(split for first, split in SPLITS if number >= first)


def _message(row: Row, split: str, shots: str) -> tuple[str, str]:
    return shots + _task(row), "\n```python\n"


def _plain(row: Row) -> str:
    return f"{EXPERT} {prompt_of(row)} Your code should pass these tests:\n\n{_shown(row)}\n[BEGIN]\n"


def _shot(row: Row, chat: bool) -> str:
    if chat:
        return f"{_task(row)}\n```python\n{reference(row)}\n```"
    return f"{_plain(row)}{reference(row)}\n[DONE]"


def _task(row: Row) -> str:
    return f"{EXPERT}\n{prompt_of(row)}\nYour code should pass these tests:\n{_shown(row)}"


def _shown(row: Row) -> str:
    return "\n".join([str(test) for test in row.need("tests")][:3])


def _program(example: Example, text: str) -> Program:
    # what sets up the tests may use classes of the code, so that it belongs to the tests
    tests = "\n".join([example.columns["setup"] or "", *example.columns["tests"]])
    return of_called(text, example.prefix, tests, example.answer)


# Prompts are those of the paper's code, which takes lm-evaluation-harness's.
MBPP = Format(
    columns={
        "prompt": ("text", "prompt"),
        "answer": ("code",),
        "tests": ("test_list",),
        "setup": ("test_setup_code",),
        "task_id": ("task_id",),
    },
    hub={
        split: (HubSplit("google-research-datasets/mbpp", "full", split),)
        for split in ("train", "validation", "test", "prompt")
    },
    prompts=Prompts(_message, _plain, _shot, stops=("[DONE]",)),
    program=_program,
    question=_question,
    answer=reference,
    details=_details,
    split_of=_split_of,
    shots_from="prompt",
)
