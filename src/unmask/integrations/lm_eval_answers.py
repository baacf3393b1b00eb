"""Answers to the harness's requests, kept as they are made, by one process or several that share the requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.integrations.lm_eval_tasks import Spent
from unmask.journal import Kept, Parts, check_begun
from unmask.rl.processes import Processes

FILE = "answers.jsonl.part"  # in the output folder, until the results are there


class Answered(Exception):  # noqa: N818 (nothing is wrong)
    """This process has answered its share of the requests: the first one scores them all."""


@dataclass(frozen=True)
class Answer:
    """A request's text, cut at its stop strings, and what it took."""

    text: str
    spent: Spent


class Answers:
    """Where answers are kept.

    Args:
        folder: None keeps them in memory, for one process.
        resume: add to those that are there.

    Raises:
        UnmaskError: there are some, and `resume` is False; several processes have no folder to share.
    """

    def __init__(self, folder: Path | None = None, processes: Processes | None = None, *, resume: bool = False) -> None:
        self.processes = processes or Processes()
        if folder is None and self.processes.size > 1:
            raise UnmaskError(f"{self.processes.size} processes share no folder for their answers: give one.")
        self._parts = None if folder is None else Parts(folder / FILE, self.processes.rank)
        for part in self._parts.paths() if self._parts and self.processes.main and not resume else ():
            raise UnmaskError(f"{part} holds what a stopped run has answered: pass --resume to go on, or delete it.")
        self._made: dict[int, Answer] = {}

    def begin(self, settings: Mapping[str, Any], asked: Sequence[Any]) -> list[int]:
        """Read what is there.

        Args:
            settings: of decoding, which all answers share.
            asked: what makes each request, in JSON's terms.

        Returns:
            Indices of the requests that this process is to answer.

        Raises:
            UnmaskError: what is there was begun with other settings or requests.
        """
        self._settings = json.loads(json.dumps(dict(settings)))
        self._asked = [hashlib.sha256(json.dumps(one).encode()).hexdigest()[:16] for one in asked]
        self._made = {}
        with self.processes.together():
            kept = self._kept()
            if self._parts and self.processes.main:
                self._parts.begin()
        waiting = [i for i in range(len(asked)) if i not in kept]
        if self._parts:
            self._parts.mine.mend()
        return list(self.processes.share(waiting))

    def answering(self) -> Any:
        """Block within which this process answers: an error of one process is one of all."""
        return self.processes.together(self._parts.halt if self._parts else lambda: None)

    def check(self) -> None:
        """
        Raises:
            Halted: another process cannot go on.
        """
        if self._parts:
            self._parts.check()

    def add(self, answers: Mapping[int, Answer]) -> None:
        """Keep answers by the index of their request."""
        if self._parts is None:
            self._made |= answers
            return
        self._parts.path.parent.mkdir(parents=True, exist_ok=True)
        told = {"settings": self._settings}
        rows = ({"index": i, "asked": self._asked[i], **asdict(one), **told} for i, one in answers.items())
        self._parts.mine.append(rows)

    def all(self) -> list[Answer]:
        """Of all requests, in order.

        Raises:
            Answered: in all processes but the first.
        """
        if not self.processes.main:
            raise Answered
        if self._parts is None:
            return [self._made[i] for i in range(len(self._asked))]
        rows = self._kept().rows(range(len(self._asked)))
        return [Answer(row["text"], Spent(**row["spent"])) for row in rows]

    def remove(self) -> None:
        """Forget them: the results are written."""
        if self._parts:
            self._parts.remove()

    def _kept(self) -> Kept:
        return Kept(self._parts.paths() if self._parts else (), self._index_of)

    def _index_of(self, path: Path, row: Any) -> int:
        try:
            index, asked, settings = int(row["index"]), row["asked"], dict(row["settings"])
        except (KeyError, TypeError, ValueError):
            raise UnmaskError(f"{path} holds no answers of unmask lm-eval: delete it.") from None
        if settings != self._settings:
            check_begun(path, settings, self._settings, "--output")
        if not 0 <= index < len(self._asked) or self._asked[index] != asked:
            raise UnmaskError(f"{path} was begun with other requests: give the same tasks, or another --output.")
        return index
