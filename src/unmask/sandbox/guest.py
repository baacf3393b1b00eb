"""What runs beside the code under test, in its process: it does there what the tests ask."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from unmask.sandbox.peer import Peer

MODULE = "solution"


def read_job(fd: int) -> dict[str, Any]:
    """The JSON in a file descriptor, which is closed."""
    with os.fdopen(fd, "rb") as file:
        job: dict[str, Any] = json.load(file)
    return job


def main(job_fd: int, reads: int, writes: int, report: int) -> None:
    """Run the code when the tester says so, then answer its questions until it ends."""
    os.close(report)  # the code has no say in the verdict
    job = read_job(job_fd)
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module  # dataclasses look their module up

    def load() -> None:
        exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), vars(module))
        exec(compile(job["code"], "<code>", "exec", dont_inherit=True), vars(module))

    def take(names: Sequence[str]) -> dict[str, Any]:
        return {name: vars(module)[name] for name in names if name in vars(module)}

    def public() -> list[str]:
        return [name for name in vars(module) if not name.startswith("_")]

    Peer(reads, writes, {"load": load, "take": take, "public": public}).answer_all()
