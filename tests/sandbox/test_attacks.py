"""Attacks that must neither pass, hang, leak nor harm."""

import os
import socket
from pathlib import Path
from textwrap import dedent

import pytest

from tests.sandbox.attacks import ATTACKS, ENDLESS
from tests.sandbox.escapes import ESCAPES, SECRET
from tests.sandbox.feints import FEINTS, UNDETECTED, VALUES
from tests.sandbox.machine import TESTS, WITHOUT, marked, offered, verdicts_of
from unmask.sandbox import Limits, Program, Sandbox

TRIALS = {name: (code, TESTS) for name, code in (ENDLESS | ATTACKS | VALUES | ESCAPES).items()} | FEINTS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What an attack could harm or read, and a mark in the command line of the sandbox's processes."""
    folder = tmp_path_factory.mktemp("world")
    folder.chmod(0o755)
    sentinel = folder / "sentinel"
    sentinel.write_text(SECRET)
    server, local = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(server.getsockname())
    local.bind(str(folder / "socket"))
    local.listen()
    for s in (server, local, datagrams):
        s.setblocking(False)
    with server, local, datagrams:
        yield {"sentinel": sentinel, "server": server, "local": local, "datagrams": datagrams}


@pytest.fixture(scope="module", params=WITHOUT)
def trials(request, world):
    """Verdicts by name; nothing has been harmed, reached or left behind."""
    without = WITHOUT[request.param]
    if without and not offered(without):
        pytest.skip("this machine offers namespaces alone")
    filled = {
        "SENTINEL": str(world["sentinel"]),
        "UNIXSOCKET": world["local"].getsockname(),
        "PORT": str(world["server"].getsockname()[1]),
        "PARENT": str(os.getpid()),
        "HOMEFOLDER": str(Path.home()),
        "CWD": str(Path.cwd()),
    }
    programs = []
    for code, tests in TRIALS.values():
        code = dedent(code)
        for name, value in filled.items():
            code = code.replace(name, value)
        programs.append(Program(code, tests))
    short, long = (Limits(seconds=seconds + os.getpid() / 1e8, memory=2**29) for seconds in (2, 60))
    files = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMASK_SECRET", SECRET)
        verdicts = Sandbox(short, workers=8, without=without).run_all(programs[: len(ENDLESS)])
        verdicts += Sandbox(long, without=without).run_all(programs[len(ENDLESS) :])
    assert all(verdict.seconds < 5 for verdict in verdicts[: len(ENDLESS)])
    assert not [verdict for verdict in verdicts[len(ENDLESS) :] if verdict.reason == "timeout"]
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert not marked(short.seconds) + marked(long.seconds)
    assert world["sentinel"].read_text() == SECRET
    assert world["sentinel"].stat().st_mode & 0o777 == 0o644
    for s in (world["server"], world["local"]):
        with pytest.raises(BlockingIOError):
            s.accept()
    with pytest.raises(BlockingIOError):
        world["datagrams"].recv(1)
    for folder in (Path.home(), Path.cwd(), Path("/tmp")):
        assert not (folder / ".unmask_test").exists()
    return dict(zip(TRIALS, verdicts, strict=True))


@pytest.mark.parametrize("name", TRIALS)
def test_attacks(trials, name):
    verdict = trials[name]
    assert not verdict.passed, verdict
    assert verdict.reason != "passed"
    assert verdict.message
    assert "\n" not in verdict.message
    assert len(verdict.message) <= 300


@pytest.mark.parametrize(
    ("name", "reason", "message"),
    [
        ("infinite loop", "timeout", "not done in 2"),
        ("infinite generator", "failed", "assert f(2) == 4"),
        ("memory bomb", "memory", "MemoryError"),
        ("one huge object", "memory", "MemoryError"),
        ("recursion", "error", "RecursionError: maximum recursion depth exceeded"),
        ("recursion in C", "killed", "the code died: Segmentation fault"),
        ("ten gigabytes printed", "error", "File too large"),
        ("os._exit(0) in the call", "error", "the code ended the process (exit status 0) before the tests were done"),
        ("sys.exit(0) in the call", "error", "SystemExit: 0 at `assert f(2) == 4`"),
        ("patched builtins", "error", "TamperError: the code has replaced builtins."),
        (
            "unittest patched in a call",
            "error",
            "TamperError: the code has replaced unittest.case.TestCase.assertEqual",
        ),
        ("exec", "error", "PermissionError"),
        ("connection", "error", "Error"),
        ("no such name", "error", "NameError: name 'f' is not defined"),
        ("no test", "failed", "nothing called the code"),
        ("not an error", "failed", "DID NOT RAISE"),
    ],
)
def test_reasons(trials, name, reason, message):
    verdict = trials[name]
    assert (verdict.reason, message in verdict.message) == (reason, True), verdict


def test_what_is_not_detected_is_known():
    """If one of these fails some day, docs/tasks.md is to say so."""
    verdicts = verdicts_of({name: (code, TESTS) for name, code in UNDETECTED.items()}, ())
    assert {name for name, verdict in verdicts.items() if verdict.passed} == set(UNDETECTED)
