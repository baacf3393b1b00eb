"""Verifiers: does a text answer as the gold answer does? Functions ``(text, answer) -> bool``."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from unmask.errors import UnmaskError
from unmask.settings import function_of
from unmask.tasks.base import Example
from unmask.tasks.formulas import (
    DELIMITED,
    TEXT,
    as_interval,
    ending,
    is_interval,
    is_numeral,
    is_ratio,
    notation,
    numeral,
    plain,
    ungrouped,
)
from unmask.tasks.math_judge import equal_formulas
from unmask.tasks.numerals import MAGNITUDES, TOKEN, Value, is_number, last_number, readings, same
from unmask.tasks.programs import passes, sandbox
from unmask.tasks.reading import marked

Verifier = Callable[..., bool]

MIXED_AT_THE_END = re.compile(r"\d\s+\d+\s?/\s?\d+\D*$")
PERCENT = re.compile(r"\\?%$")
WORD = re.compile(r"[A-Za-z]{4,}")
LONGEST_FORMULA = 400  # characters; the longest gold answer of MATH-500 has 53


def exact(text: str, answer: str) -> bool:
    """The text is the answer, but for space around it."""
    return text.strip() == answer.strip()


def number(text: str, answer: str) -> bool:
    """The last number in the text equals the last one in the answer."""
    return same(readings(text), readings(answer))


def gsm8k(text: str, answer: str) -> bool:
    """The number that the text marks as its answer (see `marked`), or else its last one, is that of the answer."""
    return same(_number_of(text), _gold_number(answer))


def gsm8k_strict(text: str, answer: str) -> bool:
    """As `gsm8k`, but a text that marks no answer is wrong: d1's evaluation, which the paper uses."""
    return same(_marked_number(text), _gold_number(answer))


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
    if found is None or _is_sentence(found):
        text = (text if found is None else found.replace("**", "").replace("`", ""))[-LONGEST_FORMULA:]
        return _in_text(gold, text) or (found is not None and _equal(gold, found))
    return _equal(gold, found)


def _is_sentence(found: str) -> bool:
    """What is marked is more than a formula, as in ``<answer>The answer is $15$.</answer>``."""
    words = re.sub(r"\\[A-Za-z]+", " ", TEXT.sub("", found))
    return re.search(r"[A-Za-z]{2,}[:,]?\s+(?:[A-Za-z]{2,}|\$|\d)|\*\*|`", words) is not None


def _in_text(gold: str, text: str) -> bool:
    """The last formula of a text that marks none equals the gold one."""
    if numeral(gold) and numeral(text):
        return numeral(gold) == numeral(text)
    delimited = list(DELIMITED.finditer(text))
    if not delimited:
        value = last_number(text)
        if isinstance(value, tuple) or is_ratio(gold) or MIXED_AT_THE_END.search(text):
            return same(readings(text), readings(gold, marked=True))
        if is_number(gold) and value is not None:
            return _stands_alone(text) and same(readings(text), readings(gold, marked=True))
    last = next((part for part in delimited[-1].groups() if part), "") if delimited else ""
    return equal_formulas(notation(gold), notation(text), False) or (last != "" and _equal(gold, last))


def _equal(gold: str, found: str) -> bool:
    """Two formulas are equal: words as words, numerals with their bases, ratios by their parts."""
    if len(found) > LONGEST_FORMULA:
        return found.strip() == gold.strip()
    if PERCENT.sub("", plain(gold)) == PERCENT.sub("", plain(found)):
        return True
    if TEXT.fullmatch(gold) or (WORD.fullmatch(gold) and WORD.fullmatch(found)):
        # math-verify would read a word as a product of letters, in any order
        return plain(gold).strip("()").casefold() == plain(found).strip("()").casefold()
    bases = numeral(gold), numeral(found)
    if any(bases) and is_numeral(gold) and is_numeral(found):
        digits = [base[0] if base else plain(one) for base, one in zip(bases, (gold, found), strict=True)]
        return bases[0] == bases[1] if all(bases) else digits[0] == digits[1]
    if is_ratio(gold) and is_ratio(found):
        return same(readings(found, marked=True), readings(gold, marked=True))
    sides = ending(notation(gold)), ending(notation(found))
    if not sides[0].startswith(("(", "[", "\\left", "\\{")) and "," not in ungrouped(sides[0]):
        sides = ungrouped(sides[0]), ungrouped(sides[1])
    intervals = [as_interval(side) for side in sides]
    if intervals[0] is None and intervals[1] and is_interval(sides[0]):
        sides = sides[0], intervals[1]
    elif intervals[1] is None and intervals[0] and is_interval(sides[1]):
        sides = intervals[0], sides[1]
    return equal_formulas(*sides, True)


def _stands_alone(text: str) -> bool:
    """The last number of a text is no part of a formula, such as 5 of 5x."""
    found = list(TOKEN.finditer(text))
    if not found:
        return True
    before, after = text[: found[-1].start()], text[found[-1].end() :]
    part = re.match(r"\s*(?:[π√!^)\]}]|\\(?:pi|sqrt|cdot|times))|[inkxyz](?![a-zA-Z])", after)
    return part is None and re.search(r"(?:[√+*/^_><≥≤(\[{]|\\[a-z]+|\blog)\s*$", before) is None


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


def _number_of(text: str) -> tuple[Value, ...]:
    return _marked_number(text) or readings(text)


@lru_cache(maxsize=1 << 14)
def _gold_number(answer: str) -> tuple[Value, ...]:
    return _marked_number(answer) or readings(answer, marked=True)


def _unit(text: re.Match[str]) -> str:
    word = text[1].strip().lower()
    return f" {word} " if word in MAGNITUDES else " unit "


def _marked_number(text: str) -> tuple[Value, ...]:
    r"""Of the first marked answer that has a number; one in ``\text{}`` counts if there is no other."""
    for answer in marked(text):
        found = readings(TEXT.sub(_unit, answer), marked=True) or readings(TEXT.sub(r" \1 ", answer), marked=True)
        if found:
            return found
    return ()
