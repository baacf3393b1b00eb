"""A JSONL file as a task: a row an example, with the columns ``prompt`` and ``answer``, and a verifier by name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from unmask.errors import UnmaskError
from unmask.settings import function_of
from unmask.tasks.base import Example, Task, check_split

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
Verifier = Callable[[str, str], bool]


def exact(text: str, answer: str) -> bool:
    """The text is the answer, but for space around it."""
    return text.strip() == answer.strip()


def number(text: str, answer: str) -> bool:
    """The last number in the text equals the last one in the answer; commas between thousands do not count."""
    found, gold = (NUMBER.findall(words) for words in (text, answer))
    return bool(found and gold) and float(found[-1].replace(",", "")) == float(gold[-1].replace(",", ""))


VERIFIERS: dict[str, Verifier] = {f.__name__: f for f in (exact, number)}


class JsonlTask(Task):
    """Examples from a file: 8 of 10 prompts for training, one each for validation and test, by a hash of the prompt.

    Args:
        path: the file.
        verifier: ``exact``, ``number``, or the dotted path of a function ``(text, answer) -> bool``; None leaves the
            task without one, for decoding only.

    Raises:
        UnmaskError: no such file, or a row that is no JSON object or lacks a column.
    """

    gen_length = 256
    block_length = 32

    def __init__(self, path: str | Path, verifier: str | None = None) -> None:
        self.name = Path(path).stem
        self.verifiable = verifier is not None
        self._verifier = None if verifier is None else load_verifier(verifier)
        self._examples = read_examples(Path(path))

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        """The first n of a split in file order, or all there are."""
        if split is None:
            return self._examples[:n]
        check_split(split)
        found = [example for example in self._examples if _split_of(example.prompt) == split]
        if not found:
            raise UnmaskError(f"{self.name} has no {split} examples among its {len(self._examples)} rows: add rows.")
        return found[:n]

    def verify(self, example: Example, text: str) -> bool:
        assert self._verifier is not None
        return bool(self._verifier(text, example.answer))


def read_examples(path: Path) -> list[Example]:
    """
    Raises:
        UnmaskError: naming the row and the column.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise UnmaskError(f"Cannot read the task file {path} ({e}): give a JSONL file.") from None
    examples = []
    for number_, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise UnmaskError(f"{path}, row {number_}: not valid JSON ({e.msg}): write one object a line.") from None
        if not isinstance(row, dict):
            raise UnmaskError(f"{path}, row {number_}: not a JSON object: write one object a line.")
        for column in ("prompt", "answer"):
            if column not in row:
                has = ", ".join(row) or "none"
                raise UnmaskError(f"{path}, row {number_}: no column {column!r} (it has: {has}): rename or add it.")
            if row[column] in (None, ""):
                raise UnmaskError(f"{path}, row {number_}: column {column!r} is empty: fill it or leave the row out.")
        others = {name: value for name, value in row.items() if name not in ("prompt", "answer")}
        examples.append(Example(str(row["prompt"]), str(row["answer"]), others))
    return examples


def load_verifier(name: str) -> Verifier:
    """
    Raises:
        UnmaskError: no such verifier.
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    if "." not in name and ":" not in name:
        raise UnmaskError(f"Unknown verifier {name!r}: use {', '.join(VERIFIERS)}, or module.function of your own.")
    return function_of(name, "verifier")


def _split_of(prompt: str) -> str:
    place = int.from_bytes(hashlib.sha256(f"split of {prompt}".encode()).digest()[:8]) % 10
    return {8: "validation", 9: "test"}.get(place, "train")
