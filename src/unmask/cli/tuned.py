"""What tuning made: its verdict, its card, its page, and the lines to use it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmask.cli.console import console, duration
from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import finding, in_markdown
from unmask.evaluation.comparison import ComparisonResult
from unmask.evaluation.differences import paired_bootstrap
from unmask.evaluation.gather import findings
from unmask.evaluation.summaries import Summary, outcomes
from unmask.files import write_text
from unmask.policies.calibration import Calibration
from unmask.rl.config import TrainConfig


@dataclass(frozen=True)
class Tuned:
    """What tuning made.

    Attributes:
        folder: of the run.
        calibration: the table in the policy's folder.
        summaries: of the policy at each of `SPEEDS`, then of the rules, on held-out prompts.
        found: their rows.
        seconds: of each stage.
    """

    folder: Path
    calibration: Calibration
    summaries: Sequence[Summary]
    found: ComparisonResult
    seconds: dict[str, float]


def verdict(made: Tuned) -> list[str]:
    """What the curve says at each speed, against the best mixture of two rules at equal NFE; of puzzles the bounds."""
    rules = [outcomes(rows) for entry, rows in made.found.results if entry.kind == "rule"]
    told = []
    for (entry, rows), s in zip(made.found.results, made.summaries, strict=True):
        if entry.kind != "policy":
            continue
        unit = "forward passes" if s.cost == "passes" else "whole passes' worth of positions"
        reached = f"speed {entry.decode.speed or 0:.2f}: {100 * s.accuracy.mean:.1f}% at {s.nfe.mean:.2f} {unit}"
        if not rules:
            told.append(f"{reached}.")
            continue
        gap = paired_bootstrap(outcomes(rows), rules, hull=True)
        if math.isnan(gap.mean):
            told.append(f"{reached}; no rule is as fast.")
            continue
        inconclusive = ", inconclusive" if gap.low <= 0 <= gap.high else ""
        told.append(
            f"{reached}; {100 * gap.mean:+.1f} points against the best mixture of two rules (95% interval "
            f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}{inconclusive})."
        )
    for bound in made.found.bounds:
        at = "" if math.isnan(bound.nfe.mean) else f" at {bound.nfe.mean:.2f} forward passes"
        told.append(f"{bound.name}: {100 * bound.accuracy.mean:.1f}%{at}.")
    return told


def write_card(made: Tuned) -> None:
    """Say on the policy's card what each speed does, and what it is worth."""
    path, section = made.folder / "best" / "README.md", "## Every speed"
    text = path.read_text(encoding="utf-8").split(section)[0].rstrip()
    told = "\n".join(f"- {sentence[0].upper()}{sentence[1:]}" for sentence in verdict(made))
    prompts = made.summaries[0].prompts
    against = "against the best rules of" if any(s.entry.kind == "rule" for s in made.summaries) else "on"
    rules = f"On {prompts} held-out prompts, {against} {made.found.title}:"
    write_text(path, f"{text}\n\n{section}\n\n{in_markdown(made.calibration)}\n\n{rules}\n\n{told}\n")


def write_page(made: Tuned) -> None:
    """The report of the run: curves, differences, calibration."""
    path = made.folder / "report.html"
    try:
        from unmask.evaluation.page import render  # what it needs is an extra

        shown = findings(made.found.results, made.summaries)
        calibrations = [finding(made.folder.name, made.calibration)]
        write_text(path, render(replace(shown, calibrations=calibrations, bounds=made.found.bounds)))
    except UnmaskError as e:
        console.print(f"No page: {e}", highlight=False)
        return
    console.print(f"Page: {path}", highlight=False, soft_wrap=True)


def closing(made: Tuned, config: TrainConfig) -> None:
    """What the policy is worth, the three lines to use it, and what took how long."""
    console.rule("What it is worth", align="left")
    for sentence in verdict(made):
        console.print(f"- {sentence}", highlight=False)
    parts = ", ".join(f"{duration(value)} to {name}" for name, value in made.seconds.items())
    model = "" if config.model.model is None else f'"{config.model.model}"'
    table = made.calibration
    blocks = "" if table.block_length == table.gen_length else f", block_length={table.block_length!r}"
    blocks += "" if table.cache == "default" else f", cache={table.cache!r}"
    nfe = table.nfe_at(0.5)
    console.rule("Use it", align="left")
    console.print(
        f"model, policy = unmask.load_model({model}), unmask.load_policy('{made.folder}')\n"
        f"speed = policy.speed_for(target_nfe={nfe:.1f})  # or max_drop=0.02, or any number from 0 to 1\n"
        f"out = unmask.generate(model, policy, prompts, gen_length={table.gen_length}{blocks}, speed=speed)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Took {parts}.", highlight=False)
