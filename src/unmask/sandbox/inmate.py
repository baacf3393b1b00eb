"""What runs in the jail: it loads the code, then reads the tests, runs them, and reports with a nonce.

Code and tests share the process, as wherever code is tested. What the code can reach by assignment is not what
the tests, or the lines here, look up: both have builtins and modules of their own, taken before the code was loaded.
Until then the tests are sealed, and with them the nonce without which no report counts.
"""

from __future__ import annotations

import builtins
import importlib
import marshal
import os
import sys
import threading
from _blake2 import blake2b  # hashlib loads OpenSSL, which takes a fifth of a program's start
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

CODE, TESTS = "solution", "tests"
MACHINERY = ("unittest", "pytest", "_pytest", "pluggy")  # with all that is in them


class NoTestError(Exception):
    """Nothing was asked of the code: tests that only define must not pass."""


class TamperError(Exception):
    """The code has changed what the tests are made of."""


def sealed(job: bytes, key: bytes) -> bytes:
    """Encrypted by a stream of the key's, with a signature: who has not the key can neither read nor change it."""
    return blake2b(job, key=key).digest() + _xor(job, key)


def opened(letter: bytes, key: bytes) -> bytes:
    """
    Raises:
        TamperError: it is not what was sealed.
    """
    job = _xor(letter[64:], key)
    if blake2b(job, key=key).digest() != letter[:64]:
        raise TamperError("the code has changed the tests")
    return job


def _xor(job: bytes, key: bytes) -> bytes:
    blocks = range(-(-len(job) // 64))
    stream = b"".join(blake2b(key=key, salt=block.to_bytes(16, "big")).digest() for block in blocks)[: len(job)]
    return (int.from_bytes(job, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(job), "big")


def main(code_fd: int, tests_fd: int, ready: int, key: bytes, report: int) -> None:
    """Load the code, run the tests, and write a line to the report: the nonce, the reason and a message.

    Args:
        tests_fd: a file with the sealed tests; whole once `ready` is at its end.
    """
    system, loads = dict(vars(os)), marshal.loads
    with os.fdopen(code_fd, "rb") as file:
        job = loads(file.read())
    run_pytest = importlib.import_module("unmask.sandbox.by_pytest").run_pytest if job["pytest"] else None
    trusted = Trusted(job["modules"])
    code, failure = dict[str, Any](), None
    try:
        code = load(job)
    except BaseException as e:
        failure = e
    trusted.restore()
    while system["read"](ready, 1):
        continue
    size = system["fstat"](tests_fd).st_size
    job |= loads(opened(system["pread"](tests_fd, size, 0), key))
    try:
        if failure is not None:
            raise failure
        judge(job, code, trusted, run_pytest or run_tests)
        reason, message = "passed", ""
    except BaseException as e:
        reason, message = explain(e, job["tests"])
    system["write"](report, f"{job['nonce']}\t{reason}\t{message}\n".encode(errors="backslashreplace"))
    system["_exit"](0)


def load(job: Mapping[str, Any]) -> dict[str, Any]:
    """The namespace of the code.

    Raises:
        BaseException: what it raised.
    """
    module = ModuleType(CODE)
    sys.modules[CODE] = module  # dataclasses look their module up
    vars(module)["__builtins__"] = builtins  # else it would have those of the lines here
    for part in ("setup", "code"):
        exec(compile(job[part], f"<{part}>", "exec", dont_inherit=True, optimize=0), vars(module))
    return vars(module)


class Trusted:
    """Builtins and modules as they were before the code, which finds nothing of what is here.

    Args:
        modules: that the tests will import.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception:  # the tests will say so
                continue
        for name in [name for name in sys.modules if name.partition(".")[0] == "unmask"]:
            del sys.modules[name]
        sys.modules["__main__"] = ModuleType("__main__")
        del sys.addaudithook  # it would be shown the tests
        self._untrace = sys.settrace, sys.setprofile, threading.settrace, threading.setprofile
        lists: list[list[Any]] = [sys.meta_path, sys.path, sys.path_hooks]
        self._hooks = [(found, list(found)) for found in lists]
        self._import, self._modules, self._found = builtins.__import__, sys.modules, dict(sys.modules)
        copies = {name: _copy(module) for name, module in self._found.items() if type(module) is ModuleType}
        by_module = {id(self._found[name]): copy for name, copy in copies.items()}
        for copy in copies.values():
            vars(copy).update({k: by_module[id(v)] for k, v in vars(copy).items() if id(v) in by_module})
        self._copies, self.shared, self.modules = copies, False, sys.stdlib_module_names
        own = {"__import__": self._import_own, "map": _Map, "filter": _Filter}
        self.builtins = {**vars(builtins), **own}
        roots = {*MACHINERY} & {name.partition(".")[0] for name in sys.modules}
        watched = [
            name for name in self._found if (name in modules and name != "sys") or name.partition(".")[0] in roots
        ]
        self._watched = [(self._found[name], dict(_callables(self._found[name]))) for name in ("builtins", *watched)]

    def restore(self) -> None:
        """End what the code has put between the tests and the interpreter."""
        for end in self._untrace:
            end(None)
        for found, before in self._hooks:
            found[:] = before
        self._modules.update(self._found)
        sys.modules = self._modules

    def check(self) -> None:
        """
        Raises:
            TamperError: a builtin, or a function or class of a module of the tests, has been replaced, also in a class.
        """
        for module, before in self._watched:
            now = dict(_callables(module))
            for path, value in before.items():
                if now.get(path) is not value:
                    raise TamperError(f"the code has replaced {module.__name__}.{path}")

    def _import_own(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if name == CODE and "*" in (fromlist or ()):
            code = vars(self._modules[CODE])
            own = {*self.builtins, *self.modules, *(globals or ())}  # which a star would hide
            code["__all__"] = [key for key in code if not key.startswith("_") and key not in own]
        copy = self._copies.get(name) if level == 0 and not self.shared and name != CODE else None
        if copy is None:
            return self._import(name, globals, locals, fromlist, level)
        return copy if fromlist else self._copies.get(name.partition(".")[0], copy)


class _Alike(type):
    """Of a class in place of a builtin one: what is an instance of that is one of this."""

    def __instancecheck__(cls, found: Any) -> bool:
        return isinstance(found, cls.__mro__[1])


class _Map(map, metaclass=_Alike):  # type: ignore[type-arg]
    """As map; a StopIteration of the function is no end of it."""

    def __new__(cls, function: Any, *iterables: Any) -> Any:
        return super().__new__(cls, _ending(function), *iterables)


class _Filter(filter, metaclass=_Alike):  # type: ignore[type-arg]
    """As filter; a StopIteration of the function is no end of it."""

    def __new__(cls, function: Any, iterable: Any) -> Any:
        return super().__new__(cls, None if function is None else _ending(function), iterable)


def _ending(function: Any) -> Any:
    if not callable(function):
        return function

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except StopIteration as e:
            raise RuntimeError("the function raised StopIteration") from e

    return call


def _copy(module: ModuleType) -> ModuleType:
    copy = ModuleType(module.__name__)
    vars(copy).update(vars(module))
    return copy


def _callables(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if callable(value):
            yield name, value
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield from ((f"{name}.{key}", each) for key, each in list(vars(value).items()) if callable(each))


def judge(job: Mapping[str, Any], code: dict[str, Any], trusted: Trusted, run: Callable[..., int]) -> None:
    """
    Raises:
        NoTestError: no test ran.
        TamperError: as `Trusted.check`.
        BaseException: what a test raised.
    """
    trusted.shared = job["patches"]
    trusted.check()
    module = ModuleType(TESTS)
    sys.modules[TESTS] = module
    namespace = vars(module)
    namespace |= {"__builtins__": trusted.builtins, "__file__": f"{TESTS}.py"}
    exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True, optimize=0), namespace)
    tests = compile(job["tests"], "<tests>", "exec", dont_inherit=True, optimize=0)
    used = set(_names_in(tests)) - namespace.keys()
    modules = sys.stdlib_module_names - set(job["called"])  # a name that is called is no module
    names = set(job["names"]) or used - trusted.builtins.keys() - modules
    for name in (used & modules) - names & code.keys():
        # a module that the tests leave to the code to import: the code's own could be a class of that name
        namespace[name] = trusted.builtins["__import__"](name, fromlist=("*",))
    namespace.update({name: code[name] for name in names & code.keys()})
    trusted.modules = modules
    exec(tests, namespace)
    ran = run(namespace, TESTS)
    taken = job["imports"] or names & code.keys() & set(_names_in(tests))
    if not taken or (job["only_defines"] and not ran):
        raise NoTestError("nothing called the code")
    if not trusted.shared:
        trusted.check()


def run_tests(namespace: dict[str, Any], module: str) -> int:
    """Call functions ``test*``, and what classes ``Test*`` and ``unittest.TestCase`` have of them.

    Returns:
        How many there were.

    Raises:
        BaseException: what the first one raised that failed.
    """
    ran, case = 0, getattr(namespace.get("unittest"), "TestCase", None) or ()
    own = [(name, value) for name, value in namespace.items() if getattr(value, "__module__", None) == module]
    for name, value in own:
        if isinstance(value, type) and issubclass(value, case):
            ran += _run_case(value, namespace["unittest"])
        elif isinstance(value, type) and name.startswith("Test") and "__init__" not in vars(value):
            for test in dict.fromkeys(key for base in reversed(value.__mro__) for key in vars(base)):
                if test.startswith("test"):
                    _ran_whole(getattr(value(), test)())
                    ran += 1
        elif callable(value) and not isinstance(value, type) and name.startswith("test") and not _takes(value):
            _ran_whole(value())
            ran += 1
    return ran


def _takes(function: Any) -> bool:
    """It has a parameter that somebody must give: a helper that is called by others."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_argcount > len(function.__defaults__ or ())


def _ran_whole(found: Any) -> None:
    """Await what a test of asyncio gives.

    Raises:
        NoTestError: it is a generator, which has not begun.
    """
    if hasattr(found, "cr_await"):
        import asyncio  # few tests need it, and it takes as long as all else here

        asyncio.run(found)
    elif hasattr(found, "gi_frame"):
        raise NoTestError("a test is a generator, which nothing runs")


def _run_case(case: Any, unittest: Any) -> int:
    """By unittest itself.

    Raises:
        AssertionError: one failed, or was skipped that the tests did not mark.
        RuntimeError: one ended in another exception.
    """
    result = unittest.TestResult()
    suite = unittest.TestLoader().loadTestsFromTestCase(case)
    marked = sum(hasattr(getattr(case, test._testMethodName), "__unittest_skip__") for test in suite)
    suite.run(result)
    for found, kind in ((result.failures, AssertionError), (result.errors, RuntimeError)):
        if found:
            raise kind(found[0][1].strip().rpartition("\n")[2])
    if result.unexpectedSuccesses or (len(result.skipped) > marked and not hasattr(case, "__unittest_skip__")):
        raise AssertionError("a test was skipped, or passed that was to fail")
    return int(result.testsRun) - len(result.skipped)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def explain(error: BaseException, tests: str) -> tuple[str, str]:
    """The reason of a verdict, and its message: the exception, and the line of the tests that raised it."""
    reason = {AssertionError: "failed", NoTestError: "failed", MemoryError: "memory"}
    found = next((why for kind, why in reason.items() if isinstance(error, kind)), "error")
    if type(error).__name__ == "Failed":  # as pytest.raises says it
        found = "failed"
    try:
        text = str(error)
    except BaseException:
        text = ""
    name = type(error).__name__
    text = f"{name}: {text}" if text else name
    lines, traceback, line = tests.splitlines(), error.__traceback__, 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<tests>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    if 0 < line <= len(lines):
        text += f" at `{lines[line - 1].strip()}`"
    return found, one_line(text)


def one_line(text: str, longest: int = 300) -> str:
    """Printable, without line breaks, and not long."""
    text = " ".join(text[: 4 * longest].split())
    return "".join(c if c.isprintable() else "?" for c in text)[:longest]
