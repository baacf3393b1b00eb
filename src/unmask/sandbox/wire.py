"""Values between the guest and the tester, as JSON that executes nothing: plain ones by copy, others by number.

The guest is not trusted: whatever it sends becomes a plain value of exactly its type, an exception, or a `Remote`.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any

from unmask.sandbox.remote import Ask, Remote, operations_of, remote_class

MAX_BYTES = 2**24
MAX_DEPTH = 100

ATOMS = {type(None), bool, float, str}
MUTABLE = (list, dict, set, bytearray, deque, defaultdict, Counter, OrderedDict)
_CONTAINERS = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}
# What a constructor needs to make an equal value.
_PARTS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "builtins.bytes": lambda v: (v.decode("latin-1"), "latin-1"),
    "builtins.bytearray": lambda v: (v.decode("latin-1"), "latin-1"),
    "builtins.complex": lambda v: (v.real, v.imag),
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "builtins.slice": lambda v: (v.start, v.stop, v.step),
    "collections.deque": lambda v: (list(v), v.maxlen),
    "collections.Counter": lambda v: (dict(v),),
    "collections.OrderedDict": lambda v: (dict(v),),
    "collections.defaultdict": lambda v: (v.default_factory, dict(v)),
    "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo),
    "datetime.datetime": lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
    "datetime.timezone": lambda v: (v.utcoffset(None),),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
}
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda v: bytes.__getitem__(v, slice(None))),
    (tuple, lambda v: tuple.__getitem__(v, slice(None))),
)
_SAFE_TYPES = {bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, object}


class Broken(BaseException):
    """The other side sent what it should not; no `except Exception` of a test may hide it."""


class Ended(Broken):
    """The other side is no more."""


def dump(tree: object) -> bytes:
    """
    Raises:
        ValueError: too large.
    """
    data = json.dumps(tree, separators=(",", ":")).encode()
    if len(data) > MAX_BYTES:
        raise ValueError(f"a value of {len(data)} bytes is too large to test (at most {MAX_BYTES})")
    return data


def send(fd: int, data: bytes) -> None:
    """
    Raises:
        Ended: nobody reads.
    """
    view = memoryview(len(data).to_bytes(4, "big") + data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as e:
        raise Ended(f"ended ({e})") from None


def receive(fd: int) -> Any:
    """
    Raises:
        Broken: what it sent is too large or no JSON.
        Ended: it sends no more.
    """
    size = int.from_bytes(_read(fd, 4), "big")
    if size > MAX_BYTES:
        raise Broken(f"sent a message of {size} bytes (at most {MAX_BYTES})")
    data = _read(fd, size)
    try:
        return json.loads(data.decode("ascii"))
    except (ValueError, RecursionError, MemoryError) as e:
        raise Broken(f"sent a malformed message ({type(e).__name__})") from None


def _read(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(fd, size - len(data))
        if not chunk:
            raise Ended("ended")
        data += chunk
    return bytes(data)


def refresh(old: Any, new: Any) -> None:
    """Give a container, and those in it, the content that the other side left in its copy."""
    keys: Iterable[Any] = range(min(len(old), len(new))) if type(old) is list else new if isinstance(old, dict) else ()
    for key in keys:
        inner = old[key] if type(old) is list else old.get(key)
        if type(inner) in MUTABLE and type(new[key]) is type(inner):
            refresh(inner, new[key])
            new[key] = inner
    old.clear()
    if isinstance(old, (list, deque, bytearray)):
        old.extend(new)
    else:
        old.update(new)


class Wire:
    """Packs values into trees of JSON, and back.

    Args:
        ask: how a `Remote` asks the other side.
        guarded: the other side is not trusted.
    """

    def __init__(self, ask: Ask, guarded: bool) -> None:
        self._ask, self._guarded = ask, guarded
        self._mine: list[object] = []
        self._numbers: dict[int, int] = {}
        self._theirs: dict[int, Any] = {}
        self._their_classes: dict[type, int] = {}

    def pack(self, value: Any, depth: int = 0) -> Any:
        """
        Raises:
            ValueError: nested too deeply, or within itself.
        """
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is int:
            return value if -(2**63) < value < 2**63 else ["int", hex(value)]  # long decimals are refused by int()
        if depth > MAX_DEPTH:
            raise ValueError(f"a value is nested more than {MAX_DEPTH} deep, or within itself")
        if kind in _CONTAINERS.values():
            return [kind.__name__, self._pack_all(value, depth)]
        if kind is dict:
            return ["dict", self._pack_all(value, depth), self._pack_all(value.values(), depth)]
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _PARTS:
            return ["new", name, self._pack_all(_PARTS[name](value), depth)]
        fields = getattr(kind, "_fields", None)
        if issubclass(kind, tuple) and isinstance(fields, tuple):
            return ["namedtuple", kind.__name__, list(fields), self._pack_all(value, depth)]
        for base, plain in _BASES:
            if issubclass(kind, base):
                return self.pack(plain(value), depth)
        if kind.__module__ == "numpy":
            numpy = sys.modules["numpy"]
            if isinstance(value, numpy.generic):
                return self.pack(value.item(), depth)
            if kind is numpy.ndarray:
                return ["ndarray", value.dtype.str, self.pack(value.tolist(), depth)]
        return self._pack_object(value)

    def _pack_all(self, values: Iterable[Any], depth: int) -> list[Any]:
        values = list(values)
        kinds = set(map(type, values))
        if kinds <= ATOMS or (kinds == {int} and min(values) > -(2**63) and max(values) < 2**63):
            return values
        return [self.pack(value, depth + 1) for value in values]

    def _pack_object(self, value: Any) -> Any:
        if value is Ellipsis:
            return ["..."]
        if isinstance(value, Remote):
            return ["yours", value._remote_number]
        if isinstance(value, BaseException):
            return self._pack_error(value)
        if isinstance(value, type) and value in self._their_classes:
            return ["yours", self._their_classes[value]]
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and (isinstance(value, type) or (self._guarded and callable(value))):
            if getattr(builtins, name, None) is value:
                return ["builtin", name]
            if isinstance(value, type) and issubclass(value, BaseException):
                bases = [self.pack(base) for base in value.__bases__]
                return ["class", self._number(value), value.__module__, name, bases]
        return ["theirs", self._number(value), type(value).__name__, operations_of(type(value))]

    def _pack_error(self, error: BaseException) -> Any:
        try:
            args, fields = self._pack_all(error.args, 0), self._pack_all(vars(error).items(), 0)
            text = str(error)
            dump([args, fields, text])
        except Exception as e:
            text = f"{type(e).__name__} in its message"
            args, fields = [text], []
        return ["error", self.pack(type(error)), args, fields, text]

    def _number(self, value: object) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._mine)
            self._mine.append(value)  # kept, so that its id stays its own
        return self._numbers[id(value)]

    def unpack(self, tree: Any) -> Any:
        """
        Raises:
            Exception: of any kind, if the tree is malformed.
        """
        if type(tree) in ATOMS or type(tree) is int:
            return tree
        match tree:
            case ["list" | "tuple" | "set" | "frozenset" as kind, items]:
                return _CONTAINERS[kind](self._unpack_all(items))
            case ["dict", keys, values]:
                return dict(zip(self._unpack_all(keys), self._unpack_all(values), strict=True))
            case ["int", str(digits)]:
                return int(digits, 16)
            case ["..."]:
                return Ellipsis
            case ["new", str(name), parts] if name in _PARTS:
                module, kind = name.split(".")
                return getattr(import_module(module), kind)(*self._unpack_all(parts))
            case ["namedtuple", str(name), list(fields), items]:
                return _named(name, tuple(fields))(*self._unpack_all(items))
            case ["ndarray", str(dtype), items] if dtype[1] in "biufcUS":
                return import_module("numpy").array(self.unpack(items), dtype=dtype)
            case ["yours", int(number)] if number >= 0:
                return self._mine[number]
        return self._unpack_object(tree)

    def _unpack_all(self, items: list[Any]) -> list[Any]:
        if type(items) is not list:
            raise TypeError("not a list")
        if {int, *ATOMS}.issuperset(map(type, items)):
            return items
        return [self.unpack(item) for item in items]

    def _unpack_object(self, tree: Any) -> Any:
        match tree:
            case ["builtin", str(name)]:
                value = getattr(builtins, name)
                error = isinstance(value, type) and issubclass(value, BaseException)
                if error or not self._guarded or value in _SAFE_TYPES:
                    return value
            case ["theirs", int(number), str(name), list(operations)]:
                if number not in self._theirs:
                    self._theirs[number] = remote_class(name, tuple(operations))(self._ask, number)
                return self._theirs[number]
            case ["class", int(number), str(module), str(name), list(bases)]:
                if number not in self._theirs:
                    self._theirs[number] = _error_class(module, name, self._unpack_all(bases))
                    self._their_classes[self._theirs[number]] = number
                return self._theirs[number]
            case ["error", kind, args, fields, str(text)]:
                cls, args = self.unpack(kind), self._unpack_all(args)
                if not issubclass(cls, BaseException):
                    raise TypeError("no exception")
                error = cls.__new__(cls, *args)
                with suppress(Exception):
                    error.__init__(*args)
                    vars(error).update(self._unpack_all(fields))
                if cls in self._their_classes:
                    error._text = text
                return error
        raise ValueError("an unknown kind of value")


@lru_cache(64)
def _named(name: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    return namedtuple(name, fields)  # it checks that they are identifiers


def _error_class(module: str, name: str, bases: list[Any]) -> type[BaseException]:
    """The standard library's class if the tests have imported it, else a stand-in with the same bases."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        known = getattr(sys.modules.get(module), name, None)
        if isinstance(known, type) and issubclass(known, BaseException):
            return known
    bases = [base for base in bases if issubclass(base, BaseException)]
    return type(name, tuple(bases), {"__module__": module, "__str__": lambda self: self._text, "_text": ""})
