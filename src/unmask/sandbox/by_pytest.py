"""Lets pytest itself run the tests, where they are made for it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def run_pytest(namespace: dict[str, Any], module: str) -> int:
    """Let pytest run the tests: a module that is in memory alone, so that the code finds no file of it.

    Returns:
        How many passed.

    Raises:
        BaseException: what the first one raised that failed.
    """
    made = ModuleType(module)
    vars(made).update(namespace)

    class Memory(pytest.Module):
        def _getobj(self) -> ModuleType:
            return made

    class Plugin:
        ran = 0
        error: BaseException | None = None

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection(self, session: Any) -> bool:
            node = Memory.from_parent(session, path=Path("/test_code.py"))
            session.items = list(session.genitems(node))
            session.testscollected = len(session.items)
            return True

        @pytest.hookimpl(tryfirst=True)
        def pytest_exception_interact(self, call: Any) -> None:
            self.error = self.error or call.excinfo.value

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.ran += report.when == "call" and report.passed

    plugin = Plugin()
    flags = ["-p", "no:cacheprovider", "-p", "no:faulthandler", "-q", "--capture=sys", "--rootdir=/", "--noconftest"]
    status = pytest.main(flags, plugins=[plugin])
    if plugin.error is not None:
        raise plugin.error
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {status!r}")
    return plugin.ran
