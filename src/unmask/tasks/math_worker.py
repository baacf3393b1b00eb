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
        return bool(math_verify.verify(gold_value, value, timeout_seconds=SECONDS))
    except (Exception, math_verify.errors.TimeoutException):  # a formula that cannot be read is not equal
        return False


if __name__ == "__main__":
    main()
