"""Starts the code in its jail, waits for the verdict, and ends it. One keeper serves one program."""

# Each program starts an interpreter; importing pathlib would take a third of that time.
# ruff: noqa: PTH110
from __future__ import annotations

import builtins
import json
import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from unmask.sandbox import jail
from unmask.sandbox.inmate import sealed

LONGEST_LINE = 2**11
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")


def main(config: str) -> None:
    """Print a line: ``layers`` and those that work here; or a verdict's reason and message; or ``jail`` and why not."""
    settings = json.loads(config)
    jail.die_with_parent()
    sys.path += settings["packages"]
    sys.dont_write_bytecode = True
    reason, message = judge(settings) if "code" in settings else ("layers", " ".join(probe(settings)))
    sys.stdout.buffer.write(f"{reason}\t{message}\n".encode())
    sys.stdout.flush()
    os._exit(0)


class Inmate:
    """A process in its jail."""

    def __init__(self, settings: dict[str, Any], run: Callable[[int], object], keep: Iterable[int]) -> None:
        self._report, report = os.pipe()
        output = os.memfd_create("output")  # so that the limit on files ends endless printing
        self._outer = jail.start(
            run, settings["layers"], readable(), settings["limits"], keep=set(keep), output=output, report=report
        )
        self._waiter = os.pidfd_open(self._outer)
        self._inner: int | None = None
        self._status: int | None = None
        self.processor_seconds = 0.0
        os.close(output)
        os.close(report)

    def read(self, deadline: float, nonce: str = "") -> dict[str, str]:
        """What it and its jail report, until they close the report, time is over, or the line of the nonce is there.

        Of all that the code may write to it, no other line counts.
        """
        text, lines, inside = b"", dict[str, str](), False
        while _readable(self._report, deadline - time.monotonic()) and (chunk := os.read(self._report, 2**16)):
            text = text[-2 * LONGEST_LINE :] + chunk
            for line in text.decode(errors="replace").split("\n")[:-1]:
                key, _, value = line.partition("\t")
                if key == "inside":  # what comes before is the jail's own
                    inside = True
                elif key == "inner" and not inside:
                    self._inner = int(value)
                elif key == "jail" and not inside:
                    lines = {"jail": value}
                elif nonce and key == nonce:
                    return {"verdict": value}
        return lines

    def status(self, patience: float) -> int | None:
        """Its exit status, or 128 + the signal that ended it; None if it is still there after that many seconds."""
        if self._status is None and _readable(self._waiter, patience):
            _, status, usage = os.wait4(self._outer, 0)
            self._status = os.waitstatus_to_exitcode(status)
            self.processor_seconds = usage.ru_utime + usage.ru_stime
        return self._status

    def end(self) -> None:
        """Kill it with all that it has started."""
        if self.status(0) is None:
            with suppress(ProcessLookupError):
                os.kill(self._inner or self._outer, signal.SIGKILL)
            if self.status(1.0) is None:
                os.kill(self._outer, signal.SIGKILL)
                self.status(1.0)


def _readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], max(seconds, 0))[0])


def readable() -> list[str]:
    """Where Python and its packages are, without folders inside others."""
    paths = [*sys.path, f"{sys.base_prefix}/lib", *LIBRARIES]
    paths = [path for path in dict.fromkeys(paths) if path.startswith("/") and os.path.exists(path)]
    return [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]


def probe(settings: dict[str, Any]) -> list[str]:
    """The layers that can be applied here, each on top of those before it."""
    working: list[str] = []
    for layer in jail.LAYERS:
        if layer not in settings["without"]:
            inmate = Inmate({**settings, "layers": [*working, layer]}, lambda _: import_module("uuid"), [])
            lines = inmate.read(time.monotonic() + 10)
            if inmate.status(5.0) == 0 and not lines:
                working.append(layer)
            inmate.end()
    return working


def judge(settings: dict[str, Any]) -> tuple[str, str]:
    """The reason of the verdict on a program, and its message."""
    limits, key, nonce = settings["limits"], os.urandom(32), os.urandom(16).hex()
    deadline = time.monotonic() + limits["seconds"]
    tests, (ready, unready) = os.memfd_create("tests"), os.pipe()
    fds = settings["code"], tests, ready
    code = Inmate(settings, partial(_own_main(), *fds, key), fds)
    try:
        with os.fdopen(settings["tests"], "rb") as file:  # after the fork: nothing of them is in its memory
            job = {**marshal.load(file), "nonce": nonce}
        os.pwrite(tests, sealed(marshal.dumps(job), key), 0)
        os.close(unready)
        lines = code.read(deadline, nonce)
        if "jail" in lines:
            return "jail", lines["jail"]
        if "verdict" in lines:
            reason, _, message = lines["verdict"].partition("\t")
            return reason, message
        return _ending(code, limits, 0.2) or ("timeout", f"not done in {limits['seconds']:g} s")
    finally:
        code.end()


def _own_main() -> Callable[..., None]:
    """The inmate's, with builtins of its own, which the code does not reach by assignment."""
    spec = find_spec("unmask.sandbox.inmate")
    namespace: dict[str, Any] = {"__name__": "inmate", "__builtins__": dict(vars(builtins))}
    loader: Any = spec.loader if spec else None
    exec(loader.get_code("unmask.sandbox.inmate"), namespace)
    main: Callable[..., None] = namespace["main"]
    return main


def _ending(inmate: Inmate, limits: dict[str, Any], patience: float) -> tuple[str, str] | None:
    """Why it ended before the tests were done; None if it has not."""
    status = inmate.status(patience)
    if status is None:
        return None
    if status < 128:
        return "error", f"the code ended the process (exit status {status}) before the tests were done"
    if inmate.processor_seconds > limits["cpu_seconds"] - 0.5:
        return "timeout", f"the code took {limits['cpu_seconds']} s of processor time"
    return "killed", f"the code died: {signal.strsignal(status - 128)}"
