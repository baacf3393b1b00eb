"""Files that are whole or not there, and JSONL: its one reader and its one writer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unmask.errors import UnmaskError

BOM = b"\xef\xbb\xbf"


@contextmanager
def written_whole(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place when the block ends well, and vanishes when not.

    Raises:
        UnmaskError: tensors cannot be written, as on a full disk.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        for file in draft.rglob("*"):
            if file.is_file():
                _sync(file)
        old = draft.with_name(draft.name + ".old")
        if folder.exists():
            folder.rename(old)
        try:
            draft.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as e:  # which is no OSError
        raise UnmaskError(f"Cannot write {folder} ({e}): make room there, and run the command again.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(path: Path) -> None:
    """To the disk: what has its name must survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def draft_of(path: str | Path) -> Iterator[Path]:
    """Yield a path for a file that takes the place of `path` when the block ends well, and vanishes when not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object; UTF-8, with or without a byte order mark.

    Args:
        remedy: what to do if the file is damaged, for the message.

    Raises:
        UnmaskError: it is missing, cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise UnmaskError(f"Cannot read {path} ({e.strerror}): {remedy}.") from None
    except (ValueError, RecursionError) as e:  # of JSON and of UTF-8
        raise UnmaskError(f"{path} is not valid JSON ({e}): {remedy}.") from None
    if not isinstance(found, dict):
        raise UnmaskError(f"{path} must hold a JSON object: {remedy}.")
    return found


def check_file(path: str | Path, flag: str) -> None:
    """Refuse, before anything is spent, a file that could not be written.

    Args:
        flag: of the command line, which names another one.

    Raises:
        UnmaskError: it is a folder, or in one that is a file.
    """
    path = Path(path)
    if path.is_dir():
        raise UnmaskError(f"{flag} {path} is a folder: give the path of a file.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UnmaskError(f"{flag} {path} cannot be written: {above} is a file.")


def check_page(path: str | Path, flag: str) -> None:
    """Refuse a page that could not be written, or whose place another kind of file has.

    Raises:
        UnmaskError: as `check_file`; there is a file that is no page.
    """
    check_file(path, flag)
    path = Path(path)
    if not path.exists():
        return
    with path.open("rb") as there:
        begins = there.read(20).lower()
    if not begins.startswith((b"<!doctype html", b"<html")):
        raise UnmaskError(f"{flag} {path} is there, and is no page: give the path of a new file.")


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass(frozen=True)
class Line:
    """A line of a JSONL file that is not blank.

    Attributes:
        number: its number from 1, as an editor counts; blank lines count.
        value: what it says; None where there is a problem.
        problem: what is wrong with it, such as ``is not JSON (Expecting value at column 1)``; None if nothing is.
        cut: it has a problem and no newline at its end: the program that wrote it was killed.
        start: bytes before it.
    """

    number: int
    value: Any = None
    problem: str | None = None
    cut: bool = False
    start: int = field(default=0, compare=False)


def read_jsonl(source: str | Path | Iterable[bytes]) -> Iterator[Line]:
    """Read JSONL line by line. Lines end at ``\\n`` alone: U+2028 and its like are characters of a text.

    Args:
        source: a file, or one that is open in binary mode; UTF-8, with or without a byte order mark.

    Raises:
        UnmaskError: the file cannot be read.
    """
    if not isinstance(source, str | Path):
        yield from _lines(source)
        return
    try:
        with Path(source).open("rb") as file:
            yield from _lines(file)
    except OSError as e:
        raise UnmaskError(f"Cannot read {source} ({e.strerror}): give a JSONL file.") from None


def _lines(file: Iterable[bytes]) -> Iterator[Line]:
    end = 0
    for number, raw in enumerate(file, start=1):
        start, end = end, end + len(raw)
        line = (raw.removeprefix(BOM) if number == 1 else raw).rstrip(b"\r\n")
        if not line.strip():
            continue
        try:
            value, problem = json.loads(line.decode("utf-8")), None
        except UnicodeDecodeError as e:
            value, problem = None, f"is not UTF-8 text ({e.reason} at byte {e.start + 1})"
        except json.JSONDecodeError as e:
            value, problem = None, f"is not JSON ({e.msg} at column {e.colno})"
        except (ValueError, RecursionError) as e:  # a number of too many digits, brackets within brackets
            value, problem = None, f"is not JSON that can be read ({str(e).partition(';')[0]})"
        yield Line(number, value, problem, cut=problem is not None and not raw.endswith(b"\n"), start=start)
