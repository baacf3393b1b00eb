"""What the commands share: the console, progress with an estimate of what is left, and a clean stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Names of users and their paths may hold square brackets.
console = Console(markup=False)
errors = Console(stderr=True, markup=False)
PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class Ticker:
    """Progress of one job: a live bar on a terminal, a plain line now and then in a log."""

    def __init__(self, label: str, total: int, bar: Progress | None, to: Console = console) -> None:
        self._label, self._total, self._bar, self._to = label, total, bar, to
        self._task = bar.add_task(label, total=total, note="") if bar else None
        self._start = self._shown = time.monotonic()
        self._first: int | None = None
        self._stages: dict[str, TaskID] = {}

    def restart(self) -> None:
        """Measure from now on: what went before has another pace."""
        self._start = self._shown = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task)

    def stage(self, label: str, done: int, total: int) -> None:
        """Progress of a part of the job, under its own label; it goes when it is done."""
        if self._bar is None:
            now = time.monotonic()
            if now - self._shown >= PLAIN_EVERY:
                self._shown = now
                self._to.print(f"{label} {done}/{total}", highlight=False)
            return
        if label not in self._stages:
            self._stages[label] = self._bar.add_task(label, total=total, note="")
        self._bar.update(self._stages[label], completed=done, visible=done < total)

    def __call__(self, done: int, note: str = "") -> None:
        """Say that `done` of the total is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        self._first = done - 1 if self._first is None else self._first
        if now - self._shown >= PLAIN_EVERY or done == self._total:
            self._shown = now
            left = (now - self._start) / max(done - self._first, 1) * (self._total - done)
            self._to.print(f"{self._label} {done}/{self._total}  {note}  {duration(left)} left", highlight=False)


@contextmanager
def ticking(label: str, total: int, to: Console = console) -> Iterator[Ticker]:
    """A `Ticker` for the length of the block."""
    if not to.is_terminal:
        yield Ticker(label, total, None, to)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=to) as bar:
        yield Ticker(label, total, bar, to)


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``3:05`` or ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stop:
    """Callable that turns True after the first SIGINT or SIGTERM, so that a job can save and leave.

    The second one interrupts at once. Both mean what they always do again after the `with` block.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        errors.print("Stopping after this step; once more to stop at once.")

    def __call__(self) -> bool:
        return self._asked
