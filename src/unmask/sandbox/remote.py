"""An object of the other side, and what may be asked of it."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol


class Ask(Protocol):
    """Have the other side do an operation; raises what it raised."""

    def __call__(self, operation: str, *args: Any, **named: Any) -> Any: ...


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(dict.items(value))
    kinds: tuple[Any, ...] = (list, set, deque)
    return next(kind(kind.__iter__(value)) for kind in kinds if isinstance(value, kind))


_COMPARISONS = ("lt", "le", "gt", "ge")
_ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
)
_BINARY = {f"__{name}__": getattr(operator, f"__{name}__") for name in (*_COMPARISONS, *_ARITHMETIC)}
_OTHERS: dict[str, Callable[..., Any]] = {
    "__call__": lambda value, /, *args, **named: value(*args, **named),
    "__len__": len,
    "__bool__": bool,
    "__int__": int,
    "__float__": float,
    "__index__": operator.index,
    "__abs__": abs,
    "__neg__": operator.neg,
    "__round__": round,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__enter__": lambda value: type(value).__enter__(value),
    "__exit__": lambda value, *error: type(value).__exit__(value, *error),
    "__hash__": hash,
    "__str__": str,
    "__repr__": repr,
}
_ALWAYS: dict[str, Callable[..., Any]] = {
    "__eq__": operator.eq,
    "plain": _plain,
    "isinstance": lambda kind, value: isinstance(value, kind),
    "issubclass": lambda kind, value: issubclass(value, kind),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
}
OPERATIONS = {**_BINARY, **_OTHERS, **_ALWAYS}


class Remote:
    """An object of the other side.

    An operator between it and a plain value works on its plain content, if its class extends a list, set, deque or
    dict, and else not at all: the expected value of a test is not shown to the code, which could feign equality.
    """

    __slots__ = ("_remote_ask", "_remote_number")
    _remote_plain = False
    _remote_ask: Ask
    _remote_number: int

    def __init__(self, ask: Ask, number: int) -> None:
        object.__setattr__(self, "_remote_ask", ask)
        object.__setattr__(self, "_remote_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._remote_ask("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._remote_ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._remote_ask("delattr", self, name)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Remote):
            return self is other or self._remote_ask("__eq__", self, other) is True
        return self._remote_ask("plain", self) == other if self._remote_plain else NotImplemented

    def __hash__(self) -> int:
        return hash(self._remote_number)

    def __instancecheck__(self, value: object) -> bool:
        return bool(self._remote_ask("isinstance", self, value))

    def __subclasscheck__(self, value: object) -> bool:
        return bool(self._remote_ask("issubclass", self, value))


def operations_of(kind: type) -> list[str]:
    """What objects of a class support, out of what may be asked."""
    own = {name for base in kind.__mro__ for name in vars(base) if vars(base)[name] is not None}
    return [name for name in (*_BINARY, *_OTHERS) if name in own] + ["plain"] * issubclass(
        kind, (list, set, deque, dict)
    )


@lru_cache(256)
def remote_class(name: str, operations: tuple[str, ...]) -> type[Remote]:
    """A `Remote` with these methods alone, so that `callable`, `iter` and truth work as for the object itself."""
    methods: dict[str, Any] = {name: _asking(name) for name in operations if name in _OTHERS}
    methods |= {name: _asking_binary(name) for name in operations if name in _BINARY}
    if "__hash__" not in operations:
        methods["__hash__"] = None
    return type(name, (Remote,), {"__slots__": (), "_remote_plain": "plain" in operations, **methods})


def _asking(name: str) -> Callable[..., Any]:
    def method(self: Remote, /, *args: Any, **named: Any) -> Any:
        if name == "__exit__":
            args = (*args[:2], None)  # no traceback crosses
        return self._remote_ask(name, self, *args, **named)

    return method


def _asking_binary(name: str) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        if isinstance(other, Remote):
            return self._remote_ask(name, self, other)
        return _BINARY[name](self._remote_ask("plain", self), other) if self._remote_plain else NotImplemented

    return method
