"""Attacks that feign the right value. See `tests.sandbox.attacks` for how they are written."""

from tests.sandbox.machine import TESTS

VALUES = {
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
