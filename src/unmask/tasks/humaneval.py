"""HumanEval (arXiv 2107.03374): a stub to complete. A file of it is a test set, whatever splits are asked for."""

from __future__ import annotations

from typing import Any

from unmask.sandbox import Program
from unmask.tasks.base import Example
from unmask.tasks.dataset import Format, Prompts, prompt_of
from unmask.tasks.programs import COMPLETED, details_with, reference
from unmask.tasks.reading import defines, parsing, program
from unmask.tasks.rows import HubSplit, Row


def _details(row: Row) -> dict[str, Any]:
    return {**details_with(row, "test", "entry_point"), "stub": prompt_of(row)}


def _message(row: Row, split: str, shots: str) -> tuple[str, str]:
    stub = prompt_of(row)
    task = "Write a solution to the following problem and make sure that it passes the tests:"
    return f"{shots}{task}\n```python\n{stub}\n```\n", f"{COMPLETED}{stub}\n"


def _shot(row: Row, chat: bool) -> str:
    return prompt_of(row) + reference(row)


def _program(example: Example, text: str) -> Program:
    stub, name = example.columns["stub"], example.columns["entry_point"]
    code = program(text, example.prefix, [name]) if example.chat else parsing(stub + text)
    if not defines(code, name):  # a block of its own for the body alone
        code = parsing(stub + code)
    return Program(code, f"{example.columns['test']}\ncheck({name})", stub, (name,))


# Prompts are those of the paper's code, which takes lm-evaluation-harness's (tasks/humaneval/humaneval.yaml), as do the
# stops.
HUMANEVAL = Format(
    columns={
        "prompt": ("prompt",),
        "answer": ("canonical_solution",),
        "test": ("test",),
        "entry_point": ("entry_point",),
    },
    hub={"test": (HubSplit("openai/openai_humaneval", None, "test"),)},
    prompts=Prompts(_message, prompt_of, _shot, stops=("\nclass", "\ndef", "\n#", "\nif", "\nprint", "```")),
    program=_program,
    answer=reference,
    details=_details,
    split_of=lambda row: "test",
)
