"""Prompts from a file, decoded to a file: what is finished is kept at once, and a stopped run goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmask.cli.console import Stop, errors, ticking
from unmask.decoding.decode import stream
from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Completion
from unmask.decoding.source import check_prompt
from unmask.decoding.state import Step
from unmask.errors import UnmaskError, nearest
from unmask.files import jsonl, read_jsonl, write_text
from unmask.journal import Claim, Journal, check_begun
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.base import Policy

Row = dict[str, Any]


@dataclass
class Prompts:
    """Prompts by their index in the input (line number - 1), and what was wrong with the others."""

    name: str
    rows: dict[int, Row]
    column: str
    bad: dict[int, str]


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
    return Prompts("the arguments", {i: {"prompt": prompt} for i, prompt in enumerate(prompts)}, "prompt", {})


def read_prompts(path: str, column: str) -> Prompts:
    """Read JSONL. A line that cannot be used is remembered; the others are decoded."""
    found = Prompts("stdin" if path == "-" else path, {}, column, {})
    if path != "-" and not Path(path).exists():
        raise UnmaskError(f"No input file at {path}: give a JSONL file, or - for stdin.")
    if path == "-" and sys.stdin is None:
        raise UnmaskError("Standard input is closed: pipe JSONL into the command, or give --input a file.")
    for line in read_jsonl(sys.stdin.buffer if path == "-" else path):
        i, row = line.number - 1, line.value
        if line.problem:
            found.bad[i] = line.problem
            continue
        row = {column: row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            found.bad[i] = "is neither a JSON object nor a string"
        elif not (isinstance(row.get(column), str) or _is_chat(row.get(column))):
            hint = "" if column in row else f": {nearest(column, row)}" if row else ""
            found.bad[i] = f"has no text under {column!r}{hint}".rstrip(".")
        else:
            found.rows[i] = row
    if not found.rows and not found.bad:
        raise UnmaskError(f"{found.name} holds no prompt: give one JSON object a line, with its text under {column!r}.")
    return found


def as_prompt(text: str | list[Message], chat: bool) -> str | list[Message]:
    """A text as it is, or as a user's message; a list of messages is a chat already."""
    return [{"role": "user", "content": text}] if chat and isinstance(text, str) else text


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "content" in m for m in value)


def refuse_to_overwrite(output: Path) -> None:
    """Keep what an earlier run left.

    Raises:
        UnmaskError: naming the file, or the process that writes it.
    """
    with _claimed(output):  # else "--resume" would be a bad advice
        if output.exists():
            raise UnmaskError(f"{output} exists: pass --resume to add what it lacks, or another --output.")
        if _part(output).exists():
            raise UnmaskError(
                f"{_part(output)} holds what a stopped run has finished: pass --resume to go on, or delete it."
            )


def decode_all(job: Job, output: Path | None) -> None:
    """Decode what is not done yet; keep every finished prompt at once; put them in order at the end."""
    source, tokens = job.source, dict[int, list[int]]()
    gen_length = job.config.region(model=job.model)
    for i, row in source.rows.items():
        try:
            tokens[i] = job.model.encode(as_prompt(row[source.column], job.chat))
            check_prompt(job.model, tokens[i], gen_length, "its prompt")
        except UnmaskError as e:
            tokens.pop(i, None)
            source.bad[i] = f"cannot be decoded ({str(e).rstrip('.')})"
    with _claimed(output) if output else nullcontext():
        part = _part(output) if output else None
        done = _finished(output, part, source, job.settings)
        waiting = [i for i in tokens if i not in done]
        if waiting:
            _decode_waiting(job, tokens, done, waiting, part)
        if output and part:
            write_text(output, jsonl(done[i] for i in sorted(done)))
            part.unlink(missing_ok=True)
            errors.print(f"{len(done)} prompts in {output}.", highlight=False, soft_wrap=True)
    if source.bad:
        raise UnmaskError(_complaint(source, output))


def _decode_waiting(
    job: Job, tokens: Mapping[int, Sequence[int]], done: dict[int, Row], waiting: Sequence[int], part: Path | None
) -> None:
    with Stop() as stop, ticking("decoding", len(waiting), errors) as tick:

        def leave(step: Step) -> None:
            if stop():
                raise KeyboardInterrupt

        remaining = [tokens[i] for i in waiting]
        call: dict[str, Any] = {"seed": job.seed, "streams": waiting, "callback": leave}
        batches = stream(job.model, job.policy, remaining, job.config, **call)  # checks now, before the part is begun
        if part:
            Journal(part).replace(done.values())
        kept = len(done)
        try:
            for batch in batches:
                for completion in batch.completions():
                    index = waiting[completion.index]
                    done[index] = _row(job.source, index, completion, job.settings)
                    _append(done[index], part)
                    tick(len(done) - kept, f"{completion.nfe} NFE")
        except KeyboardInterrupt:
            errors.print(f"Stopped. {_kept(len(done), len(tokens), part)}", highlight=False, soft_wrap=True)
            raise
        except UnmaskError as e:
            raise UnmaskError(f"{e} {_kept(len(done), len(tokens), part)}") from None


def _row(source: Prompts, index: int, completion: Completion, settings: Mapping[str, Any]) -> Row:
    columns = dict(source.rows[index])
    found = {**asdict(completion), "index": index}
    return {"prompt": columns.pop(source.column), **found, "input": columns, "settings": dict(settings)}


def _part(output: Path) -> Path:
    return output.with_name(output.name + ".part")


def _claimed(output: Path) -> Claim:
    return Claim(output, output.with_name(f".{output.name}.lock"), "--output")


def _append(row: Row, part: Path | None) -> None:
    if part is None:
        sys.stdout.write(jsonl([row]))
        sys.stdout.flush()
    else:
        Journal(part).append([row])


def _finished(output: Path | None, part: Path | None, source: Prompts, settings: Mapping[str, Any]) -> dict[int, Row]:
    """What an earlier run of the same command left.

    Raises:
        UnmaskError: it was another command, or other prompts, or some of its prompts are not there any more.
    """
    if output is None or part is None:
        return {}
    done: dict[int, Row] = {}
    for path in (output, part):
        for line in read_jsonl(path) if path.exists() else ():
            if line.cut and path == part:  # by a kill: it is decoded again
                break
            try:
                index, _, settings_of = (line.value[key] for key in ("index", "prompt", "settings"))
                done[int(index)] = {**line.value, "settings": dict(settings_of)}
            except (KeyError, TypeError, ValueError):
                raise UnmaskError(f"{path} is no output of unmask decode: give another --output.") from None
    for index, row in done.items():
        check_begun(output, row["settings"], settings, "--output")
        if index in source.rows and row["prompt"] != source.rows[index][source.column]:
            raise UnmaskError(
                f"{output} was begun with another prompt on line {index + 1} of {source.name}: give another --output."
            )
    lost = sorted(done.keys() - source.rows.keys())
    if lost:
        raise UnmaskError(
            f"{output} has finished the prompt on line {lost[0] + 1}, which {source.name} does not hold: give the "
            "whole input again, or another --output."
        )
    return done


def _kept(done: int, total: int, part: Path | None) -> str:
    if part is None:
        return f"{done} of {total} prompts are done."
    return f"{done} of {total} prompts are kept in {part}; --resume goes on from there."


def _complaint(source: Prompts, output: Path | None) -> str:
    """One sentence on the lines that could not be used."""
    lines = sorted(source.bad)
    shown = "; ".join(f"line {i + 1} {source.bad[i]}" for i in lines[:3])
    more = f"; and so {len(lines) - 3} more, to line {lines[-1] + 1}" if len(lines) > 3 else ""
    remedy = "mend it and pass --resume" if output else "mend it"
    return f"{source.name}, {shown}{more}: {remedy}; the others are done."
