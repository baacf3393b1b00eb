"""The Python program of a reply, and its verdict in the sandbox."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from unmask.errors import UnmaskError
from unmask.sandbox import Program, Sandbox
from unmask.tasks.base import Example
from unmask.tasks.reading import defines, program
from unmask.tasks.rows import Row

COMPLETED = "Here is the completed function:\n```python\n"
EXPERT = "You are an expert Python programmer, and here is your task:"


@cache
def sandbox() -> Sandbox:
    """The sandbox of this process.

    Raises:
        UnmaskError: this machine offers too little protection.
    """
    return Sandbox()


@dataclass(frozen=True)
class ByTests:
    """Verifies a text by the tests of its example.

    Attributes:
        program: what the sandbox runs to verify a text.
    """

    program: Callable[[Example, str], Program]

    def prepare(self) -> None:
        """
        Raises:
            UnmaskError: there is no sandbox on this machine.
        """
        sandbox()

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        """Whether each text passes, in order; equal programs run once, for roll-outs of a prompt often end alike."""
        programs = [self.program(example, text) for example, text in zip(examples, texts, strict=True)]
        each = list(dict.fromkeys(programs))
        passed = dict(zip(each, (verdict.passed for verdict in sandbox().run_all(each)), strict=True))
        return [passed[program] for program in programs]


def reference(row: Row) -> str:
    """The reference solution; a data set may do without."""
    return str(row.get("answer") or "")


def details_with(row: Row, *needed: str) -> dict[str, Any]:
    """The example's columns, ours by our names.

    Raises:
        UnmaskError: a column that the tests need is missing.
    """
    for name in needed:
        row.need(name)
    ours = {name: row.get(name) for name in row.names if name not in ("prompt", "answer")}
    return {**row.others(*row.names), **ours}


def passes(text: str, answer: str, columns: Mapping[str, Any]) -> bool:
    """True if the program of a text passes the tests of its row; see `unmask.tasks.verifiers.code`.

    Raises:
        UnmaskError: the row has no tests.
    """
    tests = columns.get("tests")
    if not tests:
        raise UnmaskError(
            "The verifier 'code' needs a column 'tests', statements or a list of them: add it to the rows."
        )
    statements = tests if isinstance(tests, str) else "\n".join(tests)
    return sandbox().run(of_called(text, "", statements, answer, str(columns.get("setup") or ""))).passed


def of_called(text: str, prefix: str, tests: str, reference: str, setup: str = "") -> Program:
    """A reply's program, known by what the tests call."""
    names = called(tests, reference)
    hides_builtin = any(hasattr(builtins, name) for name in names)  # else the sandbox finds the names
    return Program(program(text, prefix, names), tests, setup, names if hides_builtin else ())


def called(tests: str, reference: str = "") -> tuple[str, ...]:
    """Names that tests call and do not define. A builtin is none of them, unless the reference solution defines it."""
    try:
        nodes = list(ast.walk(ast.parse(tests)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        return ()
    names = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            own |= {alias.asname or alias.name for alias in node.names}
    own |= {name for name in names if hasattr(builtins, name) and not defines(reference, name)}
    return tuple(dict.fromkeys(name for name in names if name not in own))


def imported(tests: str, module: str) -> tuple[str, ...]:
    """Names that tests import from a module."""
    try:
        nodes = list(ast.walk(ast.parse(tests)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        return ()
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == module]
    return tuple(dict.fromkeys(alias.name for node in imports for alias in node.names if alias.name != "*"))
