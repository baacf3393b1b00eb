"""Prompts from a file, decoded to a file by one process or several: what is finished is kept at once, in order at last.

Each process reads the whole input, some thousand prompts at a time, and decodes its share of what is not finished. It
appends rows to a journal of its own beside the output. The first process puts all of them into the output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice, tee
from pathlib import Path
from typing import Any, Protocol, TypeVar

from unmask.cli.console import Stop, Ticker, errors, ticking
from unmask.decoding.decode import stream
from unmask.decoding.generate import tokens_of
from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Completion
from unmask.decoding.source import check_prompt
from unmask.decoding.state import Step
from unmask.errors import UnmaskError, nearest
from unmask.files import draft_of, jsonl, read_jsonl
from unmask.journal import Claim, Halted, Kept, Parts, check_begun
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.base import Policy
from unmask.rl.processes import Processes

Row = dict[str, Any]
P = TypeVar("P")
Prompt = str | list[Message] | list[int]
AT_ONCE = 4096  # prompts that a process holds; the batch runs empty once for so many


@dataclass(frozen=True)
class Given:
    """A row of the input.

    Attributes:
        index: its line number - 1, or its row.
        prompt: None where there is a problem.
        columns: the others, which the row of the output keeps.
        problem: why it cannot be decoded.
    """

    index: int
    prompt: Prompt | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


class Prompts(Protocol):
    """An input that can be read several times, a few rows at a time.

    Attributes:
        name: for messages.
        unit: what it counts: lines, or rows.
    """

    name: str
    unit: str

    def __len__(self) -> int:
        """Rows."""

    def __iter__(self) -> Iterator[Given]: ...

    def finished(self, output: Path) -> Sequence[Path]:
        """The output itself, if it is there and is a journal that rows can be read from."""

    def complete(self, output: Path, settings: Mapping[str, Any]) -> bool:
        """True if the output is there, is no journal, and has all rows.

        Raises:
            UnmaskError: it is of something else.
        """

    def write(self, output: Path, kept: Kept, settings: Mapping[str, Any]) -> None:
        """Put the rows into the output, in order, whole or not at all."""


class JsonlPrompts:
    """Prompts in lines of JSON: objects with a column for the prompt, or prompts alone.

    Args:
        source: a file, or its lines.
    """

    unit = "line"

    def __init__(self, name: str, source: str | list[bytes], column: str) -> None:
        self.name, self._source, self._column = name, source, column

    def __len__(self) -> int:
        if isinstance(self._source, list):
            return sum(1 for line in self._source if line.strip())
        with Path(self._source).open("rb") as file:
            return sum(1 for line in file if line.strip())

    def __iter__(self) -> Iterator[Given]:
        column = self._column
        for line in read_jsonl(self._source):
            i, row = line.number - 1, {column: line.value} if isinstance(line.value, str) else line.value
            if line.problem:
                yield Given(i, problem=line.problem)
            elif not isinstance(row, dict):
                yield Given(i, problem="is neither a JSON object nor a string")
            elif not is_prompt(row.get(column)):
                hint = "" if column in row else f": {nearest(column, row)}" if row else ""
                yield Given(i, problem=f"has no text under {column!r}{hint}".rstrip("."))
            else:
                yield Given(i, row.pop(column), row)

    def finished(self, output: Path) -> Sequence[Path]:
        return [output] if output.exists() else []

    def complete(self, output: Path, settings: Mapping[str, Any]) -> bool:
        return False

    def write(self, output: Path, kept: Kept, settings: Mapping[str, Any]) -> None:
        with draft_of(output) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept.rows(kept.indices()))


@dataclass(frozen=True)
class Job:
    """What is decoded, and how.

    Attributes:
        chat: prompts are users' messages.
        settings: what each row says of how it was made.
    """

    model: MaskedDiffusionModel
    policy: Policy
    source: Prompts
    chat: bool
    config: DecodeConfig
    seed: int
    settings: Mapping[str, Any]


def from_arguments(prompts: Sequence[str]) -> Prompts:
    """Prompts of the command line."""
    return JsonlPrompts("the arguments", [jsonl([{"prompt": prompt}]).encode() for prompt in prompts], "prompt")


def read_prompts(path: str, column: str) -> Prompts:
    """Open JSONL. A line that cannot be used is told at the end; the others are decoded.

    Raises:
        UnmaskError: there is no such file, or no line in it.
    """
    if path != "-" and not Path(path).exists():
        raise UnmaskError(f"No input file at {path}: give a JSONL file, or - for stdin.")
    if path == "-" and sys.stdin is None:
        raise UnmaskError("Standard input is closed: pipe JSONL into the command, or give --input a file.")
    found = JsonlPrompts("stdin", list(sys.stdin.buffer), column) if path == "-" else JsonlPrompts(path, path, column)
    if not len(found):
        raise UnmaskError(f"{found.name} holds no prompt: give one JSON object a line, with its text under {column!r}.")
    return found


def as_prompt(prompt: P, chat: bool) -> P | str | list[Message]:
    """A text as it is, or as a user's message; messages and token ids as they are."""
    return [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt


def is_prompt(value: Any) -> bool:
    """True for a text, the messages of a chat, or token ids."""
    if not isinstance(value, list):
        return isinstance(value, str)
    chat = all(isinstance(each, dict) and "content" in each for each in value)
    return bool(value) and (chat or all(type(each) is int for each in value))


def refuse_to_overwrite(output: Path) -> None:
    """Keep what an earlier run left.

    Raises:
        UnmaskError: naming the file, or the process that writes it.
    """
    with _claimed(output):  # else "--resume" would be a bad advice
        if output.exists():
            raise UnmaskError(f"{output} exists: pass --resume to add what it lacks, or another --output.")
        for part in Parts(_part(output)).paths():
            raise UnmaskError(f"{part} holds what a stopped run has finished: pass --resume to go on, or delete it.")


def decode_all(job: Job, output: Path | None, processes: Processes) -> None:
    """Decode what is not done yet; keep every finished prompt at once; put them in order at the end.

    Raises:
        UnmaskError: the output is of another command or other prompts; some prompts cannot be decoded.
    """
    parts = Parts(_part(output), processes.rank) if output else None
    with _claimed(output) if output and processes.main else nullcontext():
        with processes.together():
            kept = _kept(job, output, parts)
            if parts and processes.main:
                parts.begin()
                _check_input(job.source, kept, output)
            if output and not len(kept) and job.source.complete(output, job.settings):
                errors.print(f"All prompts are in {output}.", highlight=False, soft_wrap=True)
                return
        with processes.together(parts.halt if parts else lambda: None):
            share = _Share(job, kept, parts, processes)
            share.decode()
        bad = dict(sorted(processes.gather(list(share.bad.items()))))
        if output and parts and processes.main:
            kept = _kept(job, output, parts)
            job.source.write(output, kept, job.settings)
            if not bad or job.source.finished(output):
                parts.remove()
            errors.print(f"{len(kept)} prompts in {output}.", highlight=False, soft_wrap=True)
    if bad and processes.main:
        raise UnmaskError(_complaint(job.source, bad, output))


class _Share:
    """What this process decodes: every n-th row that is not finished, n the number of processes."""

    def __init__(self, job: Job, kept: Kept, parts: Parts | None, processes: Processes) -> None:
        self._job, self._kept, self._parts, self._processes = job, kept, parts, processes
        self._made = 0
        self._total = len(job.source)
        self.bad: dict[int, str] = {}

    def decode(self) -> None:
        """
        Raises:
            UnmaskError: decoding cannot go on; it says what is kept.
            KeyboardInterrupt: stopped.
        """
        if self._parts:
            self._parts.mine.mend()
        waiting, todo = -(-(self._total - len(self._kept)) // self._processes.size), self._todo()
        with suppress(Halted), Stop() as stop, ticking("decoding", waiting, errors) as tick:
            while chunk := list(islice(todo, AT_ONCE)):
                self._decode(chunk, stop, tick)

    def _todo(self) -> Iterator[tuple[Given, Sequence[int]]]:
        job, number = self._job, 0
        gen_length = job.config.region(model=job.model)
        for given in job.source:
            if given.index in self._kept:
                continue
            if given.prompt is None:
                self.bad[given.index] = str(given.problem)
                continue
            number += 1
            if number % self._processes.size != self._processes.rank:
                continue
            try:
                tokens = tokens_of(job.model, as_prompt(given.prompt, job.chat), "its prompt")
                check_prompt(job.model, tokens, gen_length, "its prompt")
            except UnmaskError as e:
                self.bad[given.index] = f"cannot be decoded ({str(e).rstrip('.')})"
                continue
            yield given, tokens

    def _decode(self, chunk: Sequence[tuple[Given, Sequence[int]]], stop: Callable[[], bool], tick: Ticker) -> None:
        job, parts = self._job, self._parts

        def leave(step: Step) -> None:
            if stop():
                raise KeyboardInterrupt
            if parts:
                parts.check()

        streams = [given.index for given, _ in chunk]
        call: dict[str, Any] = {"seed": job.seed, "streams": streams, "callback": leave}
        # Checks now, before a part is begun.
        batches = stream(job.model, job.policy, [tokens for _, tokens in chunk], job.config, **call)
        try:
            for batch in batches:
                rows = [_row(job, chunk[one.index][0], one) for one in batch.completions()]
                if parts:
                    parts.mine.append(rows)
                else:
                    sys.stdout.write(jsonl(rows))
                    sys.stdout.flush()
                self._made += len(rows)
                tick(self._made, f"{rows[-1]['nfe']} NFE")
        except KeyboardInterrupt:
            errors.print(f"Stopped. {self._told()}", highlight=False, soft_wrap=True)
            raise
        except UnmaskError as e:
            raise UnmaskError(f"{e} {self._told()}") from None

    def _told(self) -> str:
        done, total = len(self._kept) + self._made, self._total - len(self.bad)
        if self._parts is None:
            return f"{done} of {total} prompts are done."
        if self._processes.size > 1:
            return f"Finished prompts are kept in {self._parts.path} and beside it; --resume goes on from there."
        return f"{done} of {total} prompts are kept in {self._parts.path}; --resume goes on from there."


def _row(job: Job, given: Given, completion: Completion) -> Row:
    found = {**asdict(completion), "index": given.index}
    return {"prompt": given.prompt, **found, "input": dict(given.columns), "settings": dict(job.settings)}


def _part(output: Path) -> Path:
    return output.with_name(output.name + ".part")


def _claimed(output: Path) -> Claim:
    return Claim(output, output.with_name(f".{output.name}.lock"), "--output")


def _kept(job: Job, output: Path | None, parts: Parts | None) -> Kept:
    """What this run and earlier ones have finished.

    Raises:
        UnmaskError: by another command.
    """
    wanted = json.loads(json.dumps(dict(job.settings)))

    def index_of(path: Path, row: Any) -> int:
        try:
            index, _, settings = int(row["index"]), row["prompt"], dict(row["settings"])
        except (KeyError, TypeError, ValueError):
            raise UnmaskError(f"{path} is no output of unmask decode: give another --output.") from None
        if settings != wanted:
            check_begun(output or path, settings, wanted, "--output")
        return index

    if output is None or parts is None:
        return Kept((), index_of)
    whole = job.source.finished(output)
    return Kept([*whole, *parts.paths()], index_of, whole)


def _check_input(source: Prompts, kept: Kept, output: Path | None) -> None:
    """
    Raises:
        UnmaskError: what is finished is of other prompts, or some of its prompts are not there any more.
    """
    if not len(kept):
        return
    lost = set(kept.indices())
    known, again = tee(given for given in source if given.index in kept and given.prompt is not None)
    for given, row in zip(known, kept.rows(given.index for given in again), strict=True):
        lost.discard(given.index)
        if row["prompt"] != given.prompt:
            raise UnmaskError(
                f"{output} was begun with another prompt on {source.unit} {given.index + 1} of {source.name}: give "
                "another --output."
            )
    if lost:
        raise UnmaskError(
            f"{output} has finished the prompt on {source.unit} {min(lost) + 1}, which {source.name} does not hold: "
            "give the whole input again, or another --output."
        )


def _complaint(source: Prompts, bad: Mapping[int, str], output: Path | None) -> str:
    """One sentence on the rows that could not be used."""
    lines = sorted(bad)
    shown = "; ".join(f"{source.unit} {i + 1} {bad[i]}" for i in lines[:3])
    more = f"; and so {len(lines) - 3} more, to {source.unit} {lines[-1] + 1}" if len(lines) > 3 else ""
    remedy = "mend it and pass --resume" if output else "mend it"
    return f"{source.name}, {shown}{more}: {remedy}; the others are done."
