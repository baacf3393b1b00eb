"""Attacks that feign the right value. See `tests.sandbox.attacks` for how they are written."""

from tests.sandbox.machine import TESTS

VALUES = {
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
            for fd in range(0, 4096):
                try: os.write(fd, b"\\n" + 32 * b"0" + b"\\tpassed\\t\\npassed\\t\\n")
                except OSError: pass
            return 5
    """,
    "a verdict at import": """
        import os
        for fd in range(0, 4096):
            try: os.write(fd, b"jail\\tpassed\\npassed\\t\\ninner\\t1\\n")
            except OSError: pass
        def f(x): return 5
    """,
    "a flood of the report": """
        import os, threading
        def flood(fd):
            while True: os.write(fd, b"passed\\t\\n" * 5000)
        for fd in range(3, 64): threading.Thread(target=flood, args=(fd,), daemon=True).start()
        def f(x): return 5
    """,
    "tests in the files of this process": """
        import os
        def f(x):
            for fd in range(3, 4096):
                try:
                    if b"assert f" in os.pread(fd, 10**5, 0): return 4
                except OSError: pass
    """,
    "tests read by a thread": """
        import os, threading, time
        found = []
        def look():
            while True:
                for fd in range(3, 64):
                    try: found.append(os.pread(fd, 10**5, 0))
                    except OSError: pass
                time.sleep(0.001)
        threading.Thread(target=look, daemon=True).start()
        def f(x): return 4 if any(b"assert f" in text for text in found) else 5
    """,
    "the end of the wait taken by a thread": """
        import os, threading
        def take(fd):
            while True:
                try: os.read(fd, 1)
                except OSError: return
        for fd in range(3, 16): threading.Thread(target=take, args=(fd,), daemon=True).start()
        def f(x): return 5
    """,
    "tests written anew": """
        import os
        for fd in range(3, 64):
            try: os.pwrite(fd, b"x = f(2)", 0)
            except OSError: pass
        def f(x): return 5
    """,
    "tests changed a little": """
        import os, threading, time
        def change():
            while True:
                for fd in range(3, 64):
                    try:
                        text = bytearray(os.pread(fd, 10**5, 0))
                        for i in range(64, len(text)): text[i] ^= 1
                        os.pwrite(fd, bytes(text), 0)
                    except OSError: pass
        threading.Thread(target=change, daemon=True).start()
        time.sleep(0.05)
        def f(x): return 5
    """,
    "json and marshal of its own": """
        import json, marshal
        def fake(text): return {"setup": "", "tests": "f(2)", "names": ["f"], "nonce": "x", "imports": True}
        json.loads = json.load = marshal.loads = marshal.load = fake
        json.JSONDecoder.decode = lambda self, text: fake(text)
        def f(x): return 5
    """,
    "hooks of the interpreter": """
        import sys, threading
        sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *a: None
        sys.displayhook = print
        sys.meta_path.insert(0, type("Finder", (), {"find_spec": lambda *a: None})())
        sys.path.insert(0, "/box")
        def f(x): return 5
    """,
    "an audit hook": """
        import sys
        tests = []
        def hook(event, args):
            if event == "compile" and args[0]: tests.append(str(args[0]))
        sys.addaudithook(hook)
        def f(x): return 4 if "f(2) == 4" in str(tests) else 5
    """,
    "modules of the sandbox": """
        import sys
        for name, module in list(sys.modules.items()):
            if "inmate" in name or "unmask" in name or name == "__main__":
                for key in list(vars(module)):
                    if key in ("judge", "opened", "explain", "run_tests", "Trusted", "main"):
                        setattr(module, key, lambda *a: ("passed", ""))
        def f(x): return 5
    """,
    "builtins of the caller": """
        __builtins__.__dict__["exec"] = __builtins__.__dict__["compile"] = lambda *a, **k: None
        def f(x): return 5
    """,
    "builtins by a builtin": """
        len.__self__.exec = len.__self__.compile = len.__self__.getattr = lambda *a, **k: None
        def f(x): return 5
    """,
    "a class of errors": """
        class E(Exception): pass
        E.__name__ = E.__qualname__ = "X\\npassed\\t"
        E.__module__ = "passed"
        def f(x): raise E("\\n" + "0" * 32 + "\\tpassed\\t")
    """,
    "an error whose text exits": """
        import os
        class E(Exception):
            def __str__(self): os._exit(0)
        def f(x): raise E
    """,
    "an AssertionError that passes": """
        class Passed(AssertionError):
            def __bool__(self): return False
        def f(x): raise Passed
    """,
    "a signal": """
        import os, signal
        signal.signal(signal.SIGALRM, lambda *a: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        def f(x):
            while True: pass
    """,
    "a signal that raises": """
        import signal
        class Done(BaseException): pass
        def stop(*a): raise Done
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        def f(x): return 5
    """,
    "an interrupt": "import _thread\ndef f(x):\n _thread.interrupt_main()\n return 5",
    "exit of a thread": """
        import os, threading, time
        def leave():
            time.sleep(0.01)
            os._exit(0)
        threading.Thread(target=leave, daemon=True).start()
        def f(x):
            while True: pass
    """,
    "exit when collected": """
        import os
        class A:
            def __del__(self): os._exit(0)
        def f(x): return A()
    """,
    "exit when compared": "import os\nclass A:\n def __eq__(self, o): os._exit(0)\ndef f(x): return A()",
    "exit when shown": "import os\nclass A:\n def __repr__(self): os._exit(0)\ndef f(x): return A()",
    "recursion to the end": "import sys\nsys.setrecursionlimit(50)\ndef f(x): return f(x)",
    "no frames left": "import sys\ndef f(x):\n sys.setrecursionlimit(30)\n return 5",
    "closed files": "import os\ndef f(x):\n os.closerange(0, 4096)\n return 4",
    "report on a file of its own": """
        import os
        def f(x):
            null = os.open("/dev/null", os.O_WRONLY)
            for fd in range(3, 16):
                try: os.dup2(null, fd)
                except OSError: pass
            return 4
    """,
    "warnings as errors of others": """
        import warnings
        warnings.showwarning = warnings.warn = lambda *a, **k: None
        def f(x): return 5
    """,
    "a module under another name": """
        import sys, types
        fake = types.ModuleType("tests")
        fake.f = lambda x: 4
        sys.modules["tests"] = fake
        def f(x): return 5
    """,
}
# Attacks on tests other than `TESTS`.
FEINTS = {
    "builtins of its own": ("def abs(x): return 0\ndef f(x): return 5", "assert abs(f(2) - 4) < 1e-6"),
    "builtins patched in a call": (
        "import builtins\ndef f(x):\n builtins.abs = builtins.len = lambda *_: 0\n return 5",
        "y = f(2)\nassert abs(y - 4) < 1e-6",
    ),
    "modules of its own": (
        "class math:\n def isclose(*_): return True\ndef f(x): return 5",
        "assert math.isclose(f(2), 4)",
    ),
    "a module patched at import": (
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 5",
        "import math\nassert math.isclose(f(2), 4)",
    ),
    "a module patched in a call": (
        "def f(x):\n import math\n math.isclose = lambda *a, **k: True\n return 5",
        "import math\ny = f(2)\nassert math.isclose(y, 4)",
    ),
    "a module patched by one of its functions": (
        "import math\ndef f(x):\n math.isclose.__self__.isclose = lambda *a, **k: True\n return 5",
        "import math\ny = f(2)\nassert math.isclose(y, 4)",
    ),
    "a module in place of another": (
        "import sys, types\nfake = types.ModuleType('math')\nfake.isclose = lambda *a: True\n"
        "sys.modules['math'] = fake\ndef f(x): return 5",
        "import math\nassert math.isclose(f(2), 4)",
    ),
    "another table of modules": (
        "import sys, types\nfake = types.ModuleType('math')\nfake.isclose = lambda *a: True\n"
        "sys.modules = {**sys.modules, 'math': fake}\ndef f(x): return 5",
        "import math\nassert math.isclose(f(2), 4)",
    ),
    "import of its own": (
        "import builtins, types\nfake = types.ModuleType('x')\nfake.isclose = lambda *a: True\n"
        "builtins.__import__ = lambda *a, **k: fake\ndef f(x): return 5",
        "import math\nassert math.isclose(f(2), 4)",
    ),
    "a class patched at import": (
        "import collections\ncollections.Counter.__eq__ = lambda *a: True\ndef f(x): return [5]",
        "from collections import Counter\nassert Counter(f(2)) == Counter([4])",
    ),
    "a class patched in a call": (
        "import collections\ndef f(x):\n collections.Counter.__eq__ = lambda *a: True\n return [5]",
        "from collections import Counter\ny = f(2)\nassert Counter(y) == Counter([4])",
    ),
    "unittest patched in a call": (
        "import unittest\ndef f(x):\n unittest.TestCase.assertEqual = lambda *a: None\n return 5",
        "import unittest\nclass T(unittest.TestCase):\n def test_f(self):\n  y = f(2)\n  self.assertEqual(y, 4)",
    ),
    "unittest runs nothing": (
        "import unittest\nunittest.TestCase.debug = unittest.TestCase.run = lambda *a: None\ndef f(x): return 5",
        "import unittest\nclass T(unittest.TestCase):\n def test_f(self): self.assertEqual(f(2), 4)",
    ),
    "pytest.approx patched": (
        "import pytest\ndef f(x):\n type(pytest.approx(4)).__eq__ = lambda *a: True\n return 5",
        "import pytest\ndef test_f():\n y = f(2)\n assert y == pytest.approx(4)",
    ),
    "pytest.raises patched": (
        "import pytest\nclass R:\n def __enter__(self): return self\n def __exit__(self, *a): return True\n"
        "def f(x):\n pytest.raises = lambda *a, **k: R()\n return 5",
        "import pytest\ndef test_f():\n f(2)\n with pytest.raises(ValueError): f(2)",
    ),
    "pytest finds nothing": (
        "import _pytest.python\n_pytest.python.Module.collect = lambda self: []\ndef f(x): return 5",
        "import pytest\ndef test_f(): assert f(2) == 4",
    ),
    "pytest ends well": (
        "import _pytest.config\ndef f(x):\n import pytest\n pytest.exit('done', 0)",
        "import pytest\ndef test_f(): assert f(2) == 4",
    ),
    "compiled without asserts": (
        "import _testinternalcapi as t\nc = t.get_config()\nc['optimization_level'] = 2\nt.set_config(c)\n"
        "def f(x): return 5",
        "y = f(2)\nassert y == 4",
    ),
    "options of pytest": (
        "import os\nos.environ['PYTEST_ADDOPTS'] = '-p solution'\nos.environ['PYTEST_PLUGINS'] = 'solution'\n"
        "def pytest_pyfunc_call(pyfuncitem): return True\ndef f(x): return 5",
        "import pytest\nfrom solution import f\ndef test_f(): assert f(2) == 4",
    ),
    "a file of options": (
        "try: open('pytest.ini', 'w').write('[pytest]\\naddopts = -p solution\\n')\nexcept OSError: pass\n"
        "def pytest_pyfunc_call(pyfuncitem): return True\ndef f(x): return 5",
        "import pytest\nfrom solution import f\ndef test_f(): assert f(2) == 4",
    ),
    **{
        f"{how} in the second test": (
            f"import pytest, unittest\ndef f(x):\n if x == 2: return 4\n {how}",
            "import pytest\nfrom solution import f\ndef test_a(): assert f(2) == 4\ndef test_b(): assert f(3) == 6",
        )
        for how in ("pytest.skip('no')", "pytest.xfail('no')", "raise unittest.SkipTest", "pytest.exit('no', 0)")
    },
    "a skip of unittest": (
        "import unittest\ndef f(x):\n if x == 2: return 4\n raise unittest.SkipTest",
        "import unittest\nclass T(unittest.TestCase):\n def test_a(self): self.assertEqual(f(2), 4)\n"
        " def test_b(self): self.assertEqual(f(3), 6)",
    ),
    "a word in a comment": (
        "def f(x):\n import math\n math.isclose = lambda *a, **k: True\n return 5",
        "# mock data, patch\nimport math\ny = f(2)\nassert math.isclose(y, 4)",
    ),
    **{
        f"tests that {how}": ("def f(x): return 5", f"from solution import f\n{tests}")
        for how, tests in {
            "are awaited": "async def test_f(): assert f(2) == 4",
            "are methods that are awaited": "class TestF:\n async def test_f(self): assert f(2) == 4",
            "run as a script only": "if __name__ == '__main__':\n assert f(2) == 4",
            "nobody calls": "'Tests.'\ndef check(): assert f(2) == 4",
            "have no underscore": "def testf(): assert f(2) == 4",
            "are named runTest": "import unittest\nclass T(unittest.TestCase):\n def runTest(self): assert f(2) == 4",
            "are cached": "import functools\n@functools.lru_cache\ndef test_f(): assert f(2) == 4",
            "are generators": "def test_f():\n for i in [2]:\n  assert f(i) == 4\n  yield",
        }.items()
    },
    "a skip": (
        "def f(x):\n import pytest\n pytest.skip('no')",
        "import pytest\ndef test_f(): assert f(2) == 4",
    ),
    "star import": (
        "def all(x): return True\ndef f(x): return 5",
        "from solution import *\nassert all([f(2) == 4])",
    ),
    "star import by a list of its own": (
        "__all__ = ['all', 'f']\ndef all(x): return True\ndef f(x): return 5",
        "from solution import *\nassert all([f(2) == 4])",
    ),
    "star import over the tests' own": (
        "class np:\n def isclose(*_): return True\nmath = own = np\ndef f(x): return 5",
        "import math as np, math\ndef own(): pass\nfrom solution import *\nassert np.isclose(f(2), 4) or own.isclose()",
    ),
    "end of a loop": ("def f(x): raise StopIteration", "assert all(map(lambda x: f(x) == 2 * x, [1, 2]))"),
    "end of a filter": ("def f(x): raise StopIteration", "assert not list(filter(lambda x: f(x) != 2 * x, [1, 2]))"),
    "exit where any exception will do": (
        "import os\ndef f(x): os._exit(0)",
        "import pytest\nwith pytest.raises(BaseException): f(2)",
    ),
    "exit in a try": ("import os\ndef f(x): os._exit(0)", "try:\n f(2)\nexcept BaseException: pass"),
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
# What code and tests in one process do not tell from a right program; docs/tasks.md says so.
UNDETECTED = {
    "equal to everything": "class A:\n def __eq__(self, other): return True\ndef f(x): return A()",
    "a lying int": "class A(int):\n def __eq__(self, other): return True\ndef f(x): return A(5)",
    "a lying list": "class A(list):\n def __eq__(self, other): return True\ndef f(x): return A([5])",
    "tests in the frames": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                if "assert f(2) == 4" in str(frame.f_locals.get("job")): return 4
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
}
