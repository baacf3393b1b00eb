"""Findings as one HTML page that needs nothing else: no network, no server."""

from __future__ import annotations

import json
import math
import textwrap
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib.resources import files
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.differences import Difference
from unmask.evaluation.findings import EVERY_RULE, CellFinding, Findings, TrainingCurve, TransferResult, Versus
from unmask.evaluation.intervals import Interval

HOVER_WIDTH, HOVER_LINES = 56, 10  # characters, and lines of a cell's config; the table has all of it
LOSSES = (1.0, 5.0, 10.0, 20.0)  # points between the shades of the transfer table
OVERVIEW = ("validation correct", "validation nfe", "reward")  # of training, where they were measured


def render(findings: Findings) -> str:
    """The page. Sections without data are left out; text of the data is escaped.

    Raises:
        UnmaskError: plotly or jinja2 is not installed.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError:
        raise UnmaskError("The report needs plotly and jinja2: pip install 'unmask[report]'.") from None

    assets = files("unmask.evaluation") / "page_assets"
    html, css, page, viewer = (
        (assets / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js", "viewer.js")
    )
    plots = findings.cells or findings.training or findings.trajectories
    scripts = [*([get_plotlyjs()] if plots else []), page, *([viewer] if findings.trajectories else [])]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "number": _number,
        "percent": _percent,
        "points": _points,
        "signed": _signed,
        "isnan": math.isnan,
    }
    environment.filters |= {
        "interval": _interval,
        "sortable": lambda value: "" if math.isnan(value) else value,
        "blocks": _blocks,
        "config": lambda config: json.dumps(dict(config), indent=1, ensure_ascii=False, default=str),
        "shade": lambda one: sum(-100 * one.loss.mean >= limit for limit in LOSSES),
    }
    return environment.from_string(html).render(
        f=findings,
        headlines=_headlines(findings),
        kinds=_kinds(findings.cells),
        metrics=_metrics(findings.training),
        matrix=_matrix(findings.transfer),
        targets=list(dict.fromkeys(one.target for one in findings.transfer)),
        losses=LOSSES,
        prompts={shown.index: shown.trajectory.prompt for shown in findings.trajectories},
        css=css,
        scripts=scripts,
        # Only these may run: no text of the data can become a script, whatever it holds.
        hashes=[b64encode(sha256(one.encode()).digest()).decode() for one in scripts],
        data=_embedded(_payload(findings)),
    )


def _payload(findings: Findings) -> dict[str, Any]:
    """What the script draws; the tables are in the HTML."""
    return {
        "cells": [
            {
                "rule": cell.rule,
                "blocks": cell.blocks,
                "learned": cell.learned,
                "accuracy": asdict(cell.accuracy),
                "nfe": asdict(cell.nfe),
                "hover": _hover(cell),
            }
            for cell in findings.cells
        ],
        "bounds": [asdict(bound) for bound in findings.bounds],
        "training": [{"name": run.name, "series": run.series} for run in findings.training],
        "overview": _overview(findings.training),
        "shown": [
            {**asdict(shown.trajectory), "name": shown.name, "index": shown.index}
            | {"correct": shown.correct, "gold": shown.gold}
            for shown in findings.trajectories
        ],
    }


def _embedded(payload: Any) -> str:
    """JSON that no text in it can end early."""
    return json.dumps(_finite(payload), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value


def _hover(cell: CellFinding) -> list[str]:
    config = textwrap.wrap(json.dumps(dict(cell.config), ensure_ascii=False, default=str), HOVER_WIDTH)
    return [
        *textwrap.wrap(f"{cell.rule}: {cell.setting}", HOVER_WIDTH),
        _blocks(cell.blocks),
        f"accuracy {_percent(cell.accuracy.mean)}% ({_interval(cell.accuracy, _percent)})",
        f"NFE {_number(cell.nfe.mean)} ({_interval(cell.nfe)})",
        f"TPF {_number(cell.tpf, 2)}",
        f"{cell.prompts} prompts, {cell.seeds} seed{'s' * (cell.seeds != 1)}",
        *config[:HOVER_LINES],
        *(["… (click: all of it)"] if len(config) > HOVER_LINES else []),
    ]


def _headlines(findings: Findings) -> list[str]:
    """What came out, one sentence per learned policy: against the rule that comes closest to it."""
    lines = []
    for index in dict.fromkeys(one.cell for one in findings.versus):
        cell = findings.cells[index]
        passes = f"{_number(cell.nfe.mean)} forward passes"
        lines.append(
            f"{cell.rule} {cell.setting} ({_blocks(cell.blocks)}) answers {_percent(cell.accuracy.mean)}%: "
            + _lead([one for one in findings.versus if one.cell == index], passes)
        )
    return lines


def _lead(versus: Sequence[Versus], passes: str) -> str:
    as_fast = [one for one in versus if not one.control and not math.isnan(one.difference.mean)]
    if not as_fast:
        return f"no rule is as fast as its {passes}."
    nearest = min(as_fast, key=lambda one: one.difference.mean)
    gap = nearest.difference
    side = "over" if gap.mean >= 0 else "against"
    told = "" if gap.low > 0 or gap.high < 0 else ", which does not tell them apart,"
    rival = (
        f"the best mixture of all rules at {passes}"
        if nearest.rule == EVERY_RULE
        else f"the best rule at {passes}, {nearest.rule}"
    )
    return f"{_points(gap.mean)} points (95% interval {_interval(gap, _points)}){told} {side} {rival}."


def _kinds(cells: Sequence[CellFinding]) -> list[str]:
    kinds = {cell.blocks for cell in cells}
    return sorted(
        kinds, key=lambda kind: (kind != "full", not kind.isdigit(), int(kind) if kind.isdigit() else 0, kind)
    )


def _metrics(training: Sequence[TrainingCurve]) -> list[str]:
    return list(dict.fromkeys(name for run in training for name in run.series))


def _overview(training: Sequence[TrainingCurve]) -> list[str]:
    metrics = _metrics(training)
    return [name for name in OVERVIEW if name in metrics] or metrics[:3]


def _matrix(transfer: Sequence[TransferResult]) -> dict[str, dict[str, TransferResult]]:
    """Policy -> target -> what it reached there."""
    matrix: dict[str, dict[str, TransferResult]] = {}
    for one in transfer:
        matrix.setdefault(one.policy, {})[one.target] = one
    return matrix


def _blocks(kind: str) -> str:
    return {"full": "full diffusion", "adaptive": "adaptive blocks"}.get(kind, f"blocks of {kind}")


def _number(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"  # noqa: RUF001 (a dash, as in print)


def _percent(share: float) -> str:
    return _number(100 * share)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")  # noqa: RUF001


def _points(share: float) -> str:
    """Percentage points, signed."""
    return _signed(100 * share)


def _interval(one: Interval | Difference, text: Any = _number) -> str:
    return f"{text(one.low)} to {text(one.high)}"
