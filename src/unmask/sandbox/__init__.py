"""Test Python code that a model wrote, where it can harm nothing.

The isolation is hard: a process in a jail of the kernel's (`unmask.sandbox.jail`), which the code cannot leave.

The verdict is robust against accidents and simple tricks, and no defence against code that attacks the tester. Code
and tests share that process, as wherever code is tested. An exit, a signal or a lost process is a failure, for only a
report counts whose nonce the code has not seen. The tests arrive sealed, once the code is loaded, and look up builtins
and modules as they were before. What this does not stop is in docs/tasks.md. Linux only.
"""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from unmask.errors import UnmaskError
from unmask.sandbox.jail import LAYERS
from unmask.sandbox.plan import Tests

Reason = Literal["passed", "failed", "error", "timeout", "memory", "killed"]
REASONS: tuple[Reason, ...] = get_args(Reason)
ENOUGH = ({"namespaces"}, {"landlock", "seccomp"})
"""Layers that together give: no network, no writing outside a folder, an end with all children."""

__all__ = ["REASONS", "Limits", "Program", "Reason", "Sandbox", "Verdict", "protection"]


@dataclass(frozen=True)
class Program:
    """Code and its tests.

    Attributes:
        code: what the model wrote. Its module is named ``solution``, which the tests may import.
        tests: statements to run, functions ``test_*``, classes ``Test*`` or ``unittest.TestCase``, in pytest's way:
            what takes fixtures or imports pytest is run by pytest itself. Trusted.
        setup: runs before either, in both. Trusted: what it defines is the tests' own, unless `names` has it.
        names: what the tests take from the code. With none, all that they use and neither they nor `setup` define,
            except builtins and modules: name what the tests must not leave to the code's word.
    """

    code: str
    tests: str
    setup: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What a program may use, its tests included.

    Attributes:
        seconds: of time in all.
        cpu_seconds: of processor time.
        memory: bytes of address space.
        file_size: bytes of all files in the folder for them, and of what is printed. Without namespaces there is no
            such folder, since nothing would bound what is in it.
        open_files: at once.
        processes: threads at once, where they can be counted: with namespaces. No other process can be started.

    Raises:
        UnmaskError: a limit of zero or less.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 2**30
    file_size: int = 2**24
    open_files: int = 64
    processes: int = 32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise UnmaskError(f"The sandbox's limit {name} is {value}: give more than 0.")


@dataclass(frozen=True)
class Verdict:
    """How a program fared.

    Attributes:
        passed: every test ran and none failed.
        reason: ``failed``: an assertion, or no test took anything of the code; ``error``: another exception, or the
            code ended its process; ``timeout``, ``memory``: a limit; ``killed``: a signal.
        message: one line, such as the exception and the test that raised it.
        seconds: from start to end.
    """

    passed: bool
    reason: Reason
    message: str
    seconds: float


class Sandbox:
    """Tests programs.

    Args:
        limits: for each program.
        workers: programs at once in `run_all`; one a processor if None.
        without: layers of `unmask.sandbox.jail.LAYERS` to do without, for tests of the sandbox.

    Raises:
        UnmaskError: this machine offers too little protection, or less than all and the user has not agreed; no
            worker.
    """

    def __init__(self, limits: Limits | None = None, workers: int | None = None, without: Collection[str] = ()) -> None:
        self.limits = limits or Limits()
        self._layers = protection(tuple(without))
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        if self.workers < 1:
            raise UnmaskError(f"{workers} workers for the sandbox: give 1 or more.")

    def run(self, program: Program) -> Verdict:
        """
        Raises:
            UnmaskError: the sandbox could not be set up.
        """
        start = time.monotonic()
        plan = Tests.of(program.tests, program.setup)
        if plan.pytest and find_spec("pytest") is None:
            raise UnmaskError("These tests are pytest's: pip install 'unmask[tasks]'.")
        code = {"setup": program.setup, "code": program.code, "modules": plan.modules, "pytest": plan.pytest}
        tests = {"setup": program.setup, "tests": program.tests, "names": program.names, **plan.settings()}
        with ExitStack() as stack:
            fds = {"code": _file_of(code, stack), "tests": _file_of(tests, stack)}
            settings = {"layers": self._layers, "limits": asdict(self.limits), **fds}
            reason, message = _keep(settings, self.limits.seconds, tuple(fds.values()))
        if reason == "jail":
            raise UnmaskError(f"The sandbox could not be set up ({message}): free memory and processes, and try again.")
        known: Reason = next((known for known in REASONS if known == reason), "killed")
        return Verdict(known == "passed", known, message, time.monotonic() - start)

    def run_all(self, programs: Sequence[Program]) -> list[Verdict]:
        """Verdicts in order, tested in parallel.

        Raises:
            UnmaskError: the sandbox could not be set up.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self.run, programs))


@lru_cache
def protection(without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The layers of `unmask.sandbox.jail.LAYERS` that this machine offers.

    Raises:
        UnmaskError: they do not keep a program from the network, from writing outside its folder, or from leaving
            processes behind; or one is missing that the user has not agreed to do without, by `CONSENT` in the
            environment.
    """
    if sys.platform != "linux":
        raise UnmaskError("Code can be tested on Linux only, whose kernel can shut it in: use a Linux machine.")
    reason, message = _keep({"without": without, "limits": asdict(Limits())}, 60.0, ())
    layers = tuple(message.split()) if reason == "layers" else ()
    if not any(enough <= set(layers) for enough in ENOUGH):
        raise UnmaskError(
            f"This machine cannot shut code in (it offers: {', '.join(layers) or 'no layer'}): allow unprivileged user "
            "namespaces, or use a kernel with Landlock (5.13 or newer) and install libseccomp (libseccomp2)."
        )
    agreed = {*without, *filter(None, os.environ.get(CONSENT, "").split(","))}
    missing = [layer for layer in LAYERS if layer not in {*layers, *agreed}]
    if os.geteuid() != 0 and "nobody" in missing:
        missing.remove("nobody")  # only root has a user to give up
    if missing:
        as_root = "; programs would run as root" if "nobody" in missing else ""
        remedies = "; ".join(REMEDIES[layer] for layer in missing)
        raise UnmaskError(
            f"The sandbox lacks {' and '.join(missing)} here{as_root}: {remedies}. To do without, set "
            f"{CONSENT}={','.join(missing)}."
        )
    return layers


CONSENT = "UNMASK_SANDBOX_WITHOUT"
REMEDIES = {
    "namespaces": "allow unprivileged user namespaces, also of a container that this runs in",
    "nobody": "let the user nobody read Python's folders, which are of mode 700, or do not run as root",
    "landlock": "use a kernel with Landlock (5.13 or newer)",
    "seccomp": "install libseccomp (libseccomp2)",
}


def _keep(settings: dict[str, Any], seconds: float, fds: tuple[int, ...]) -> tuple[str, str]:
    """What a keeper answers. It sees nothing of this process: a fresh interpreter, an empty environment."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    command = [
        sys.executable,
        "-P",
        "-s",
        "-S",
        str(Path(__file__).parent),
        json.dumps({**settings, "packages": packages}),
    ]
    environment = {
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",  # the same verdict each time
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # else each thread takes 64 MiB of the address space
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    with subprocess.Popen(
        command,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        start_new_session=True,
    ) as keeper:
        try:
            output, errors = keeper.communicate(timeout=seconds + 10)  # it keeps the time itself
        except subprocess.TimeoutExpired:
            keeper.kill()
            return "timeout", f"not done in {seconds:g} s"
        except BaseException:
            keeper.kill()
            raise
    reason, _, message = output.decode(errors="replace").strip("\n").partition("\t")
    if not reason and keeper.returncode > 0:
        return "jail", errors.decode(errors="replace").strip().rpartition("\n")[2]
    return (reason, message) if reason else ("killed", "the sandbox itself was ended")


def _file_of(job: dict[str, Any], stack: ExitStack) -> int:
    """A file in memory, for one process to read."""
    file = stack.enter_context(os.fdopen(os.memfd_create("job"), "wb"))
    file.write(marshal.dumps(job))
    file.flush()
    file.seek(0)
    return file.fileno()
