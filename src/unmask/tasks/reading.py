"""Reading answers out of a text: what it marks as its answer, its last number, its program."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

BOX = re.compile(r"\\(?:boxed|fbox)(?:\s*\{|\s+([^\s{}$\\]+))")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are part of a formula
ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\n`]*?)[ \t\r]*$", re.MULTILINE)
MOST_FENCES = 64
MOST_LINES = 400  # of a program that is searched for a part that parses


def marked(text: str) -> Iterator[str]:
    r"""Answers that a text marks, the one that counts first: the last ``\boxed{}``, the last ``<answer>``, a last line
    with ``####``.

    It is the order of d1's evaluation, which the paper uses (github.com/dllm-reasoning/d1, eval/parse_and_get_acc.py).
    """
    for find in (boxed, lambda text: reversed(ANSWER_TAG.findall(text)), _behind_hashes):
        yield from (answer.strip() for answer in find(text) if answer.strip(" .\n\t"))  # \boxed{...} quotes the prompt


def _behind_hashes(text: str) -> Iterator[str]:
    line = text.rstrip().rpartition("\n")[2]  # elsewhere it is a heading
    if "####" in line:
        yield line.partition("####")[2]


def boxed(text: str) -> Iterator[str]:
    r"""Contents of ``\boxed{}``, the last first; one that is never closed does not count."""
    boxes = list(BOX.finditer(text))
    closed = _closed(text) if any(box[1] is None for box in boxes) else {}
    for box in reversed(boxes):
        end = closed.get(box.end())
        if box[1] is not None or end is not None:
            yield box[1] if box[1] is not None else text[box.end() : end]


def program(text: str, prefix: str = "", names: Sequence[str] = ()) -> str:
    """The Python program of a reply: its first fenced block that defines the names, or the text if none is fenced.

    Its own asserts and prints are left out. So is what follows the last statement that parses, for a region may end in
    the middle of one.

    Args:
        prefix: how the reply begins; it may open the block.
        names: functions that the tests call.
    """
    blocks = _blocks(prefix, text.replace("\ufeff", ""))
    if not blocks:
        return parsing(prefix + text)
    codes = [_code(*block, names) for block in blocks]
    defining = [code for code in codes if all(defines(code, name) for name in names)] or codes[:1]
    return next((code for code in map(parsing, defining) if parses(code)), parsing(defining[0]))


def _code(given: str, written: str, names: Sequence[str]) -> str:
    """A block; what is written counts alone where it begins anew."""
    begins_anew = names and all(re.search(rf"^(?:async )?def {re.escape(name)}\b", written, re.M) for name in names)
    return written if begins_anew and not parses(given) else given + written


def _blocks(prefix: str, text: str) -> list[tuple[str, str]]:
    """Fenced blocks, what the prefix gives and what the text writes of each, the likeliest first.

    By CommonMark, but for what replies do beside it: a fence with a language opens a block also where one is open; a
    bare one behind a prefix that opened the block opens it again; a docstring may hold a fence, so that a block goes on
    until it parses; and whatever stands between two fences may be a block.
    """
    reply, fences = prefix + text, list(FENCE.finditer(prefix + text))[:MOST_FENCES]
    pairs: list[tuple[int, int]] = []
    opened: int | None = None
    for number, fence in enumerate(fences):
        if opened is None:
            opened = number
            continue
        nothing = not _part(reply, fences, opened, number, len(prefix))[1].strip()
        if fence[2].startswith(fences[opened][2]) or nothing:  # of its kind, and as long at least
            pairs.append((opened, number))
            opened = number if fence[3] or nothing else None
    if opened is not None:
        pairs.append((opened, len(fences)))
    pairs = [(opened, _until_it_parses(reply, fences, opened, closed, len(prefix))) for opened, closed in pairs]
    between = [(number, number + 1) for number in range(len(fences))]
    blocks = [_part(reply, fences, *pair, len(prefix)) for pair in dict.fromkeys([*pairs, *between])]
    return [block for block in blocks if block[1].strip()]


def _part(reply: str, fences: Sequence[re.Match[str]], opened: int, closed: int, given: int) -> tuple[str, str]:
    """What is between two fences: of the prefix, and of the text. As far as the fence is indented, so are its lines."""
    start = min(fences[opened].end() + 1, len(reply))
    end = fences[closed].start() if closed < len(fences) else len(reply)
    middle, indent = min(max(start, given), end), re.escape(fences[opened][1])
    parts = reply[start:middle], reply[middle:end]
    return parts if not indent else tuple(re.sub(rf"^{indent}", "", part, flags=re.MULTILINE) for part in parts)  # type: ignore[return-value]


def _until_it_parses(reply: str, fences: Sequence[re.Match[str]], opened: int, closed: int, given: int) -> int:
    """The fence that closes a block: the first at which it is a program, or else the first."""
    for number in range(closed, len(fences)):
        if parses("".join(_part(reply, fences, opened, number, given))):
            return number
        if fences[number][3] or number - closed >= 8:
            break
    return closed


def parses(code: str) -> bool:
    """True if a program is whole."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that are none
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):
        return False
    return True


def defines(code: str, name: str) -> bool:
    """True if a program defines a name, as far as its text tells."""
    return (
        re.search(rf"^\s*(?:async\s+def|def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*[:=]", code, re.M)
        is not None
    )


def parsing(code: str) -> str:
    """The longest beginning of a program that parses, without demonstrations; all of it if there is none."""
    lines = code.split("\n")[:MOST_LINES]
    for end in range(len(lines), 0, -1):
        part = "\n".join(lines[:end]).rstrip("\n") + "\n"
        if not parses(part):
            continue
        with warnings.catch_warnings(action="ignore"):
            body = ast.parse(part).body
        kept = [node for node in body if not _demonstrates(node)]
        try:
            return part if kept == body else ast.unparse(ast.Module(kept, [])) + "\n"
        except (ValueError, RecursionError, MemoryError):  # a tree deeper, or a number longer, than it writes
            return part
    return code


def _demonstrates(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    prints = call is not None and isinstance(call.func, ast.Name) and call.func.id == "print"
    return isinstance(node, ast.Assert) or prints


def _closed(text: str) -> dict[int, int]:
    """Where each brace that is closed begins and ends: the places behind the first and at the second."""
    opened, found = list[int](), dict[int, int]()
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif brace[0] == "}" and opened:
            found[opened.pop()] = brace.start()
    return found
