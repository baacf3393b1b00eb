"""Measure a policy of every speed: the table that `unmask.policies.calibration` reads, from rows of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from unmask.decoding.options import DecodeConfig, told_cache
from unmask.errors import UnmaskError
from unmask.evaluation.entries import Candidate, Entry
from unmask.evaluation.findings import CalibrationFinding
from unmask.evaluation.intervals import Interval
from unmask.evaluation.rows import ResultRow, task_of
from unmask.hub import weights_digest
from unmask.policies.base import LearnedPolicy
from unmask.policies.calibration import CONFIDENCE, Calibration, Labels, Measured, bound, even_axis, interpolate

KNOBS = 17
DROPS = (0.005, 0.01, 0.02, 0.05)  # that promises are shown for
Axis = tuple[tuple[float, float], ...]


def calibration_entries(name: str, policy: LearnedPolicy, decode: DecodeConfig, knobs: int = KNOBS) -> list[Candidate]:
    """The policy at evenly spaced numbers that its network is given, from slow to fast.

    Raises:
        UnmaskError: a policy without a speed.
    """
    if not policy.needs.speed:
        raise UnmaskError(f"The policy {name} has no speed to calibrate: train one that has (unmask tune).")
    plain = policy.settings.model_copy(update={"speed_axis": ()})
    bare = type(policy)(plain)
    bare.load_state_dict(policy.state_dict())
    bare.eval()
    at = [decode.model_copy(update={"speed": knob / (knobs - 1)}) for knob in range(knobs)]
    return [(Entry.of_policy(name, bare, one), bare) for one in at]


def table_of(
    policy: LearnedPolicy,
    results: Sequence[tuple[Entry, Sequence[ResultRow]]],
    *,
    labels: Labels,
    axis: Axis | None = None,
) -> tuple[Axis, Calibration]:
    """The axis of speeds and the table, from the rows of `calibration_entries`, one seed.

    Speed 0 is the slowest of those with the highest accuracy, and each of the others is faster than all before it: what
    is slower than speed 0 and less accurate has no place on an axis that is made here.

    Args:
        labels: judge by what the rows say, or (``agreement``) by whether the text is that of the slowest speed.
        axis: keep this one; by default it is made even in log NFE for what was measured. Where the policy is fastest at
            the speed at which it is most accurate, it is the network's own.
    """
    if axis is not None:
        inside = (axis[0][1] - 1e-9, axis[-1][1] + 1e-9)
        results = [one for one in results if inside[0] <= (one[0].decode.speed or 0.0) <= inside[1]]
    right = [
        [_right(row, first, labels) for row, first in zip(rows, results[0][1], strict=True)] for _, rows in results
    ]
    nfe = [sum(row["nfe"] for row in rows) / len(rows) for _, rows in results]
    knobs = [entry.decode.speed or 0.0 for entry, _ in results]
    made = axis
    if made is None:
        start = max(range(len(right)), key=lambda i: (sum(right[i]), nfe[i])) if labels != "agreement" else 0
        made = even_axis(list(zip(knobs, nfe, strict=True))[start:])
        on_it = [i for i, knob in enumerate(knobs) if knob in {knob for _, knob in made}]
        if not made:  # it is fastest where it is most accurate: from there on, the network's own
            first = min(start, len(knobs) - 2)
            made, on_it = ((0.0, knobs[first]), (1.0, knobs[-1])), list(range(first, len(knobs)))
        results, right = [results[i] for i in on_it], [right[i] for i in on_it]
        nfe, knobs = [nfe[i] for i in on_it], [knobs[i] for i in on_it]
    by_knob = [(knob, speed) for speed, knob in made]
    rows = [
        _measured(knob, interpolate(by_knob, knob), mean, right[0], each)
        for knob, mean, each in zip(knobs, nfe, right, strict=True)
    ]
    entry, first_rows = results[0]
    row = first_rows[0]
    columns = entry.columns()
    table = Calibration(
        model=row["model"],
        task=task_of(row),
        split=row["split"],
        gen_length=columns["gen_length"],
        block_length=columns["block_length"],
        stop_at_eos=columns["stop_at_eos"],
        suppress_eos=columns["suppress_eos"],
        cache=told_cache(row.get("config", {}).get("cache")),
        prompts=len(first_rows),
        seed=row["seed"],
        labels=labels,
        weights=weights_digest(policy.weights()),
        rows=tuple(rows),
    )
    return made, table


def _measured(knob: float, speed: float, nfe: float, slowest: Sequence[bool], right: Sequence[bool]) -> Measured:
    """A row of the table.

    Args:
        slowest: the verdicts at speed 0.
        right: those at this speed.
    """
    count, n = sum(right), len(right)
    return Measured(
        knob=knob,
        speed=speed,
        nfe=nfe,
        accuracy=count / n,
        low=bound(count, n, 0.025, "greater"),
        high=bound(count, n, 0.025, "less"),
        lost=sum(a and not b for a, b in zip(slowest, right, strict=True)),
        gained=sum(b and not a for a, b in zip(slowest, right, strict=True)),
    )


def _right(row: ResultRow, slowest: ResultRow, labels: Labels) -> bool:
    return row["text"].strip() == slowest["text"].strip() if labels == "agreement" else row["correct"]


def promises(table: Calibration) -> list[str]:
    """The fastest speed for each of a few drops."""
    told, refusal = [], ""
    for drop in DROPS:
        try:
            speed = table.for_drop(drop)
        except UnmaskError as e:
            refusal = str(e)
            continue
        told.append(
            f"--max-drop {100 * drop:g}%: speed {speed:.2f}, about {table.nfe_at(speed):.1f} forward passes per prompt "
            f"({100 * CONFIDENCE:g}% confidence)"
        )
    return told or [refusal]


def in_markdown(table: Calibration) -> str:
    """A table for the card of a policy."""
    lines = [f"| speed | forward passes | {table.judged} %, 95% interval |", "|---|---|---|"]
    for row in table.rows:
        interval = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        lines.append(f"| {row.speed:.2f} | {row.nfe:.2f} | {100 * row.accuracy:.1f}, {interval} |")
    return "\n".join([f"On {table.prompts} {table.split} prompts of `{table.task}` with `{table.model}`:", "", *lines])


def finding(policy: str, table: Calibration) -> CalibrationFinding:
    """A table as a report shows it."""
    prompts = f"{table.prompts} prompts of {table.split}"
    blocks = "full diffusion" if table.block_length == table.gen_length else f"blocks of {table.block_length}"
    return CalibrationFinding(
        policy=policy,
        place=f"{table.model} on {table.task}, {table.gen_length} positions, {blocks}, {prompts}",
        judged=table.judged,
        rows=[(row.speed, row.nfe, Interval(row.accuracy, row.low, row.high)) for row in table.rows],
        promises=promises(table),
    )
