"""Work that can be stopped and gone on with: rows kept as they are made, the settings they began with, and one writer.

A `Journal` is a JSONL file that grows. A kill may cut its last line short, and nothing else: that line is left out, and
its row is made again. Processes that share a job have one each (`Parts`), and read all of them (`Kept`). `check_begun`
refuses to go on with other settings. A `Claim` keeps a second process out.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import socket
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unmask.errors import UnmaskError
from unmask.files import jsonl, read_jsonl, write_text

if sys.platform != "win32":
    import fcntl


class Journal:
    """Rows in a JSONL file, there as soon as they are made."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add whole lines."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(jsonl(rows))

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the whole file anew, or leave it as it is."""
        write_text(self.path, jsonl(rows))

    def rows(self, columns: Collection[str] = ()) -> list[Any]:
        """What is there, without a last line that a kill cut short; nothing if there is no file.

        Args:
            columns: that every row must have.

        Raises:
            UnmaskError: another line is broken, or a row has not all columns.
        """
        found = []
        for line in read_jsonl(self.path) if self.path.exists() else ():
            if line.problem and not line.cut:
                raise UnmaskError(f"{self.path}, line {line.number}, {line.problem}: delete the line.")
            if not line.problem:
                found.append(line.value)
        for row in found if columns else ():
            if not isinstance(row, Mapping):
                raise UnmaskError(f"{self.path} has a row that is no object: delete the file, or give another.")
            if missing := sorted(set(columns) - row.keys()):
                raise UnmaskError(f"{self.path} has a row without {missing[0]!r}: delete the file, or give another.")
        return found

    def mend(self) -> None:
        """Remove a last line that a kill cut short from the file, so that rows can be added."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            start, last = 0, b""
            for line in file:
                start, last = start + len(last), line
            if last.endswith(b"\n") or not last.strip():
                return
            if next(iter(read_jsonl([last]))).cut:
                file.truncate(start)
            else:
                file.write(b"\n")


class Halted(Exception):  # noqa: N818 (the process that has found the error tells it)
    """Another process of this job cannot go on."""


class Parts:
    """The journals of the processes that share a job, in one folder that all of them see.

    The first process writes `path`, the others files beside it that end in their number. Whoever goes on, in however
    many processes, reads all of them.

    Args:
        rank: of this process.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path
        self.mine = Journal(path if rank == 0 else path.with_name(f"{path.name}.{rank}"))
        self._halt = path.with_name(f".{path.name}.halt")

    def paths(self) -> list[Path]:
        """Those that are there."""
        others = self.path.parent.glob(glob.escape(self.path.name) + ".*")
        mine = [self.path, *sorted(path for path in others if path.suffix[1:].isdigit())]
        return [path for path in mine if path.exists()]

    def begin(self) -> None:
        """Forget that an earlier run was halted."""
        self._halt.unlink(missing_ok=True)

    def halt(self) -> None:
        """Ask all processes to leave: this one cannot go on."""
        with suppress(OSError):  # what made it halt is told, not this
            self._halt.touch()

    def check(self) -> None:
        """
        Raises:
            Halted: a process has asked.
        """
        if self._halt.exists():
            raise Halted

    def remove(self) -> None:
        """Delete all of it: what is there is written elsewhere."""
        for path in (*self.paths(), self._halt):
            path.unlink(missing_ok=True)


class Kept:
    """Rows that are finished, by their index, in one file or several. Only where each one is stays in memory.

    Args:
        paths: JSONL files; the last line of each may be cut short.
        index_of: the index of a row; it raises if that is none.
        whole: those of the files that were not being written when a run was killed.

    Raises:
        UnmaskError: a file cannot be read; of `index_of`.
    """

    def __init__(
        self, paths: Iterable[Path], index_of: Callable[[Path, Any], int], whole: Collection[Path] = ()
    ) -> None:
        self._at: dict[int, tuple[Path, int]] = {}
        for path in paths:
            for line in read_jsonl(path):
                if not line.cut or path in whole:
                    self._at[index_of(path, line.value)] = path, line.start

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, index: int) -> bool:
        return index in self._at

    def indices(self) -> list[int]:
        """Of all rows, in order."""
        return sorted(self._at)

    def rows(self, indices: Iterable[int]) -> Iterator[Any]:
        """The rows of these, in this order, read as they are asked for."""
        with ExitStack() as stack:
            files: dict[Path, BinaryIO] = {}
            for index in indices:
                path, start = self._at[index]
                if path not in files:
                    files[path] = stack.enter_context(path.open("rb"))
                files[path].seek(start)
                yield json.loads(files[path].readline())


def check_begun(
    where: str | Path,
    before: Mapping[str, Any],
    wanted: Mapping[str, Any],
    flag: str,
    *,
    free: Collection[str] = (),
    way_out: str = "",
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """See that work goes on with the settings that it began with.

    Args:
        where: the file or folder, for the message.
        before: the settings that it holds, read from JSON.
        wanted: those of now.
        flag: of the command line, which names another place.
        free: settings that may differ.
        way_out: a third remedy, if there is one.
        defaults: what settings were before there was such a setting, for work that an older version began.

    Raises:
        UnmaskError: naming every setting that differs.
    """
    now, usual = (json.loads(json.dumps(dict(values))) for values in (wanted, defaults or {}))
    before = {**{key: usual[key] for key in now if key in usual}, **before}
    keys = [key for key in {**now, **before} if key not in free]
    changed = [f"{key} = {before.get(key)!r}, not {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]
    if changed:
        remedies = f"resume with the same settings, {'or ' if not way_out else ''}give another {flag}"
        remedies += f", or {way_out}" if way_out else ""
        raise UnmaskError(f"{where} was begun with {'; '.join(changed)}: {remedies}.")


class Claim:
    """The right of this process to write a folder or file, held until `release`, or until nobody holds the object.

    As a context manager, to the end of the block.

    The operating system takes it back when the process ends, however it ends. A process may hold several for one place.

    Args:
        where: the folder or file, for the message.
        lock: a file that only holds the claim; folders for it are made. It goes with the claim; after a crash it may
            stay, and means nothing.
        flag: of the command line, which names another place.

    Raises:
        UnmaskError: another process has a claim; a folder for it is a file.
    """

    def __init__(self, where: str | Path, lock: Path, flag: str) -> None:
        lock = lock.absolute()
        made = [folder for folder in lock.parents if not folder.exists()]
        above = next(folder for folder in lock.parents if folder.exists())
        if not above.is_dir():
            raise UnmaskError(f"{flag} {where} cannot be written: {above} is a file.")
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle, claims = _held[lock] if lock in _held else (_locked(where, lock, flag), 0)
        _held[lock] = handle, claims + 1
        self.release = weakref.finalize(self, _release, lock, made, os.getpid())

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


_held: dict[Path, tuple[int, int]] = {}  # lock file -> its descriptor, and how many claims this process has on it


def _locked(where: str | Path, lock: Path, flag: str) -> int:
    """The descriptor of a lock file that this process has locked."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Of this process alone, by POSIX: what it forks cannot keep the lock after its end.
            if sys.platform != "win32":
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(handle, 1000).decode("utf-8", "replace")
                os.close(handle)
                raise UnmaskError(
                    f"Another process{f' ({holder})' if holder else ''} is writing {where}: wait until it ends, stop "
                    f"it, or give another {flag}."
                ) from None
            # A file system without locks: nothing is held, as if there were one process.
        try:
            there = os.path.samestat(os.fstat(handle), lock.stat())
        except FileNotFoundError:
            there = False
        if there:
            os.truncate(handle, 0)
            os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode())
            return handle
        os.close(handle)  # the one that held it has removed it meanwhile


def _release(lock: Path, made: list[Path], process: int) -> None:
    if process != os.getpid():  # a fork of the one that holds it
        return
    handle, claims = _held.pop(lock)
    if claims > 1:
        _held[lock] = handle, claims - 1
        return
    with suppress(OSError):
        lock.unlink()
    os.close(handle)
    with suppress(OSError):
        for folder in made:  # unless something was written into it
            folder.rmdir()
