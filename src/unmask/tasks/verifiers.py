"""Verifiers: does a text answer as the gold answer does? Functions ``(text, answer) -> bool``."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from unmask.errors import UnmaskError
from unmask.settings import function_of
from unmask.tasks.base import Example
from unmask.tasks.math_judge import equal_formulas
from unmask.tasks.programs import passes, sandbox
from unmask.tasks.reading import last_number, marked

Verifier = Callable[..., bool]

TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mbox|mathrm)\s*\{([^{}]*)\}")
BASE = re.compile(r"\d_\{?(\d+)\}?$")
LONGEST_FORMULA = 400  # characters; the longest gold answer of MATH-500 has 53


def exact(text: str, answer: str) -> bool:
    """The text is the answer, but for space around it."""
    return text.strip() == answer.strip()


def number(text: str, answer: str) -> bool:
    """The last number in the text equals the last one in the answer."""
    return _same(last_number(text), last_number(answer))


def gsm8k(text: str, answer: str) -> bool:
    """The number that the text marks as its answer (see `marked`), or else its last one, is that of the answer."""
    return _same(_number_of(text), _gold_number(answer))


def gsm8k_strict(text: str, answer: str) -> bool:
    """As `gsm8k`, but a text that marks no answer is wrong: d1's evaluation, which the paper uses."""
    return _same(_marked_number(text), _gold_number(answer))


def math(text: str, answer: str) -> bool:
    """The formula that the text marks as its answer (see `marked`), or else its last one, equals that of the answer.

    Words are compared as words, bases of numerals as bases, and the rest by math-verify.

    Args:
        answer: a formula, or a solution that boxes one.

    Raises:
        UnmaskError: math-verify is not installed.
    """
    require_math_verify()
    gold, found = next(marked(answer), answer.strip()), next(marked(text), None)
    if found is None:
        return equal_formulas(gold, text[-LONGEST_FORMULA:], False)
    if _plain(gold) == _plain(found):
        return True
    if TEXT.fullmatch(gold):  # math-verify would read a word as a product of letters, in any order
        return _plain(gold).strip("()").casefold() == _plain(found).strip("()").casefold()
    if len(found) > LONGEST_FORMULA or _another_base(gold, found):
        return False
    return equal_formulas(gold, found, True)


def code(text: str, answer: str, columns: Mapping[str, Any]) -> bool:
    """The Python program of the text passes the tests of its row, in the sandbox.

    Args:
        columns: ``tests``, statements or a list of them; ``setup``, statements that run first, if it needs any.

    Raises:
        UnmaskError: the row has no tests.
    """
    return passes(text, answer, columns)


code.prepare = sandbox  # type: ignore[attr-defined]
VERIFIERS: dict[str, Verifier] = {f.__name__: f for f in (exact, number, gsm8k, gsm8k_strict, math, code)}


@dataclass(frozen=True)
class ByAnswer:
    """Verifies a text by the gold answer of its example.

    Attributes:
        name: for messages.
        function: a verifier of `VERIFIERS`, or a user's own.
        takes_columns: the function is given the other columns of the row.
    """

    name: str
    function: Verifier
    takes_columns: bool

    def prepare(self) -> None:
        """Call the verifier's own `prepare`, if it has one.

        Raises:
            UnmaskError: naming what this machine lacks.
        """
        getattr(self.function, "prepare", lambda: None)()

    def __call__(self, text: str, answer: str, columns: Mapping[str, Any]) -> bool:
        """
        Raises:
            UnmaskError: a user's function fails, or gives something that is neither true nor false.
        """
        more = {"columns": columns} if self.takes_columns else {}
        if self.function in VERIFIERS.values():
            return self.function(text, answer, **more)
        try:
            verdict: Any = self.function(text, answer, **more)
        except Exception as e:
            told = f"{type(e).__name__}: {e}"
            raise UnmaskError(f"The verifier {self.name!r} failed on {text[:40]!r} ({told}): mend it.") from e
        if not isinstance(verdict, int) and type(verdict).__name__ != "bool":  # numpy's bool is none of Python's
            raise UnmaskError(f"The verifier {self.name!r} gave {verdict!r} for {text[:40]!r}: return True or False.")
        return bool(verdict)

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        """Whether each text is right, in order."""
        return [self(text, each.answer, each.columns) for each, text in zip(examples, texts, strict=True)]


def load_verifier(verifier: str | Verifier) -> ByAnswer:
    """A verifier by its name, a user's own by its dotted path, or the function itself.

    A function with a parameter ``columns`` is given the other columns of the row. One with an attribute ``prepare``, a
    function without arguments, has it called before anything is decoded.

    Raises:
        UnmaskError: no such verifier, or ``math`` without math-verify.
    """
    function = _function_of(verifier) if isinstance(verifier, str) else verifier
    if function is math:
        require_math_verify()
    name = verifier if isinstance(verifier, str) else getattr(verifier, "__name__", repr(verifier))
    try:
        takes_columns = "columns" in inspect.signature(function).parameters
    except ValueError:  # some built-in functions have no signature
        takes_columns = False
    return ByAnswer(name, function, takes_columns)


def require_math_verify() -> None:
    """
    Raises:
        UnmaskError: math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise UnmaskError("The verifier 'math' needs math-verify: pip install 'unmask[tasks]'.")


def _function_of(name: str) -> Verifier:
    if name in VERIFIERS:
        return VERIFIERS[name]
    if "." not in name and ":" not in name:
        raise UnmaskError(f"Unknown verifier {name!r}: use {', '.join(VERIFIERS)}, or module.function of your own.")
    return function_of(name, "verifier")


def _number_of(text: str) -> Fraction | None:
    value = _marked_number(text)
    return last_number(text) if value is None else value


@lru_cache(maxsize=1 << 14)
def _gold_number(answer: str) -> Fraction | None:
    return _number_of(answer)


def _marked_number(text: str) -> Fraction | None:
    r"""Of the first marked answer that has a number; one in ``\text{}`` counts if there is no other."""
    for answer in marked(text):
        for value in (last_number(TEXT.sub(" ", answer)), last_number(answer)):
            if value is not None:
                return value
    return None


def _same(found: Fraction | None, gold: Fraction | None) -> bool:
    return found is not None and gold is not None and abs(found - gold) < Fraction(1, 10**6)


def _plain(formula: str) -> str:
    r"""A formula without its typography: ``\\text{ (C) }`` is ``(C)``, ``\\dfrac`` is ``\\frac``."""
    formula = TEXT.sub(r"\1", formula.strip().strip("$").rstrip("."))
    formula = re.sub(r"\\(?:left|right|!|,|;|:|\s)|\\?\$|\s", "", formula)
    return re.sub(r"\\[dt]frac", r"\\frac", formula)


def _another_base(gold: str, found: str) -> bool:
    """Numerals of two bases; math-verify does not look at the base."""
    bases = BASE.search(gold), BASE.search(found)
    return bases[0] is not None and bases[1] is not None and bases[0][1] != bases[1][1]
