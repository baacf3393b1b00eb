"""The other side of `unmask.tasks.math_judge`: run as a script, it answers lines of JSON with lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from importlib import import_module
from typing import Any

SECONDS = 3  # for one parse, and for one comparison
MEMORY = 4 << 30
SMALL, CLOSE, DIGITS = 0.01, 1e-4, 20  # below it, equal is equal in four digits


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    with contextlib.suppress(ImportError, ValueError, OSError):
        resource: Any = import_module("resource")
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    math_verify = import_module("math_verify")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(equal(math_verify, **request)), file=answers, flush=True)


def equal(math_verify: Any, gold: str, found: str, formula: bool) -> bool:
    """True if what was found equals the gold formula.

    Args:
        formula: what was found is one; else it is a text that holds one somewhere.
    """
    try:
        gold_value = math_verify.parse(f"\\boxed{{{gold}}}", parsing_timeout=SECONDS)
        value = math_verify.parse(f"\\boxed{{{found}}}" if formula else found, parsing_timeout=SECONDS)
        pairs = ((gold_value, value), ([_complex(one) for one in gold_value], [_complex(one) for one in value]))
        return any(
            math_verify.verify(*pair, timeout_seconds=SECONDS) and _close(pair[0][0], pair[1][0]) for pair in pairs
        )
    except (Exception, math_verify.errors.TimeoutException):  # a formula that cannot be read is not equal
        return False


def _complex(value: Any) -> Any:
    """With the imaginary unit for i, where that is all that is unknown."""
    if {str(symbol) for symbol in getattr(value, "free_symbols", ())} != {"i"}:
        return value
    return value.subs({symbol: import_module("sympy").I for symbol in value.free_symbols})


def _close(gold: Any, found: Any) -> bool:
    """False for small numbers that only look equal: math-verify rounds to six decimals."""
    if not (getattr(gold, "is_number", False) and getattr(found, "is_number", False)):
        return True
    one, other = (value.doit().evalf(DIGITS) for value in (gold, found))  # it leaves the 1/100 of a percentage undone
    if not 0 < abs(one) < SMALL:
        return True
    return any(abs(one * scale - other) <= CLOSE * abs(other) for scale in (1, 100))  # 0.5 is taken for 0.5%


if __name__ == "__main__":
    main()
