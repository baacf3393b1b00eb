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
from types import CodeType, FunctionType, ModuleType
from typing import Any

CODE, TESTS = "solution", "tests"
MACHINERY = ("unittest", "pytest", "_pytest", "pluggy")  # with all that is in them


class NoTestError(Exception):
    """Nothing was asked of the code: tests that only define must not pass."""


class TamperError(Exception):
    """The code has changed what the tests are made of."""


class Namespace(dict[str, Any]):
    """Globals of the tests; it knows whether they have taken a name of the code."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__(names)
        self.code: set[str] = set()
        self.taken = False

    def __getitem__(self, name: str) -> Any:
        self.taken = self.taken or name in self.code
        return super().__getitem__(name)


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
        exec(compile(job[part], f"<{part}>", "exec", dont_inherit=True), vars(module))
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
        self._copies, self.shared = copies, False
        own = {"__import__": self._import_own, "map": _map, "filter": _filter, "iter": _iter}
        self.builtins = {**vars(builtins), **own}
        roots = {*MACHINERY} & {name.partition(".")[0] for name in sys.modules}
        watched = [name for name in self._found if name in modules or name.partition(".")[0] in roots]
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
            own = {*self.builtins, *sys.stdlib_module_names, *(globals or ())}  # which a star would hide
            code["__all__"] = [key for key in code if not key.startswith("_") and key not in own]
        copy = self._copies.get(name) if level == 0 and not self.shared and name != CODE else None
        if copy is None:
            return self._import(name, globals, locals, fromlist, level)
        return copy if fromlist else self._copies.get(name.partition(".")[0], copy)


def _map(function: Any, *iterables: Any) -> Iterator[Any]:
    """As map; a StopIteration of the function is no end of it."""
    for each in zip(*iterables, strict=False):
        yield function(*each)


def _filter(function: Any, iterable: Any) -> Iterator[Any]:
    for each in iterable:
        if function(each) if function is not None else each:
            yield each


def _iter(found: Any, *sentinel: Any) -> Iterator[Any]:
    return _until(found, *sentinel) if sentinel else iter(found)


def _until(function: Any, sentinel: Any) -> Iterator[Any]:
    while (value := function()) != sentinel:
        yield value


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
    namespace = Namespace({**vars(module), "__builtins__": trusted.builtins})
    exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), namespace)
    tests = compile(job["tests"], "<tests>", "exec", dont_inherit=True)
    used = set(_names_in(tests)) - namespace.keys()
    names = set(job["names"]) or used - trusted.builtins.keys() - sys.stdlib_module_names
    for name in (used & sys.stdlib_module_names) - names & code.keys():
        # a module that the tests leave to the code to import: the code's own could be a class of that name
        namespace[name] = trusted.builtins["__import__"](name, fromlist=("*",))
    namespace.update({name: code[name] for name in names & code.keys()})
    namespace.code = names & code.keys()
    namespace.taken = job["imports"]
    exec(tests, namespace)
    ran = run(namespace, TESTS)
    if not namespace.taken or (job["only_defines"] and not ran):
        raise NoTestError("nothing called the code")
    if not trusted.shared:
        trusted.check()


def run_tests(namespace: dict[str, Any], module: str) -> int:
    """Call functions ``test_*``, and what classes ``Test*`` and ``unittest.TestCase`` have of them.

    Returns:
        How many there were.

    Raises:
        BaseException: what the first one raised that failed.
    """
    ran, case = 0, getattr(sys.modules.get("unittest"), "TestCase", ())
    own = [(name, value) for name, value in namespace.items() if getattr(value, "__module__", None) == module]
    for name, value in own:
        if isinstance(value, FunctionType) and name.startswith("test_"):
            value()
            ran += 1
        elif isinstance(value, type) and (issubclass(value, case) or name.startswith("Test")):
            of_unittest = issubclass(value, case)
            getattr(value, "setUpClass" if of_unittest else "setup_class", _nothing)()
            for test in dict.fromkeys(key for base in reversed(value.__mro__) for key in vars(base)):
                if test.startswith("test"):
                    _run_method(value, test, of_unittest)
                    ran += 1
            getattr(value, "tearDownClass" if of_unittest else "teardown_class", _nothing)()
    return ran


def _run_method(kind: Any, test: str, of_unittest: bool) -> None:
    if of_unittest:
        kind(test).debug()
        return
    instance = kind()
    getattr(instance, "setup_method", _nothing)()
    getattr(instance, test)()
    getattr(instance, "teardown_method", _nothing)()


def _nothing() -> None:
    """In place of a method that a class has not."""


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
