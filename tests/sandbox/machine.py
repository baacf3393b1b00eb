"""What this machine offers the sandbox, and the processes that the sandbox runs on it."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest

from unmask import UnmaskError
from unmask.sandbox import Limits, Program, Sandbox, Verdict, protection

try:
    protection()
except UnmaskError as e:
    pytest.skip(str(e), allow_module_level=True)

TESTS = "assert f(2) == 4"


def offered(without: tuple[str, ...]) -> bool:
    try:
        return bool(protection(without))
    except UnmaskError:
        return False


# As root, nobody else may read a Python in root's home, but in namespaces.
NO_NAMESPACES = ("namespaces",) if offered(("namespaces",)) else ("namespaces", "nobody")
WITHOUT = {"all layers": (), "no namespaces": NO_NAMESPACES}


def marked(seconds: float) -> list[str]:
    """Processes of sandboxes with this limit."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f'"seconds": {seconds},' in (process / "cmdline").read_text():
                found.append(process.name)
    return found


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def verdicts_of(programs: dict[str, tuple[str, str]], without: tuple[str, ...]) -> dict[str, Verdict]:
    """Verdicts by name on (code, tests), with layers left out."""
    if not offered(without):
        pytest.skip("this machine offers namespaces alone")
    made = [Program(dedent(code), dedent(tests)) for code, tests in programs.values()]
    return dict(zip(programs, Sandbox(Limits(seconds=30), without=without).run_all(made), strict=True))
