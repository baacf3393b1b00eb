"""KodCode (arXiv 2503.02951): questions with pytest functions that import the answer as a module ``solution``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unmask.sandbox import Program
from unmask.tasks.base import Example
from unmask.tasks.dataset import Format, Prompts, prompt_of
from unmask.tasks.programs import COMPLETED, EXPERT, details_with, imported, reference
from unmask.tasks.reading import program
from unmask.tasks.rows import HubSplit, Row
from unmask.tasks.splits import ALL


def _details(row: Row) -> dict[str, Any]:
    return details_with(row, "test")


def _message(row: Row, split: str, shots: str) -> tuple[str, str]:
    declaration = _declaration(row)
    exactly = "\n\nImplement the function exactly as specified below." if declaration else ""
    return f"{shots}{EXPERT}\n\n{prompt_of(row)}{exactly}", COMPLETED + declaration


def _plain(row: Row) -> str:
    return f"{EXPERT}\n\n{prompt_of(row)}\n[BEGIN]\n{_declaration(row)}"


def _shot(row: Row, chat: bool) -> str:
    if chat:
        return f"{EXPERT}\n\n{prompt_of(row)}\n```python\n{reference(row)}\n```"
    return f"{EXPERT}\n\n{prompt_of(row)}\n[BEGIN]\n{reference(row)}\n[DONE]"


def _declaration(row: Row) -> str:
    info = row.get("info") or [{}]
    declaration = (info[0] or {}).get("function_declaration") or ""
    return declaration.rstrip() + "\n" if declaration else ""


def _program(example: Example, text: str) -> Program:
    tests = example.columns["test"]
    return Program(program(text, example.prefix, imported(tests, "solution")), tests)


# The paper trains on this selection of 10,000 for reinforcement learning, so that it has the plain name.
KODCODE = Format(
    columns={
        "prompt": ("question", "prompt"),
        "answer": ("solution",),
        "test": ("test", "test_code"),
        "info": ("test_info",),
    },
    hub={ALL: (HubSplit("KodCode/KodCode-Light-RL-10K", None, "train"),)},
    prompts=Prompts(_message, _plain, _shot, stops=("[DONE]",)),
    program=_program,
    answer=reference,
    details=_details,
)
# All of it, 484,000 rows.
KODCODE_V1 = replace(KODCODE, hub={ALL: (HubSplit("KodCode/KodCode-V1", None, "train"),)})
