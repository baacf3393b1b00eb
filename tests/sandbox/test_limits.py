"""Limits, layers, and an end with all processes."""

import os
import socket
import subprocess
import sys
from textwrap import dedent

import pytest

from tests.sandbox.attacks import ENDLESS
from tests.sandbox.escapes import ESCAPES
from tests.sandbox.machine import TESTS, marked, offered, wait_until
from unmask import UnmaskError
from unmask.sandbox import Limits, Program, Sandbox, protection
from unmask.sandbox.jail import LAYERS


def test_processor_time_is_limited():
    verdict = Sandbox(Limits(cpu_seconds=1, seconds=30)).run(Program(dedent(ENDLESS["infinite loop"]), TESTS))
    assert (verdict.reason, verdict.message) == ("timeout", "the code took 1 s of processor time")


def test_namespaces_alone_keep_processes_in():
    if not offered(("landlock", "seccomp")):
        pytest.skip("this machine offers no namespaces")
    limits = Limits(seconds=1.5 + os.getpid() / 1e8)
    code = dedent(ESCAPES["daemon"])
    server = socket.create_server(("127.0.0.1", 0))
    dial = ESCAPES["connection"].replace("PORT", str(server.getsockname()[1]))
    with server:
        sandbox = Sandbox(limits, workers=3, without=("landlock", "seccomp"))
        verdicts = sandbox.run_all([Program(dedent(c), TESTS) for c in (code, dial, ENDLESS["fork bomb"])])
        assert [verdict.passed for verdict in verdicts] == [True, False, False]  # it may start processes; they end
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not marked(limits.seconds)


def test_programs_end_when_this_process_is_killed():
    seconds = 99 + os.getpid() / 1e8
    script = f"""
        from unmask.sandbox import Limits, Program, Sandbox
        sandbox = Sandbox(Limits(seconds={seconds}), workers=2)
        sandbox.run_all([Program("while True: pass", "f()")] * 2)
    """
    with subprocess.Popen([sys.executable, "-c", dedent(script)]) as parent:
        try:
            wait_until(lambda: len(marked(seconds)) == 2 * 5)  # a keeper; twice a waiting process and a jailed one
        finally:
            parent.kill()
    wait_until(lambda: not marked(seconds))


def test_a_jail_that_cannot_be_built_is_no_verdict():
    with pytest.raises(UnmaskError, match=r"could not be set up \(.*Too many open files.*\): free memory"):
        Sandbox(Limits(open_files=3)).run(Program("def f(x): return 4", TESTS))


def test_too_little_protection():
    with pytest.raises(UnmaskError, match=r"cannot shut code in \(it offers: .*\): allow unprivileged user namespaces"):
        Sandbox(without=("namespaces", "seccomp"))
    assert set(protection()) <= set(LAYERS)


def test_bad_limits():
    with pytest.raises(UnmaskError, match="limit memory is 0: give more than 0"):
        Limits(memory=0)
    with pytest.raises(UnmaskError, match="0 workers for the sandbox: give 1 or more"):
        Sandbox(workers=0)
