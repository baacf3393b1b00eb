"""One side of the talk between guest and tester: it asks, and meanwhile answers what the other asks back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unmask.sandbox.remote import OPERATIONS
from unmask.sandbox.wire import MUTABLE, Broken, Wire, dump, receive, refresh, send

TESTS = "tests"
"""The module name of the tests: what they define themselves, the code may read and write."""


class Peer:
    """Each message is ``ask`` (operation, arguments), ``ok`` (result, changed arguments) or ``raise`` (exception).

    Args:
        reads: file descriptor of the other side's messages.
        writes: file descriptor of this side's.
        services: functions that the other side may call by name. None if it is not trusted: then it may only call and
            iterate objects that it was given, and get and set public attributes of instances of the tests' classes.
    """

    def __init__(self, reads: int, writes: int, services: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._reads, self._writes = reads, writes
        self._guarded = services is None
        self._operations = {**OPERATIONS, **(services or {})}
        self._wire = Wire(self.ask, self._guarded)
        self.asked = 0
        self.broken: Broken | None = None

    def ask(self, operation: str, *args: Any, **named: Any) -> Any:
        """Have the other side do an operation. Containers among the arguments show what it did to them.

        Raises:
            Broken: the other side has ended, or sent what it should not.
            Exception: what the other side raised.
        """
        self.asked += 1
        packed = [self._wire.pack(arg) for arg in args], {name: self._wire.pack(arg) for name, arg in named.items()}
        try:
            send(self._writes, dump(["ask", operation, *packed]))
            while True:
                message = receive(self._reads)
                match message:
                    case ["ask", str(asked), list(theirs), dict(their_named)]:
                        self._answer(asked, theirs, their_named)
                    case ["ok" | "raise" as kind, *rest]:
                        break
                    case _:
                        raise Broken("sent a malformed message")
            result = self._result(kind, rest, _keyed(args, named))
        except Broken as e:
            self.broken = e
            raise
        if kind == "ok":
            return result
        if isinstance(result, StopIteration) and operation != "__next__":
            raise RuntimeError("the code raised StopIteration")  # or it would end a loop of the tests early
        raise result

    def _result(self, kind: str, rest: list[Any], given: Mapping[Any, Any]) -> Any:
        try:
            if kind == "raise":
                (error,) = rest
                return self._wire.unpack(error)
            value, changes = rest
            for key, tree in changes:
                new = self._wire.unpack(tree)
                if type(given[key]) not in MUTABLE or type(new) is not type(given[key]):
                    raise TypeError("not the argument")
                refresh(given[key], new)
            return given[value[1]] if type(value) is list and value[0] == "argument" else self._wire.unpack(value)
        except Exception as e:
            raise Broken(f"sent a malformed message ({type(e).__name__})") from None

    def answer_all(self) -> None:
        """Answer until the other side ends."""
        while True:
            try:
                match receive(self._reads):
                    case ["ask", str(asked), list(args), dict(named)]:
                        self._answer(asked, args, named)
            except Broken:
                return

    def _answer(self, operation: str, trees: list[Any], named_trees: dict[str, Any]) -> None:
        try:
            if self._guarded:
                self._check(operation, trees)
            args = [self._wire.unpack(tree) for tree in trees]
            named = {name: self._wire.unpack(tree) for name, tree in named_trees.items()}
            value = self._operations[operation](*args, **named)
            before = _keyed(trees, named_trees)
            containers = {k: arg for k, arg in _keyed(args, named).items() if type(arg) in MUTABLE}
            after = {key: self._wire.pack(arg) for key, arg in containers.items()}
            changes = [[key, tree] for key, tree in after.items() if tree != before[key]]
            same = [["argument", key] for key, arg in containers.items() if arg is value]
            data = dump(["ok", same[0] if same else self._wire.pack(value), changes])
        except Broken:
            raise
        except BaseException as e:  # SystemExit too: whatever the code raises is the tests' to judge
            data = dump(["raise", self._wire.pack(e)])
        send(self._writes, data)

    def _check(self, operation: str, trees: list[Any]) -> None:
        match trees:
            case [["yours", _] as first, *_]:
                target = self._wire.unpack(first)
            case _:
                raise PermissionError("only what the tests gave may be used")
        if operation in ("getattr", "setattr", "delattr"):
            name = trees[1]
            if type(target).__module__ != TESTS or not isinstance(name, str) or name.startswith("_"):
                raise PermissionError("only public attributes of objects of the tests may be used")


def _keyed(args: Sequence[Any], named: Mapping[str, Any]) -> dict[Any, Any]:
    return {**dict(enumerate(args)), **named}
