"""Lets pytest itself run the tests, where they are made for it."""

from __future__ import annotations

import os
import sys
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
    made = sys.modules[module]

    class Memory(pytest.Module):
        def _getobj(self) -> ModuleType:
            return made

    class Plugin:
        ran = finished = collected = 0
        error: BaseException | None = None

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection(self, session: Any) -> bool:
            node = Memory.from_parent(session, path=Path("/test_code.py"))
            session.items = list(session.genitems(node))
            session.testscollected = self.collected = len(session.items)
            return True

        @pytest.hookimpl(tryfirst=True)
        def pytest_exception_interact(self, call: Any) -> None:
            self.error = self.error or call.excinfo.value

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_makereport(self, call: Any) -> None:
            frames = call.excinfo.traceback if call.excinfo else ()
            if any(frame.frame.code.raw.co_filename == "<code>" for frame in frames):
                self.error = self.error or call.excinfo.value  # a skip of the code's is none of the tests'

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.ran += report.when == "call" and report.passed
            self.finished += report.when == "teardown"

    plugin = Plugin()
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ.pop("PYTEST_PLUGINS", None)
    flags = ["-p", "no:cacheprovider", "-p", "no:faulthandler", "-q", "--capture=sys", "--rootdir=/", "--noconftest"]
    status = pytest.main([*flags, "-c", os.devnull], plugins=[plugin])
    if plugin.error is not None:
        raise plugin.error
    collected = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if status not in collected or plugin.finished < plugin.collected:
        raise RuntimeError(f"pytest ended with {status!r} after {plugin.finished} tests")
    return plugin.ran
