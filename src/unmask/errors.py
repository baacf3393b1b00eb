"""What is raised: bad input, told in one sentence that says what to do, and a stop that was asked for."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from pathlib import Path


class UnmaskError(ValueError):
    """Bad input. The message is one clear sentence with the remedy; the command line exits with 2."""


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """The user asked to stop (Ctrl-C): what is done is kept. The message says where it is, and how to go on."""


def is_out_of_memory(error: Exception) -> bool:
    """True if torch has said that a device's memory is full."""
    told = ("can't allocate memory", "not enough memory", "out of memory")
    return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in told)


def nearest(word: str, known: Iterable[str]) -> str:
    """Name the known word that comes closest to `word`, or list them all.

    Returns:
        The end of a sentence, such as ``did you mean 'threshold'?`` or ``known: 'a', 'b'.``
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(repr(k) for k in known) + "."


REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or choose another place"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there, and run the command again"),
}


def explain_system(error: OSError) -> str:
    """What the system refused, and the remedy; of a hidden file, such as a draft or a lock, its folder is named."""
    path = Path(str(error.filename)) if error.filename else None
    while path is not None and (path.name.startswith(".") or re.fullmatch(r"\..+\.\w{8}", path.parent.name)):
        path = path.parent
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return f"Cannot read or write {path or 'a file'}: {error.strerror or error}{remedy}."
