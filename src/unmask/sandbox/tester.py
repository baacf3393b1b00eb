"""Runs the tests, in a process of its own, on what they ask of the code in the guest's."""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any

from unmask.sandbox import pytest_stand_in
from unmask.sandbox.guest import MODULE, read_job
from unmask.sandbox.peer import TESTS, Peer
from unmask.sandbox.wire import Ended


class NoTestError(Exception):
    """Nothing was asked of the code: tests that only define must not pass."""


def main(job_fd: int, reads: int, writes: int, report: int) -> None:
    """Write the verdict to the report: its reason and its message, a line."""
    job = read_job(job_fd)
    peer = Peer(reads, writes)
    try:
        judge(job, peer)
        reason, message = "passed", ""
    except BaseException as e:
        reason, message = explain(e, job["tests"])
    if peer.broken is not None:  # also if a test has caught it
        reason, message = "ended" if isinstance(peer.broken, Ended) else "error", f"the code {peer.broken}"
    os.write(report, f"{reason}\t{message}\n".encode(errors="backslashreplace"))


def judge(job: dict[str, Any], peer: Peer) -> None:
    """
    Raises:
        NoTestError: no test ran.
        BaseException: what a test raised.
    """
    peer.ask("load")
    module = ModuleType(TESTS)
    namespace = vars(module)
    sys.modules[TESTS] = module
    sys.modules[MODULE] = Solution(peer, namespace)
    sys.modules["pytest"] = pytest_stand_in.module()
    exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), namespace)
    tests = compile(job["tests"], "<tests>", "exec", dont_inherit=True)
    used = set(_names_in(tests)) - namespace.keys()
    names = set(job["names"]) or used - set(dir(builtins)) - sys.stdlib_module_names
    modules = (used & sys.stdlib_module_names) - names
    found = peer.ask("take", sorted(names | modules))
    for name in sorted((names | modules) & set(found)):  # no other, whatever the code sends
        # a module that the tests leave to the code to import: the code's own could be a class of that name
        namespace[name] = importlib.import_module(name) if name in modules else found[name]
    peer.asked = 0
    exec(tests, namespace)
    pytest_stand_in.run_tests(namespace, TESTS)
    if not peer.asked:
        raise NoTestError("nothing called the code")


class Solution(ModuleType):
    """``import solution`` in the tests: what it has is asked of the code. ``import *`` hides nothing of the tests'."""

    def __init__(self, peer: Peer, namespace: Mapping[str, Any]) -> None:
        super().__init__(MODULE)
        self.__dict__.update(_peer=peer, _namespace=namespace)

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            others = {*dir(builtins), *sys.stdlib_module_names, *self._namespace}
            return [public for public in self._peer.ask("public") if public not in others]
        found = {} if name.startswith("__") else self._peer.ask("take", [name])
        if name not in found:
            raise AttributeError(f"the code does not define {name!r}")
        return found[name]


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def explain(error: BaseException, tests: str) -> tuple[str, str]:
    """The reason of a verdict, and its message: the exception, and the line of the tests that raised it."""
    reason = {AssertionError: "failed", NoTestError: "failed", MemoryError: "memory"}
    found = next((why for kind, why in reason.items() if isinstance(error, kind)), "error")
    try:
        text = str(error)
    except BaseException:
        text = ""
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    lines, traceback, line = tests.splitlines(), error.__traceback__, 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<tests>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    if 0 < line <= len(lines):
        text += f" at `{lines[line - 1].strip()}`"
    return found, one_line(text)


def one_line(text: str, longest: int = 300) -> str:
    """Printable, without line breaks, and not long."""
    text = " ".join(text[: 4 * longest].split())
    return "".join(c if c.isprintable() else "?" for c in text)[:longest]
