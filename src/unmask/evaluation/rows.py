"""What a result row holds: identity, outcome and circumstances of one prompt under one seed, as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from unmask.decoding.results import Ending
from unmask.evaluation.entries import EntryColumns


class Outcome(TypedDict):
    """What decoding and the verifier made of a prompt.

    Attributes:
        index: among the examples.
        nfe: forward passes.
        positions: that those passes computed of the prompt and its region; older rows have none.
        full_passes: that computed all of it.
        equivalents: passes over all of it that compute as many positions.
        tokens: revealed, up to the end of the text.
        reveals: positions revealed at each step.
        correlation: of what was revealed together, in nats (`unmask.evaluation.bounds`); of puzzles, if asked for;
            None of a wrong answer, and where answers cannot be listed.
        complete: nothing is masked that counts; without it an answer is wrong.
        ended: as in `unmask.Completion`.
    """

    index: int
    prompt: str
    text: str
    correct: bool
    nfe: int
    positions: NotRequired[int]
    full_passes: NotRequired[int]
    equivalents: NotRequired[float]
    tokens: int
    reveals: list[int]
    correlation: NotRequired[float | None]
    complete: bool
    ended: Ending


class Circumstances(TypedDict):
    """What made the row, the entry aside.

    Attributes:
        task: of a mixture the part that the prompt is of.
        config: settings of the whole comparison, where there is one.
    """

    seed: int
    model: str
    task: str
    split: str
    versions: Mapping[str, str]
    hardware: str
    config: NotRequired[Mapping[str, Any]]


class ResultRow(EntryColumns, Outcome, Circumstances):
    """A row of an evaluation.

    Attributes:
        gold: the right answer, of prompts whose trajectory is kept.
        trajectory: `TRAJECTORY` of `unmask.decoding.trajectory.Trajectory`.
    """

    gold: NotRequired[str]
    trajectory: NotRequired[Mapping[str, Any]]


TRAJECTORY = ("words", "end", "revealed_at", "confidence")  # what a row does not hold anyway


def task_of(row: ResultRow) -> str:
    """The task of its evaluation: of a mixture the whole, not the part that the row is of."""
    return str(row.get("config", {}).get("task") or row["task"])
