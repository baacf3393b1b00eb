"""As much of pytest as the tests of coding tasks use, so that they run without it."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FunctionType, GeneratorType, ModuleType, TracebackType
from typing import Any


class Raises:
    """``with pytest.raises(error, match=...) as info``; on exit, `value` is the exception."""

    def __init__(self, expected: Any, match: str | None = None) -> None:
        self._expected, self._match = expected, match
        self.value: BaseException | None = None
        self.type: type[BaseException] | None = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> bool:
        if kind is None:
            raise AssertionError(f"DID NOT RAISE {self._expected}")
        if not issubclass(kind, self._expected):
            return False
        if self._match is not None and not re.search(self._match, str(value)):
            raise AssertionError(f"{str(value)!r} does not match {self._match!r}")
        self.value, self.type = value, kind
        return True


def raises(expected: Any, function: Callable[..., Any] | None = None, *args: Any, **named: Any) -> Raises:
    """As a context manager, or calling the function at once."""
    if function is None:
        return Raises(expected, **named)
    with Raises(expected) as info:
        function(*args, **named)
    return info


class approx:  # noqa: N801 (pytest's name)
    """Equal to numbers within 1e-6 of the expected one, or 1e-12; element by element in containers."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self._expected, self._rel, self._abs, self._nan_ok = expected, rel, abs, nan_ok

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self._close(self._expected, other)

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _close(self, expected: Any, other: Any) -> bool:
        if isinstance(expected, Mapping):
            same = isinstance(other, Mapping) and expected.keys() == other.keys()
            return same and all(self._close(expected[key], other[key]) for key in expected)
        if isinstance(expected, Sequence) and not isinstance(expected, str):
            same = isinstance(other, Sequence) and len(expected) == len(other)
            return same and all(map(self._close, expected, other))
        if not isinstance(expected, (int, float, complex)) or not isinstance(other, (int, float, complex)):
            return bool(expected == other)
        if expected != expected:
            return self._nan_ok and other != other
        if expected == other or math.inf in (abs(expected), abs(other)):
            return bool(expected == other)
        relative = self._rel if self._rel is not None else 0 if self._abs is not None else 1e-6
        return bool(abs(expected - other) <= max(relative * abs(expected), 1e-12 if self._abs is None else self._abs))


def fixture(function: Any = None, **_: Any) -> Any:
    """Mark a function whose value goes to tests with a parameter of its name."""
    if function is None:
        return fixture
    function.is_fixture = True
    return function


def parametrize(names: str | Sequence[str], values: Iterable[Any], **_: Any) -> Callable[[Any], Any]:
    """Mark a test to be called with each value, or tuple of values, of the names."""
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = [dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values]

    def mark(target: Any) -> Any:
        target.cases = [*getattr(target, "cases", []), cases]
        return target

    return mark


class _Marks:
    parametrize = staticmethod(parametrize)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **_: args[0] if len(args) == 1 and callable(args[0]) else self.__getattr__(name)


def run_tests(namespace: dict[str, Any], module: str) -> None:
    """Call the functions ``test*``, classes ``Test*`` and ``unittest.TestCase`` classes that a module defines."""
    own = {name: value for name, value in namespace.items() if isinstance(value, FunctionType | type)}
    own = {name: value for name, value in own.items() if value.__module__ == module}
    fixtures = {name: value for name, value in own.items() if hasattr(value, "is_fixture")}
    test_case = getattr(sys.modules.get("unittest"), "TestCase", ())
    for name, value in own.items():
        if isinstance(value, FunctionType) and name.startswith("test_") and name not in fixtures:
            _call(value, value, fixtures)
        elif isinstance(value, type) and issubclass(value, test_case):
            value.setUpClass()  # type: ignore[attr-defined]
            for test in _tests_of(value):
                value(test).debug()
        elif isinstance(value, type) and name.startswith("Test"):
            for test in _tests_of(value):
                _call(value, getattr(value, test), fixtures)


def _tests_of(kind: type) -> list[str]:
    return [name for base in reversed(kind.__mro__) for name in vars(base) if name.startswith("test")]


def _call(owner: Any, test: Any, fixtures: Mapping[str, Any]) -> None:
    marked = getattr(test, "cases", []) + (getattr(owner, "cases", []) if owner is not test else [])
    for cases in itertools.product(*marked):
        values = {name: value for case in cases for name, value in case.items()}
        instance = owner() if isinstance(owner, type) else None
        method = test if instance is None else test.__get__(instance)
        getattr(instance, "setup_method", lambda: None)()
        opened: list[Iterator[Any]] = []
        method(**_arguments(method, {**fixtures, **_bound_fixtures(instance)}, values, opened))
        for generator in reversed(opened):
            next(generator, None)
        getattr(instance, "teardown_method", lambda: None)()


def _bound_fixtures(instance: object) -> dict[str, Any]:
    names = [name for name in dir(type(instance)) if hasattr(getattr(type(instance), name, None), "is_fixture")]
    return {name: getattr(instance, name) for name in names}


def _arguments(
    function: Any, fixtures: Mapping[str, Any], values: dict[str, Any], opened: list[Iterator[Any]]
) -> dict[str, Any]:
    import inspect  # it takes as long as all else here

    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in values and name in fixtures:
            value = fixtures[name](**_arguments(fixtures[name], fixtures, values, opened))
            if isinstance(value, GeneratorType):
                opened.append(value)
                value = next(value)
            values[name] = value
        if name in values or parameter.default is parameter.empty:
            found[name] = values[name]
    return found


def module() -> ModuleType:
    """What ``import pytest`` gives the tests."""
    pytest = ModuleType("pytest")
    vars(pytest).update(raises=raises, approx=approx, fixture=fixture, mark=_Marks(), param=lambda *values, **_: values)
    return pytest
