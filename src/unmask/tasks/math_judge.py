"""math-verify in a process of its own.

Its own time limit is `signal.alarm`, which fails outside the main thread and cannot stop a computation such as
9^(9^(9^9)). A process can be stopped at any time, and takes its memory with it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from unmask.errors import UnmaskError

SECONDS = 12.0  # for one answer: two parses and a comparison, each of which the worker itself gives 3 s
START_SECONDS = 120.0


class MathJudge:
    """Compares formulas, one at a time, from any thread; the worker starts with the first."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._owner = 0

    def equal(self, gold: str, found: str, *, formula: bool = True) -> bool:
        """True if they are equal; False also for what cannot be read, or takes too long to compare.

        Args:
            formula: what was found is a formula; else it is a text, and its last formula counts.

        Raises:
            UnmaskError: math-verify cannot be started.
        """
        with self._lock:
            if self._owner != os.getpid():
                self._worker = None  # a fork shares the pipes of its parent, whose worker it is
            if self._worker is None or self._worker.poll() is not None:
                self._start()
            answer = self._ask(json.dumps({"gold": gold, "found": found, "formula": formula}), self._seconds)
            if answer is None:
                self._stop()
            return answer == "true"

    def close(self) -> None:
        """End the worker; another question starts it again."""
        with self._lock:
            if self._owner == os.getpid():
                self._stop()

    def _start(self) -> None:
        self._stop()
        self._owner = os.getpid()
        self._worker = subprocess.Popen(
            # -P: the folder of the script has modules named as those of the standard library
            [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self._ask(None, START_SECONDS) != "ready":
            self._stop()
            raise UnmaskError("math-verify cannot be started: reinstall it with pip install -U 'unmask[tasks]'.")

    def _ask(self, question: str | None, seconds: float) -> str | None:
        """The worker's next line; None if it ended, or had to be ended."""
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        assert worker.stdout is not None
        timer = threading.Timer(seconds, worker.kill)
        timer.start()
        try:
            if question is not None:
                worker.stdin.write(question + "\n")
                worker.stdin.flush()
            return worker.stdout.readline().strip() or None
        except OSError:
            return None
        finally:
            timer.cancel()

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still to be written
                    pipe.close()


JUDGE = MathJudge()
atexit.register(JUDGE.close)


@lru_cache(maxsize=1 << 15)
def equal_formulas(gold: str, found: str, formula: bool) -> bool:
    """`MathJudge.equal`, remembered: the roll-outs of a prompt often end in the same answer.

    Raises:
        UnmaskError: math-verify cannot be started.
    """
    return JUDGE.equal(gold, found, formula=formula)
