"""Programs from a prompt, verified by tests in the sandbox: HumanEval, MBPP, KodCode."""

from __future__ import annotations

import ast
import builtins
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from unmask.errors import UnmaskError
from unmask.tasks.base import Example
from unmask.tasks.dataset import ALL, DataSet, Paths
from unmask.tasks.reading import defines, parsing, program
from unmask.tasks.rows import HubSplit, Row
from unmask.tasks.verifiers import Verifier

if TYPE_CHECKING:  # most tasks run no program
    from unmask.sandbox import Program, Sandbox

COMPLETED = "Here is the completed function:\n```python\n"
EXPERT = "You are an expert Python programmer, and here is your task:"


class CodeTask(DataSet):
    """A data set whose rows bring tests. Prompts are those of the paper's code, which takes lm-evaluation-harness's."""

    tests: ClassVar[tuple[str, ...]]  # columns that the tests need

    def __init__(
        self,
        name: str,
        path: Paths | None = None,
        columns: Mapping[str, str] | None = None,
        verifier: str | Verifier | None = None,
        few_shot: int = 0,
        chat: bool | None = None,
    ) -> None:
        if verifier is not None:
            raise UnmaskError(f"The task {name!r} is verified by its tests: leave out verifier, or give a JSONL file.")
        super().__init__(name, path, columns, None, few_shot, chat)
        self.verifiable = True

    @abstractmethod
    def program(self, example: Example, text: str) -> Program:
        """What the sandbox runs to verify a text."""

    def answer(self, row: Row) -> str:
        """The reference solution; a data set may do without."""
        return str(self.columns.get(row, "answer") or "")

    def details(self, row: Row) -> dict[str, Any]:
        for name in self.tests:
            self.columns.need(row, name)
        ours = {name: self.columns.get(row, name) for name in self.known if name not in ("prompt", "answer")}
        return {**self.columns.others(row, *self.known), **ours}

    def prepare(self) -> None:
        sandbox()

    def verify(self, example: Example, text: str) -> bool:
        return self.verify_all([example], [text])[0]

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        programs = [
            self.program(example, self.cut(example, text)) for example, text in zip(examples, texts, strict=True)
        ]
        each = list(dict.fromkeys(programs))  # roll-outs of a prompt often end alike
        passed = dict(zip(each, (verdict.passed for verdict in sandbox().run_all(each)), strict=True))
        return [passed[program] for program in programs]


class HumanEval(CodeTask):
    """HumanEval (arXiv 2107.03374): a stub to complete. A file of it is a test set, whatever splits are asked for."""

    known = {
        "prompt": ("prompt",),
        "answer": ("canonical_solution",),
        "test": ("test",),
        "entry_point": ("entry_point",),
    }
    tests = ("test", "entry_point")
    hub = {"test": (HubSplit("openai/openai_humaneval", None, "test"),)}
    # lm-evaluation-harness stops there, too (tasks/humaneval/humaneval.yaml)
    stops = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "```")

    def split_of(self, row: Row) -> str:
        return "test"

    def details(self, row: Row) -> dict[str, Any]:
        return {**super().details(row), "stub": self.question(row)}

    def message(self, row: Row, split: str) -> tuple[str, str]:
        stub = self.question(row)
        task = "Write a solution to the following problem and make sure that it passes the tests:"
        return f"{self.shots}{task}\n```python\n{stub}\n```\n", f"{COMPLETED}{stub}\n"

    def plain(self, row: Row) -> str:
        return self.question(row)

    def shot(self, row: Row) -> str:
        return self.question(row) + self.answer(row)

    def program(self, example: Example, text: str) -> Program:
        from unmask.sandbox import Program

        stub, name = example.columns["stub"], example.columns["entry_point"]
        code = program(text, example.prefix, [name]) if example.chat else parsing(stub + text)
        if not defines(code, name):  # a block of its own for the body alone
            code = parsing(stub + code)
        return Program(code, f"{example.columns['test']}\ncheck({name})", stub, (name,))


class MBPP(CodeTask):
    """MBPP (arXiv 2108.07732): a sentence and three asserts. Worked examples are those of its paper, tasks 1 to 10.

    Its usual splits go by ``task_id``: 11 to 510 test, 511 to 600 validation, from 601 on training.
    """

    known = {
        "prompt": ("text", "prompt"),
        "answer": ("code",),
        "tests": ("test_list",),
        "setup": ("test_setup_code",),
        "task_id": ("task_id",),
    }
    tests = ("tests",)
    hub = {
        **{s: (HubSplit("google-research-datasets/mbpp", "full", s),) for s in ("train", "validation", "test")},
        "prompt": (HubSplit("google-research-datasets/mbpp", "full", "prompt"),),
    }
    stops = ("[DONE]",)

    def question(self, row: Row) -> str:
        return f"{super().question(row)}\n{self._shown(row)}"

    def split_of(self, row: Row) -> str:
        number = self.columns.get(row, "task_id")
        if not isinstance(number, int):
            return super().split_of(row)
        return next(split for first, split in MBPP_SPLITS if number >= first)

    def shot_rows(self) -> list[Row]:
        return self._of("prompt")[: self.few_shot] if {ALL, "prompt"} & set(self._sources) else super().shot_rows()

    def message(self, row: Row, split: str) -> tuple[str, str]:
        return self.shots + self._task(row), "\n```python\n"

    def plain(self, row: Row) -> str:
        text = super().question(row)
        return f"{EXPERT} {text} Your code should pass these tests:\n\n{self._shown(row)}\n[BEGIN]\n"

    def shot(self, row: Row) -> str:
        if self.chat:
            return f"{self._task(row)}\n```python\n{self.answer(row)}\n```"
        return f"{self.plain(row)}{self.answer(row)}\n[DONE]"

    def program(self, example: Example, text: str) -> Program:
        # what sets up the tests may use classes of the code, so that it belongs to the tests
        tests = "\n".join([example.columns["setup"] or "", *example.columns["tests"]])
        return of_called(text, example.prefix, tests, example.answer)

    def _shown(self, row: Row) -> str:
        return "\n".join([str(test) for test in self.columns.need(row, "tests")][:3])

    def _task(self, row: Row) -> str:
        return f"{EXPERT}\n{super().question(row)}\nYour code should pass these tests:\n{self._shown(row)}"


MBPP_SPLITS = ((601, "train"), (511, "validation"), (11, "test"), (0, "prompt"))


class KodCode(CodeTask):
    """KodCode (arXiv 2503.02951): questions with pytest functions that import the answer as a module ``solution``.

    The paper trains on its selection of 10,000 for reinforcement learning, so that is what the plain name loads.
    """

    known = {
        "prompt": ("question", "prompt"),
        "answer": ("solution",),
        "test": ("test", "test_code"),
        "info": ("test_info",),
    }
    tests = ("test",)
    hub = {ALL: (HubSplit("KodCode/KodCode-Light-RL-10K", None, "train"),)}
    stops = ("[DONE]",)

    def message(self, row: Row, split: str) -> tuple[str, str]:
        declaration = self._declaration(row)
        exactly = "\n\nImplement the function exactly as specified below." if declaration else ""
        return f"{self.shots}{EXPERT}\n\n{self.question(row)}{exactly}", COMPLETED + declaration

    def plain(self, row: Row) -> str:
        return f"{EXPERT}\n\n{self.question(row)}\n[BEGIN]\n{self._declaration(row)}"

    def shot(self, row: Row) -> str:
        if self.chat:
            return f"{EXPERT}\n\n{self.question(row)}\n```python\n{self.answer(row)}\n```"
        return f"{EXPERT}\n\n{self.question(row)}\n[BEGIN]\n{self.answer(row)}\n[DONE]"

    def program(self, example: Example, text: str) -> Program:
        from unmask.sandbox import Program

        tests = example.columns["test"]
        return Program(program(text, example.prefix, imported(tests, "solution")), tests)

    def _declaration(self, row: Row) -> str:
        info = self.columns.get(row, "info") or [{}]
        declaration = (info[0] or {}).get("function_declaration") or ""
        return declaration.rstrip() + "\n" if declaration else ""


class KodCodeV1(KodCode):
    """All of KodCode, 484,000 rows."""

    hub = {ALL: (HubSplit("KodCode/KodCode-V1", None, "train"),)}


@cache
def sandbox() -> Sandbox:
    """The sandbox of this process."""
    from unmask.sandbox import Sandbox

    return Sandbox()


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
    from unmask.sandbox import Program

    names = called(tests, reference)
    hides_builtin = any(hasattr(builtins, name) for name in names)  # else the sandbox finds the names
    return Program(program(text, prefix, names), tests, setup, names if hides_builtin else ())


def called(tests: str, reference: str = "") -> tuple[str, ...]:
    """Names that tests call and do not define. A builtin is none of them, unless the reference solution defines it."""
    try:
        nodes = list(ast.walk(ast.parse(tests)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
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
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == module]
    return tuple(dict.fromkeys(alias.name for node in imports for alias in node.names if alias.name != "*"))
