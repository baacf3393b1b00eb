"""Limits, layers, and an end with all processes."""

import os
import platform
import socket
import subprocess
import sys
from textwrap import dedent

import pytest

import unmask.sandbox as sandbox_module
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
    wait_until(lambda: not marked(limits.seconds))


def test_programs_end_when_this_process_is_killed():
    seconds = 99 + os.getpid() / 1e8
    script = f"""
        from unmask.sandbox import Limits, Program, Sandbox
        sandbox = Sandbox(Limits(seconds={seconds}), workers=2)
        unkillable = "import ctypes\\nctypes.CDLL(None).syscall(157, 0x100000001, 0)\\nwhile True: pass"  # prctl
        sandbox.run_all([Program("while True: pass", "f()"), Program(unkillable, "f()")])
    """
    with subprocess.Popen([sys.executable, "-c", dedent(script)]) as parent:
        try:
            wait_until(lambda: len(marked(seconds)) == 2 * 3)  # a keeper, a waiting process and a jailed one
        finally:
            parent.kill()
    wait_until(lambda: not marked(seconds))


def test_a_jail_that_cannot_be_built_is_no_verdict():
    with pytest.raises(UnmaskError, match=r"could not be set up \(.*Too many open files.*\): free memory"):
        Sandbox(Limits(open_files=3)).run(Program("def f(x): return 4", TESTS))


def test_files_that_the_parent_has_open_are_shut():
    code = """
        import os
        def f(x):
            found = []
            for fd in range(3, 4096):
                try: found.append(os.fstat(fd) and fd)
                except OSError: pass
            return found
    """
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
    try:
        verdict = Sandbox().run(Program(dedent(code), "assert len(f(2)) <= 4, f(2)"))
    finally:
        for fd in held:
            os.close(fd)
    assert verdict.passed, verdict  # the code's own, the tests', the wait for them, the report


@pytest.mark.parametrize(
    "call",
    [
        "syscall(157, 0x100000001, 0)",  # prctl, PDEATHSIG; the kernel looks at the low half
        "syscall(72, 0, 0x10000000A, 9)",  # fcntl, F_SETSIG
        "syscall(72, 0, 8, 1)",  # fcntl, F_SETOWN
        "syscall(16, 0, 0x8901, bytes(4))",  # ioctl, FIOSETOWN
        "syscall(463, -100, b'/', 0, b'user.x', bytes(16), 16)",  # setxattrat
    ],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
def test_system_calls_by_number(call):
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\ndef f(): return libc.{call}, ctypes.get_errno()"
    assert Sandbox().run(Program(code, "assert f() == (-1, 1), f()")).passed  # EPERM


def test_a_missing_layer_needs_consent(monkeypatch):
    monkeypatch.setattr(sandbox_module, "_keep", lambda *a: ("layers", "landlock seccomp"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    protection.cache_clear()
    try:
        with pytest.raises(
            UnmaskError,
            match=r"lacks namespaces and nobody here; programs would run as root: .* To do without, set UNM",
        ):
            protection()
        monkeypatch.setenv("UNMASK_SANDBOX_WITHOUT", "namespaces,nobody")
        assert protection() == ("landlock", "seccomp")
    finally:
        protection.cache_clear()


def test_too_little_protection():
    with pytest.raises(UnmaskError, match=r"cannot shut code in \(it offers: .*\): allow unprivileged user namespaces"):
        Sandbox(without=("namespaces", "seccomp"))
    assert set(protection()) <= set(LAYERS)


def test_bad_limits():
    with pytest.raises(UnmaskError, match="limit memory is 0: give more than 0"):
        Limits(memory=0)
    with pytest.raises(UnmaskError, match="0 workers for the sandbox: give 1 or more"):
        Sandbox(workers=0)
