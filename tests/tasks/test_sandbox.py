"""Attacks that must neither pass, hang, leak nor harm; and programs that must pass."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest
from benchmarks.sandbox import emptied, humaneval, mbpp, rows_of

from unmask import UnmaskError
from unmask.tasks.sandbox import Limits, Program, Sandbox, protection
from unmask.tasks.sandbox.jail import LAYERS

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SECRET = "a-secret-of-the-user"
TESTS = "assert f(2) == 4"

try:
    protection()
except UnmaskError as e:
    pytest.skip(str(e), allow_module_level=True)

# Each is the code for the test above. Where it says `return 4`, the attack has succeeded. CAPITALS are filled in.
ENDLESS = {
    "infinite loop": "def f(x):\n while True: pass",
    "infinite loop at import": "while True: pass",
    "loop deaf to signals": """
        import signal
        for s in range(1, 65):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException: pass
    """,
    "pause": "import signal\ndef f(x):\n signal.pause()",
    "sleep": "import time\ndef f(x):\n time.sleep(1000)",
    "channel closed": "import os, time\ndef f(x):\n os.closerange(3, 99)\n time.sleep(1000)",
    "fork bomb": """
        import os
        def f(x):
            while True:
                try: os.fork()
                except OSError: pass
    """,
}
ATTACKS = {
    # it takes all there is
    "infinite generator": "import itertools\ndef f(x): return itertools.count()",
    "thread bomb": """
        import threading, time
        def f(x):
            while True: threading.Thread(target=time.sleep, args=(1000,)).start()
    """,
    "memory bomb": "def f(x):\n kept = []\n while True: kept.append(bytearray(10**7))",
    "one huge object": "def f(x): return 'a' * 10**12",
    "recursion": "def f(x): return f(x)",
    "recursion in C": """
        import sys
        sys.setrecursionlimit(10**9)
        class A:
            def __repr__(self): return repr([self])
        def f(x): return repr(A())
    """,
    "ten gigabytes printed": "def f(x):\n for _ in range(10**4): print('x' * 10**6)\n return 4",
    "disk filled by one file": "def f(x):\n open('big', 'wb').write(bytes(10**8))\n return 4",
    "disk filled by many files": """
        def f(x):
            for i in range(1000): open(f'{i}', 'wb').write(bytes(10**6))
            return 4
    """,
    # it sends what the tester cannot digest
    "huge value": "def f(x): return ['x' * 1000] * 10**5",
    "deep value": "def f(x):\n v = []\n for _ in range(10**5): v = [v]\n return v",
    "cyclic value": "def f(x):\n v = []\n v.append(v)\n return v",
    "NaN": "def f(x): return float('nan')",
    "oversized message": """
        import os
        def f(x):
            for fd in range(3, 64):
                try: os.write(fd, b"\\xff" * 64)
                except OSError: pass
    """,
    **{
        f"message {frame!r:.30}": f"""
            import os
            def f(x):
                data = {frame!r}
                for fd in range(3, 64):
                    try: os.write(fd, len(data).to_bytes(4, 'big') + data)
                    except OSError: pass
        """
        for frame in (
            b"passed\t\n",
            b"\xff\xfe",
            b"[" * 100000,
            b'["ok"]',
            b'["ok",["yours",-1],[]]',
            b'["ok",["new","os.system",["true"]],[]]',
            b'["ok",["builtin","eval"],[]]',
            b'["ok",["dict",[["list",[]]],[1]],[]]',
            b'["ok",4,[[0,["list",[1]]]]]',
            b'["raise",4]',
            b'["raise",["error",["builtin","int"],[],[],""]]',
            b'["ask","getattr",["x"],{}]',
            b'["ask","take",[["list",["sys"]]],{}]',
            b'["ok",' + b"9" * 10**6 + b",[]]",
        )
    },
    # it ends before the tests
    **{
        f"{how} {where}": code.format(how)
        for how in (
            "os._exit(0)",
            "sys.exit(0)",
            "quit()",
            "raise_(SystemExit)",
            "os.kill(os.getpid(), 9)",
            "os.abort()",
        )
        for where, code in {
            "at import": "import os, sys, builtins\nraise_ = None\n{}\ndef f(x): return 5",
            "in the call": """
                import os, sys
                def raise_(e): raise e
                def f(x):
                    {}
                    return 5
            """,
        }.items()
    },
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
    # it feigns the right value
    "equal to everything": """
        class Equal:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return hash(4)
            __class__ = int
        def f(x): return Equal()
    """,
    **{
        f"lying {base}": f"""
            class Liar({base}):
                def __eq__(self, other): return True
                def __ne__(self, other): return False
                def __hash__(self): return hash(4)
            def f(x): return Liar({value})
        """
        for base, value in {
            "int": "5",
            "float": "5",
            "str": "'5'",
            "list": "[5]",
            "dict": "a=5",
            "tuple": "[5]",
        }.items()
    },
    "lying class": """
        class Meta(type):
            def __eq__(cls, other): return True
            __hash__ = type.__hash__
        class Liar(metaclass=Meta): pass
        def f(x): return Liar
    """,
    "patched builtins": """
        import builtins
        class Always:
            def __eq__(self, other): return True
        for name in ("abs", "print", "isinstance", "len", "all", "any", "str", "int", "BaseException"):
            setattr(builtins, name, lambda *_: True)
        builtins.AssertionError = Exception
        def f(x): return 5
    """,
    "patched AssertionError": """
        import ctypes, sys
        try: AssertionError.__init__ = lambda *a: sys.exit(0)
        except TypeError: pass
        def f(x): return 5
    """,
    "patched test libraries": """
        import sys, types, unittest
        unittest.TestCase.assertEqual = lambda *a: None
        sys.modules["pytest"] = types.ModuleType("pytest")
        sys.modules["solution"] = types.ModuleType("solution")
        def f(x): return 5
    """,
    "replaced standard output": """
        import io, sys
        sys.stdout = sys.stderr = sys.__stdout__ = io.StringIO()
        print("passed")
        def f(x): return 5
    """,
    "a verdict to every file": """
        import os
        def f(x):
            for fd in range(0, 64):
                if fd not in (3, 4, 5, 6):
                    try: os.write(fd, b"passed\\t\\n")
                    except OSError: pass
            return 5
    """,
    "tests in the frames": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for scope in (frame.f_locals, frame.f_globals):
                    if any("assert " + "f(2)" in str(v) for v in list(scope.values())): return 4
                frame = frame.f_back
    """,
    "tests in memory": """
        import gc
        def f(x):
            needle = "assert " + "f(2)"
            for o in gc.get_objects():
                if isinstance(o, dict) and any(isinstance(v, (str, bytes)) and needle in str(v) for v in o.values()):
                    return 4
    """,
    "tests in the files of this process": """
        import os
        def f(x):
            for fd in range(3, 64):
                try:
                    if b"assert f" in os.pread(fd, 10**5, 0): return 4
                except OSError: pass
    """,
    # it reads, writes and reaches what is not its own
    "sentinel deleted": "import os\ndef f(x):\n os.remove('SENTINEL')\n return 4",
    "sentinel written": "def f(x):\n open('SENTINEL', 'a').write('!')\n return 4",
    "sentinel truncated": "import os\ndef f(x):\n os.truncate('SENTINEL', 0)\n return 4",
    "sentinel made unreadable": "import os\ndef f(x):\n os.chmod('SENTINEL', 0)\n return 4",
    "sentinel moved": "import os\ndef f(x):\n os.rename('SENTINEL', 'SENTINEL.x')\n return 4",
    "file in the home": "import os\ndef f(x):\n open('HOMEFOLDER/.unmask_test', 'w').write('!')\n return 4",
    "file in the parent's folder": "def f(x):\n open('CWD/.unmask_test', 'w').write('!')\n return 4",
    "file in /tmp": "def f(x):\n open('/tmp/.unmask_test', 'w').write('!')\n return 4",
    "file beside the packages": """
        import os
        def f(x):
            open(os.path.dirname(os.__file__) + '/unmask_test.py', 'w').write('!')
            return 4
    """,
    "secret read": f"def f(x):\n if '{SECRET}' in open('SENTINEL').read(): return 4",
    "secret in the environment": f"""
        import os
        def f(x):
            if {SECRET!r} in str(os.environ): return 4
            for who in ('self', 'PARENT', os.getppid(), 1):
                try:
                    if {SECRET!r} in open(f'/proc/{{who}}/environ').read(): return 4
                except OSError: pass
    """,
    "memory of the parent": "def f(x):\n open('/proc/PARENT/mem', 'rb').seek(0)\n return 4",
    "passwords": "def f(x):\n return 4 if open('/etc/passwd').read() else 5",
    "connection": "import socket\ndef f(x):\n socket.create_connection(('127.0.0.1', PORT), 1)\n return 4",
    "datagram": "import socket\ndef f(x):\n socket.socket(type=2).sendto(b'x', ('127.0.0.1', PORT))\n return 4",
    "UNIX socket": "import socket\ndef f(x):\n socket.socket(socket.AF_UNIX).connect('UNIXSOCKET')\n return 4",
    "datagram by a pair": """
        import socket
        def f(x):
            a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            a.sendto(b'x', 'UNIXSOCKET')
            return 4
    """,
    "name look-up": "import socket\ndef f(x):\n socket.getaddrinfo('localhost.localdomain', 80)\n return 4",
    "kill the parent": "import os\ndef f(x):\n os.kill(PARENT, 9)\n return 4",
    "kill the keeper": "import os\ndef f(x):\n os.kill(os.getppid(), 9)\n return 4",
    "kill everyone": "import os\ndef f(x):\n os.kill(-1, 9)\n return 4",
    "subprocess": "import subprocess\ndef f(x):\n subprocess.run(['/bin/true'], check=True)\n return 4",
    "exec": "import os\ndef f(x):\n os.execv('/bin/true', ['true'])",
    "system": "import os\ndef f(x):\n return 4 if os.system('true') == 0 else 5",
    "daemon": """
        import os, time
        def f(x):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0: time.sleep(1000)
                os._exit(0)
            return 4
    """,
    "raised limits": """
        import resource
        def f(x):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**10, 10**10))
            return 4
    """,
    "limits of the parent": """
        import resource
        def f(x):
            resource.prlimit(PARENT, resource.RLIMIT_NOFILE, (9, 9))
            return 4
    """,
    **{
        f"system call {call}": f"""
            import ctypes, os
            libc = ctypes.CDLL(None, use_errno=True)
            def f(x):
                return 4 if libc.{call} >= 0 else 5
        """
        for call in (
            "ptrace(16, PARENT, None, None)",
            "unshare(0x10000000)",
            "mount(b'tmpfs', b'/usr/lib', b'tmpfs', 0, None)",
            "syscall(425, 8, bytes(120))",
            "memfd_create(b'x', 0)",
            "process_vm_readv(PARENT, None, 0, None, 0, 0)",
            "prctl(1, 0, 0, 0, 0)",
            "setsid()",
            "shmget(1, 10**6, 0o1777)",
        )
    },
}
# Attacks on tests other than `TESTS`.
FEINTS = {
    "subtraction": (
        "class A:\n def __sub__(self, o): return 0.0\n def __rsub__(self, o): return 0.0\ndef f(x): return A()",
        "assert abs(f(2) - 4) < 1e-6",
    ),
    "absolute value": (
        "class A:\n def __sub__(self, o): return self\n def __abs__(self): return 0.0\ndef f(x): return A()",
        "assert abs(f(2) - 4) < 1e-6",
    ),
    "order": (
        "class A:\n def __lt__(self, o): return True\n __gt__ = __lt__\ndef f(x): return A()",
        "assert 3 < f(2) < 5",
    ),
    "membership": ("class A:\n def __contains__(self, o): return True\ndef f(x): return A()", "assert 4 in f(2)"),
    "one of": (
        "class A:\n def __eq__(self, o): return True\n __hash__ = None\ndef f(x): return A()",
        "assert f(2) in (4, 5)",
    ),
    "truth of a comparison": (
        "class A:\n def __eq__(self, o): return self\n def __bool__(self): return True\ndef f(x): return A()",
        "assert f(2) == 4",
    ),
    "builtins of its own": ("def abs(x): return 0\ndef f(x): return 5", "assert abs(f(2) - 4) < 1e-6"),
    "modules of its own": (
        "class math:\n def isclose(*_): return True\ndef f(x): return 5",
        "assert math.isclose(f(2), 4)",
    ),
    "star import": (
        "def all(x): return True\ndef f(x): return 5",
        "from solution import *\nassert all([f(2) == 4])",
    ),
    "more names than asked for": (
        """
        import sys
        frame = sys._getframe()
        while "self" not in frame.f_locals: frame = frame.f_back
        operations = frame.f_locals["self"]._operations
        operations["take"] = lambda names: {"f": f, "abs": lambda x: 0, "__builtins__": {}}
        def f(x): return 5
        """,
        "assert abs(f(2) - 4) < 1e-6",
    ),
    "star import over the tests' own": (
        "class np:\n def isclose(*_): return True\nmath = own = np\ndef f(x): return 5",
        "import math as np, math\ndef own(): pass\nfrom solution import *\nassert np.isclose(f(2), 4) or own.isclose()",
    ),
    "end of a loop": ("def f(x): raise StopIteration", "assert all(map(lambda x: f(x) == 2 * x, [1, 2]))"),
    "exit where any exception will do": (
        "import os\ndef f(x): os._exit(0)",
        "import pytest\nwith pytest.raises(BaseException): f(2)",
    ),
    "exit in a try": ("import os\ndef f(x): os._exit(0)", "try:\n f(2)\nexcept BaseException: pass"),
    "frames of a callback": (
        "def f(g): return g.__globals__['secret']",
        "secret = 4\nassert f(lambda: 4) == 4",
    ),
    "class of a test's object": (
        "def f(o): return o.__init__.__globals__['secret']",
        "secret = 4\nclass O:\n def __init__(self): self.x = 1\nassert f(O()) == 4",
    ),
    "frame of a generator": (
        "def f(g): return g.gi_frame.f_globals['secret']",
        "secret = 4\nassert f(i for i in range(3)) == 4",
    ),
    "no such name": ("def g(x): return 4", TESTS),
    "no test": ("def f(x): return 4", "def check(g):\n assert g(2) == 4"),
    "no statement": ("def f(x): return 4", "x = 4"),
    "not an error": ("def f(x): return 4", "import pytest\nwith pytest.raises(ValueError): f(2)"),
    "another message": (
        "def f(x): raise ValueError('no')",
        "import pytest\nwith pytest.raises(ValueError, match='yes'): f(2)",
    ),
    "second case": (
        "def f(x): return 4",
        "import pytest\n@pytest.mark.parametrize('x,y', [(2, 4), (3, 6)])\ndef test_f(x, y): assert f(x) == y",
    ),
    "a unittest": (
        "def f(x): return 5",
        "import unittest\nclass T(unittest.TestCase):\n def test_f(self): self.assertEqual(f(2), 4)",
    ),
}
TRIALS = {name: (code, TESTS) for name, code in (ENDLESS | ATTACKS).items()} | FEINTS
WITHOUT = {"all layers": (), "no namespaces": ("namespaces",)}


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
    if without and not _offered(without):
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
    assert not _marked(short.seconds) + _marked(long.seconds)
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


def _offered(without: tuple[str, ...]) -> bool:
    try:
        return bool(protection(without))
    except UnmaskError:
        return False


def _marked(seconds: float) -> list[str]:
    """Processes of sandboxes with this limit."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f'"seconds": {seconds},' in (process / "cmdline").read_text():
                found.append(process.name)
    return found


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
        ("huge value", "error", "too large to test"),
        ("cyclic value", "error", "within itself"),
        ("oversized message", "error", "sent a message of 4294967295 bytes"),
        ("os._exit(0) in the call", "error", "the code ended the process (exit status 0) before the tests were done"),
        ("sys.exit(0) in the call", "error", "SystemExit: 0 at `assert f(2) == 4`"),
        ("equal to everything", "failed", "AssertionError at `assert f(2) == 4`"),
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


GOOD = {
    "function": ("def f(x: int) -> int:\n    return x * x", "assert f(2) == 4\nassert type(f(2)) is int"),
    "helper and recursion": (
        "def g(n): return 1 if n < 2 else n * g(n - 1)\ndef f(x): return g(x) // 6",
        "assert f(4) == 4",
    ),
    "standard library": (
        """
        import bisect, collections, datetime, functools, heapq, itertools, json, math, operator, random, re, string
        import statistics, typing, dataclasses, enum, decimal, fractions, copy, hashlib, asyncio, threading
        from typing import List
        def f(xs: List[int]) -> List[int]: return heapq.nsmallest(2, xs) + [math.gcd(4, 6), len(re.findall("a", "aa"))]
        """,
        "assert f([3, 1, 2]) == [1, 2, 2, 2]",
    ),
    "prints": ("def f(x):\n print('working', x)\n return 4", "print('testing')\n" + TESTS),
    "main guard": ("def f(x): return 4\nif __name__ == '__main__':\n raise SystemExit(input())", TESTS),
    "no input": ("def f(x):\n try: return input()\n except EOFError: return 4", TESTS),
    "own folder": (
        """
        import os, tempfile
        def f(x):
            with open("a.txt", "w") as file: file.write("4")
            with tempfile.NamedTemporaryFile("w") as file: file.write("4")
            return int(open("a.txt").read())
        """,
        TESTS,
    ),
    "values": (
        "def f(x): return x",
        """
        import collections, datetime, decimal, fractions, math
        from collections import Counter, OrderedDict, defaultdict, deque
        for v in (None, True, False, 0, -1, 2**63, -(2**63), 2**10000, 0.1, -0.0, 1e300, float("inf"), 1 + 2j, "",
                  "é€😀",
                  "\\ud800", "a\\nb", b"\\x00\\xff", bytearray(b"a"), [], [1, [2.0, ["3"]]], (), (1,), {}, {1: {2: 3}},
                  {(1, 2): [3]}, set(), {1, "a"}, frozenset({1}), range(3), slice(1, None, 2), ..., Counter("aab"),
                  OrderedDict([(2, 1), (1, 2)]), defaultdict(list, a=[1]), deque([1, 2], 5), decimal.Decimal("1.10"),
                  fractions.Fraction(1, 3), datetime.date(2020, 1, 2), datetime.timedelta(3, 4),
                  datetime.datetime(2020, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), [None, True, 1.5, "a", 2**64]):
            r = f(v)
            assert type(r) is type(v) and repr(r) == repr(v) and r == v, (v, r)
        assert math.isnan(f(math.nan)) and math.copysign(1, f(-0.0)) == -1
        assert f(int) is int and f(ValueError) is ValueError and f(len)("ab") == 2
        a = object()
        assert f(a) is a and f(f) is f
        xs = [1]
        assert f(xs) is xs
        """,
    ),
    "subclasses of plain values": (
        """
        import collections, enum
        P = collections.namedtuple("P", "x y")
        class C(enum.IntEnum): A = 4
        class E(enum.Enum): A, B = 1, 2
        class L(list):
            def twice(self): return L(self + self)
        class D(dict): pass
        """,
        """
        assert P(1, 2) == (1, 2) and P(1, 2).y == 2
        assert C.A == 4 and C(4) == 4
        assert E.A is E.A and E.A == E.A and E.A != E.B and E.A.name == "A" and [e.value for e in E] == [1, 2]
        assert L([1]).twice() == [1, 1] and L([1]) == L([1]) and len(L([1, 2])) == 2 and L([1]) + [2] == [1, 2]
        assert D(a=1) == {"a": 1} and D(a=1) != {} and "a" in D(a=1) and dict(D(a=1).items()) == {"a": 1}
        """,
    ),
    "classes": (
        """
        class Stack:
            limit = 2
            def __init__(self, *items, name=""): self.items, self.name = list(items), name
            def push(self, item): self.items.append(item); return self
            def __len__(self): return len(self.items)
            def __getitem__(self, i): return self.items[i]
            def __setitem__(self, i, v): self.items[i] = v
            def __iter__(self): return iter(self.items)
            def __str__(self): return f"Stack({self.items})"
            def __repr__(self): return "a stack"
            def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
            def __lt__(self, other): return len(self) < len(other)
            def __add__(self, other): return Stack(*self.items, *other.items)
            def __enter__(self): return self
            def __exit__(self, *error): self.items.clear(); return True
            @property
            def top(self): return self.items[-1]
            @staticmethod
            def of(n): return Stack(*range(n))
            @classmethod
            def empty(cls): return cls()
        class Sub(Stack): pass
        def total(stack): return sum(stack.items)
        """,
        """
        s = Stack(1, 2, name="s")
        assert s.name == "s" and len(s) == 2 and s[0] == 1 and list(s) == [1, 2] and 2 in s and 3 not in s
        assert s.push(3) is s and s.top == 3 and s.items == [1, 2, 3] and total(s) == 6
        s[0] = 9
        s.limit = 7
        assert s[0] == 9 and s.limit == 7 and Stack.limit == 2
        assert str(s) == "Stack([9, 2, 3])" and repr(s) == "a stack" and f"{s}" == str(s)
        assert Stack.of(2) == Stack(0, 1) and Stack.of(2) != Stack() and not Stack.empty() and bool(s)
        assert Stack(1) + Stack(2) == Stack(1, 2) and Stack() < Stack(1) and sorted([Stack(1), Stack()])[0] == Stack()
        assert isinstance(s, Stack) and isinstance(Sub(), Stack) and not isinstance(s, Sub) and not isinstance(4, Stack)
        assert issubclass(Sub, Stack) and callable(s.push) and not callable(s) and Stack.__name__ == "Stack"
        with s as t:
            assert t is s
            raise ValueError
        assert s.items == [] and s != 4 and s is not None and hasattr(s, "pop") is False and hasattr(s, "push")
        """,
    ),
    "generators": (
        """
        def f(n):
            for i in range(n): yield i * i
        def count():
            i = 0
            while True:
                i += yield i
        """,
        """
        import itertools
        from collections.abc import Iterator
        from solution import count
        g = f(3)
        assert isinstance(g, Iterator) and next(g) == 0 and list(g) == [1, 4] and next(g, None) is None
        assert list(itertools.islice(map(lambda x: x, f(10**9)), 3)) == [0, 1, 4]
        c = count()
        next(c)
        assert c.send(5) == 5
        """,
    ),
    "exceptions": (
        """
        import json
        class Mine(ValueError):
            def __init__(self, code): super().__init__(f"code {code}"); self.code = code
        class Other(Exception): pass
        def f(x):
            if x == 0: raise Mine(7)
            if x == 1: return {}["key"]
            if x == 2: return 1 / 0
            if x == 3: json.loads("{")
            if x == 4: open("/no/such/file")
            if x == 5: raise SystemExit(3)
            if x == 6: raise Other
            return ValueError("as a value")
        """,
        """
        import json, pytest
        with pytest.raises(Mine, match="code 7") as info: f(0)
        assert info.value.code == 7 and str(info.value) == "code 7" and isinstance(info.value, Mine)
        with pytest.raises(ValueError): f(0)
        with pytest.raises((KeyError, TypeError)) as info: f(1)
        assert info.value.args == ("key",)
        pytest.raises(ZeroDivisionError, f, 2)
        with pytest.raises(json.JSONDecodeError): f(3)
        with pytest.raises(OSError): f(4)
        with pytest.raises(SystemExit) as info: f(5)
        assert info.value.code == 3
        try: f(6)
        except Other as e: assert str(e) == ""
        else: assert False
        assert isinstance(f(7), ValueError) and str(f(7)) == "as a value"
        """,
    ),
    "arguments changed in place": (
        """
        def f(xs, d=None, *, s=None):
            xs.sort(); xs.append([9])
            if d: d["a"][0] = 5; d["b"] = 6
            if s is not None: s.add(3)
        """,
        """
        xs, d, s = [3, 1], {"a": [1]}, {1}
        inner = d["a"]
        assert f(xs, d, s=s) is None
        assert xs == [1, 3, [9]] and d == {"a": [5], "b": 6} and s == {1, 3} and inner == [5]
        grid = [[1, 2], [3, 4]]
        row = grid[0]
        import solution
        solution.f([0], {"a": row})
        """,
    ),
    "callbacks": (
        """
        def f(g, *xs, key=None): return [g(x) for x in xs] if key is None else sorted(xs, key=key)
        def each(items): return [x for x in items]
        def visit(node): node.seen = True; return node.name + node.child.name
        def adder(n): return lambda x: x + n
        """,
        """
        class Node:
            def __init__(self, name, child=None): self.name, self.child = name, child
        seen = []
        assert f(lambda x: x + 1, 1, 2) == [2, 3] and f(seen.append, 1) == [None] and seen == [1]
        assert f(None, "bb", "a", key=len) == ["a", "bb"] and f(str, 1) == ["1"] and f(adder(1), 2) == [3]
        assert adder(1)(2) == 3 and each(i for i in range(3)) == [0, 1, 2] and each(iter("ab")) == ["a", "b"]
        node = Node("a", Node("b"))
        assert visit(node) == "ab" and node.seen
        def bad(x): raise LookupError("mine")
        try: f(bad, 1)
        except LookupError as e: assert str(e) == "mine"
        else: assert False
        """,
    ),
    "data classes": (
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    x: int\n    y: int = 0",
        "assert P(1) == P(1, 0) and P(1) < P(2) and P(3).x == 3 and repr(P(1)) == 'P(x=1, y=0)'",
    ),
    "future annotations": ("from __future__ import annotations\ndef f(x: Unknown) -> None: return 4", TESTS),
    "async": ("import asyncio\nasync def g(): return 4\ndef f(x): return asyncio.run(g())", TESTS),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(x): return sum(ThreadPoolExecutor(2).map(int, '22'))",
        TESTS,
    ),
    "imported as a module": (
        "X = 4\ndef f(x): return X",
        "import solution\nimport solution as s\nfrom solution import f as g\nassert solution.f(2) == s.X == g(2) == 4",
    ),
    "star import": ("X = 4\ndef f(x): return X", "from solution import *\nassert f(2) == X"),
    "modules that the code imports": ("import math\ndef f(x): return 4.0", "assert math.isclose(f(2), 4)"),
    "numpy or not": (
        """
        try:
            import numpy as np
            def f(x): return np.int64(x) * np.arange(3)[2]
            def g(): return np.arange(4.0).reshape(2, 2)
        except ImportError:
            def f(x): return 4
            def g(): return [[0, 1], [2, 3]]
        """,
        "assert f(2) == 4 and type(f(2)) is int\nassert [list(row) for row in g()] == [[0, 1], [2, 3]]",
    ),
    "pytest": (
        """
        class Bank:
            def __init__(self): self.sum = 0.0
            def put(self, x): self.sum += x
        def f(x): return x * x
        """,
        """
        import math
        import pytest
        from solution import Bank, f
        ran = []
        @pytest.fixture
        def bank():
            b = Bank()
            b.put(0.1)
            yield b
            ran.append("closed")
        @pytest.fixture()
        def rich(bank):
            bank.put(0.2)
            return bank
        @pytest.mark.parametrize("x, y", [(2, 4), pytest.param(3, 9, id="three")])
        @pytest.mark.parametrize("sign", [1, -1])
        @pytest.mark.slow
        def test_f(x, y, sign):
            ran.append((x, sign))
            assert f(sign * x) == y
        def test_bank(rich, extra=1): assert rich.sum == pytest.approx(0.3)
        def test_approx():
            assert [f(0.1), {"a": f(0.2)}["a"]] == pytest.approx([0.01, 0.04])
            assert {"a": f(0.2)} == pytest.approx({"a": 0.04})
            assert f(2) != pytest.approx(4.1) and f(2) == pytest.approx(4.1, abs=0.2)
            assert f(2) != pytest.approx(math.inf)
        class TestBank:
            def setup_method(self): self.bank = Bank()
            @pytest.fixture
            def one(self): return 1
            @pytest.mark.parametrize("x", [1, 2])
            def test_put(self, x, one):
                self.bank.put(x + one)
                assert self.bank.sum == x + one
        def test_zz(): assert sorted(ran[:4]) == [(2, -1), (2, 1), (3, -1), (3, 1)] and ran[4:] == ["closed"]
        """,
    ),
    "unittest": (
        "def f(x): return [x, 4][x > 1]",
        """
        import unittest
        class T(unittest.TestCase):
            def setUp(self): self.x = 2
            def test_f(self): self.assertEqual(f(self.x), 4)
            def test_g(self):
                with self.assertRaises(TypeError): f("a")
        if __name__ == "__main__": unittest.main()
        """,
    ),
}


@pytest.fixture(scope="module", params=WITHOUT)
def good(request):
    without = WITHOUT[request.param]
    if not _offered(without):
        pytest.skip("this machine offers namespaces alone")
    programs = [Program(dedent(code), dedent(tests)) for code, tests in GOOD.values()]
    verdicts = dict(zip(GOOD, Sandbox(Limits(seconds=30), without=without).run_all(programs), strict=True))
    return without, verdicts


@pytest.mark.parametrize("name", GOOD)
def test_good_programs_pass(good, name):
    without, verdicts = good
    if name == "own folder" and without:
        assert "PermissionError" in verdicts[name].message  # nothing would bound what it writes
    else:
        assert verdicts[name].passed, verdicts[name]
        assert verdicts[name].reason == "passed"


def test_setup_is_the_tests_own_but_for_the_names():
    setup = "def helper(x): return x + 1\ndef f(x):\n    '''A stub.'''"
    tests = "def check(candidate):\n    assert candidate(2) == 4\n    assert helper(1) == 2\ncheck(f)"
    code = "def helper(x): return 0\ndef f(x): return 4"
    verdict = Sandbox().run(Program(code, tests, setup, ("f",)))
    assert verdict.passed, verdict
    assert not Sandbox().run(Program(code, tests, setup, ("f", "helper"))).passed


def test_naming_the_code_is_not_testing_it():
    code = "class F:\n def __getattr__(self, name): return 1\n def __call__(self, x): return 4\nf = F()"
    verdict = Sandbox().run(Program(code, "def check(g): assert g(2) == 4", names=("f",)))
    assert (verdict.reason, verdict.message) == ("failed", "NoTestError: nothing called the code")


def test_a_function_with_the_name_of_a_builtin_is_taken_if_named():
    program = Program("def sum(a, b): return a + b", "assert sum(1, 2) == 3", names=("sum",))
    assert Sandbox().run(program).passed
    assert "TypeError" in Sandbox().run(dataclasses.replace(program, names=())).message


def test_verdicts_repeat_though_the_code_depends_on_hashes():
    program = Program("def f(): return list({str(i) for i in range(99)})", "assert f()[0] == '0'")
    assert len({verdict.message for verdict in Sandbox().run_all([program] * 3)}) == 1


def test_processor_time_is_limited():
    verdict = Sandbox(Limits(cpu_seconds=1, seconds=30)).run(Program(dedent(ENDLESS["infinite loop"]), TESTS))
    assert (verdict.reason, verdict.message) == ("timeout", "the code took 1 s of processor time")


def test_namespaces_alone_keep_processes_in():
    if not _offered(("landlock", "seccomp")):
        pytest.skip("this machine offers no namespaces")
    limits = Limits(seconds=1.5 + os.getpid() / 1e8)
    code = dedent(ATTACKS["daemon"])
    server = socket.create_server(("127.0.0.1", 0))
    dial = ATTACKS["connection"].replace("PORT", str(server.getsockname()[1]))
    with server:
        sandbox = Sandbox(limits, workers=3, without=("landlock", "seccomp"))
        verdicts = sandbox.run_all([Program(dedent(c), TESTS) for c in (code, dial, ENDLESS["fork bomb"])])
        assert [verdict.passed for verdict in verdicts] == [True, False, False]  # it may start processes; they end
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not _marked(limits.seconds)


def test_programs_end_when_this_process_is_killed():
    seconds = 99 + os.getpid() / 1e8
    script = f"""
        from unmask.tasks.sandbox import Limits, Program, Sandbox
        sandbox = Sandbox(Limits(seconds={seconds}), workers=2)
        sandbox.run_all([Program("while True: pass", "f()")] * 2)
    """
    with subprocess.Popen([sys.executable, "-c", dedent(script)]) as parent:
        try:
            _wait_until(lambda: len(_marked(seconds)) == 2 * 5)  # a keeper; twice a waiting process and a jailed one
        finally:
            parent.kill()
    _wait_until(lambda: not _marked(seconds))


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets")
@pytest.mark.parametrize("share", [pytest.param(48, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_reference_solutions_pass_and_empty_ones_fail(share):
    rows = [
        (make, row)
        for make, name in ((humaneval, "humaneval_test"), (mbpp, "mbpp"))
        for row in rows_of(DATA / f"{name}.jsonl")[:: share if make is mbpp else -(-share // 6)]
    ]
    gold = [make(row) for make, row in rows]
    verdicts = Sandbox(Limits(seconds=60, cpu_seconds=30)).run_all(gold)
    assert not [(p.code, v) for p, v in zip(gold, verdicts, strict=True) if not v.passed]
    empty = [make(row, emptied(program.code)) for (make, row), program in zip(rows, gold, strict=True)]
    assert not [p.code for p, v in zip(empty, Sandbox().run_all(empty), strict=True) if v.passed]
