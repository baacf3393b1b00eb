"""Programs that must pass: every kind of value, class, error and callback that crosses between code and tests."""

from tests.sandbox.machine import TESTS

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
        "assert f(2) == 4\nassert [list(row) for row in g()] == [[0, 1], [2, 3]]",
    ),
    # what honest programs and tests do beside that
    "a builtin": ("f = tuple", "assert f([1]) == (1,)"),
    "keys": ("def f(): return {'a': 1}", "assert f().keys() == {'a'}"),
    "array": (
        "import array\ndef f(): return array.array('i', [1])",
        "import array\nassert f() == array.array('i', [1])",
    ),
    "time zone": (
        "import datetime, zoneinfo\ndef f(): return datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo('UTC'))",
        "import datetime\nassert f() == datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)",
    ),
    "asdict": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
        "import dataclasses\nassert dataclasses.asdict(P(1)) == {'x': 1} and dataclasses.replace(P(1), x=2) == P(2)",
    ),
    "isgenerator": (
        "def f():\n    yield 1",
        "import inspect, types\nassert inspect.isgenerator(f()) and isinstance(f(), types.GeneratorType)",
    ),
    "deepcopy": (
        "class A:\n    def __init__(self): self.x = [1]",
        "import copy\na = A()\nb = copy.deepcopy(a)\nb.x.append(2)\nassert a.x == [1] and b.x == [1, 2]",
    ),
    "operators with plain values": (
        """
        class V:
            def __init__(self, x): self.x = x
            def __eq__(self, o): return self.x == getattr(o, "x", o)
            def __add__(self, o): return V(self.x + o)
            __radd__ = __add__
            def __rmul__(self, o): return V(self.x * o)
            def __lt__(self, o): return self.x < o
        """,
        "assert V(1) == 1 and 1 == V(1) and V(1) + 1 == 2 and 1 + V(1) == V(2) and 3 * V(1) == 3 and sum([V(1)]) == 1",
    ),
    "subclassed by the tests": (
        "class A:\n    def go(self): return self.step() + 1",
        "class B(A):\n    def step(self): return 3\nassert B().go() == 4",
    ),
    "awaited by the tests": (
        "async def f(x):\n    return x",
        "import asyncio\nassert asyncio.run(f(4)) == 4\nasync def g(): return await f(3)\nassert asyncio.run(g()) == 3",
    ),
    "printed": (
        "def f(): print('hi')",
        "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out): f()\n"
        "assert out.getvalue() == 'hi\\n'",
    ),
    "patched by the tests": (
        "import random\ndef g(): return 1\ndef f(): return g() + random.randint(1, 2) + int(input())",
        """
        from unittest.mock import patch
        with patch("solution.g", return_value=10), patch("random.randint", return_value=5):
            with patch("builtins.input", return_value="7"):
                assert f() == 22
        """,
    ),
    "a name replaced by the tests": (
        "def g(): return 1\ndef f(): return g()",
        "import solution\nsolution.g = lambda: 4\nassert solution.f() == 4",
    ),
    "a mock": (
        "def f(client): return client.get('x').json()['y']",
        "from unittest.mock import MagicMock\nc = MagicMock()\nc.get.return_value.json.return_value = {'y': 4}\n"
        "assert f(c) == 4\nc.get.assert_called_once_with('x')",
    ),
    "a stream": (
        "def f(stream): return [line.strip() for line in stream]",
        "import io\nassert f(io.StringIO('a\\nb')) == ['a', 'b']",
    ),
    "documentation": (
        "def f(x: int = 1):\n    'Doc.'",
        "import inspect\nassert f.__doc__ == 'Doc.' and f.__name__ == 'f'"
        " and str(inspect.signature(f)) == '(x: int = 1)'",
    ),
    "format": ("class P:\n    def __format__(self, spec): return 'P' + spec", "assert f'{P():x}' == 'Px'"),
    "deep value": (
        "def f(n):\n    v = []\n    for _ in range(n): v = [v]\n    return v",
        "v = f(150)\nfor _ in range(150): (v,) = v\nassert v == []",
    ),
    "user dictionary": (
        "from collections import UserDict\nclass D(UserDict): pass",
        "d = D(a=1)\nd['b'] = 2\nassert d == {'a': 1, 'b': 2} and isinstance(d, D)",
    ),
    "exact type": ("class A: pass\nclass B(A): pass", "assert type(B()) is B and type(A()) is not B"),
    "decorator": (
        "def twice(g): return lambda x: 2 * g(x)",
        "@twice\ndef g(x): return x + 1\nassert g(1) == 4",
    ),
    "kept argument": (
        "class Bag:\n    def __init__(self, xs): self.xs = xs",
        "xs = [1]\nb = Bag(xs)\nxs.append(2)\nassert b.xs is xs and b.xs == [1, 2]",
    ),
    "StopIteration": ("def f(it): return next(it)", "import pytest\nwith pytest.raises(StopIteration): f(iter([]))"),
    "iterator": (
        """
        class It:
            def __init__(self): self.i = 0
            def __iter__(self): return self
            def __next__(self):
                self.i += 1
                if self.i > 3: raise StopIteration
                return self.i
        """,
        "assert list(It()) == [1, 2, 3] and list(map(str, It())) == ['1', '2', '3'] and list(iter([1])) == [1]\n"
        "assert list(filter(None, It())) == [1, 2, 3] and list(iter(iter([1, 2]).__next__, 2)) == [1]",
    ),
    "counter": (
        "from collections import Counter\ndef f(x): return Counter(x)",
        "from collections import Counter\nassert f('aab') == Counter(a=2, b=1) and isinstance(f(''), Counter)",
    ),
    "streams replaced by the tests": (
        "def f(): print(input())",
        "import io, sys\nfrom solution import f\ndef test_f():\n"
        "    sys.stdin, sys.stdout = io.StringIO('4\\n'), io.StringIO()\n"
        "    f()\n    assert sys.stdout.getvalue() == '4\\n'",
    ),
    "functions replaced by the tests": (
        "import random, time\ndef f(): return random.randint(1, 2) + time.time() + int(input())",
        "import builtins, random, time\nrandom.randint = lambda a, b: 40\ntime.time = lambda: 5\n"
        "builtins.input = lambda *a: '7'\nassert f() == 52",
    ),
    "named as a module": ("def bisect(x): return x", "from solution import *\nassert bisect(4) == 4"),
    "map and filter": (
        "def f(xs): return map(str, xs)\ndef g(m): return isinstance(m, map)",
        "assert isinstance(f([1]), map) and g(map(int, '1')) and isinstance(filter(None, []), (filter, list))\n"
        "try: map(int, 5)\nexcept TypeError: pass\nelse: assert False",
    ),
    "helpers called test": (
        "def f(x): return 2 * x",
        "def test(candidate): assert candidate(2) == 4\ntest(f)\n"
        "def test_case(x, y): assert f(x) == y\ntest_case(2, 4)",
    ),
    "marked by unittest": (
        "def f(x): return x",
        """
        import unittest
        class T(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.y = 4
            def test_f(self): self.assertEqual(f(4), self.y)
            @unittest.skip("slow")
            def test_slow(self): self.assertEqual(f(1), 2)
            @unittest.expectedFailure
            def test_wrong(self): self.assertEqual(f(1), 2)
        """,
    ),
    "awaited by a test": (
        "async def f(x): return x",
        "from solution import f\nasync def test_f(): assert await f(4) == 4",
    ),
    "set up": (
        "def f(x): return x",
        """
        from solution import f
        def setup_module(module): module.x = 4
        class TestF:
            def setup_method(self, method): self.y = 4
            def test_f(self): assert f(x) == self.y
        class TestData:
            def __init__(self, x): self.x = x
        """,
    ),
    "a module of the tests": (
        "def f(x): return x",
        """
        import copy, os, pickle, sys, typing
        from unittest.mock import patch
        sys.path.append(os.path.dirname(__file__))
        class B:
            x: "B"
        def helper(): return 1
        assert isinstance(pickle.loads(pickle.dumps(B())), B) and typing.get_type_hints(B) == {"x": B}
        with patch(__name__ + ".helper", return_value=4):
            assert f(helper()) == 4
        """,
    ),
    "twenty threads": (
        "import threading\ndef f(n):\n    b = threading.Barrier(n)\n"
        "    ts = [threading.Thread(target=b.wait) for _ in range(n)]\n"
        "    for t in ts: t.start()\n    for t in ts: t.join()\n    return n",
        "assert f(20) == 20",
    ),
    "twenty megabytes returned": ("def f(): return 'x' * 20_000_000", "assert len(f()) == 20_000_000"),
    "random numbers": (
        "import os, random, secrets\ndef f(): return len(os.urandom(4)) + len(secrets.token_bytes(4))",
        "import random\nrandom.seed(1)\nassert f() == 8",
    ),
    "state of a module": (
        "calls = []\ndef f(): calls.append(1); return len(calls)",
        "import solution\nassert f() == 1 and solution.f() == 2 and solution.calls == [1, 1]",
    ),
}
FILES = {  # they write into the folder, which there is with namespaces only
    "a file that the code leaves": (
        "def f():\n    with open('out.txt', 'w') as file: file.write('hi')",
        "f()\nassert open('out.txt').read() == 'hi'",
    ),
    "a file for the code": (
        "def f(path): return open(path).read()",
        "with open('in.txt', 'w') as file: file.write('hi')\nassert f('in.txt') == 'hi'",
    ),
    "shutil and pathlib": (
        """
        import pathlib, shutil
        def f():
            a = pathlib.Path("a")
            a.touch(); a.touch(); a.write_text("x")
            shutil.copyfile("a", "b")
            return pathlib.Path("b").read_text()
        """,
        "assert f() == 'x'",
    ),
    "tmp_path": (
        "def f(path): path.write_text('hi')",
        "def test_f(tmp_path):\n    from solution import f\n    f(tmp_path / 'x')\n"
        "    assert (tmp_path / 'x').read_text() == 'hi'",
    ),
}
