"""Findings made up for tests of the page: as many rules, runs and steps as a real report has."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from unmask.decoding.trajectory import Trajectory
from unmask.evaluation.bounds import Bound
from unmask.evaluation.differences import Difference
from unmask.evaluation.findings import (
    CalibrationFinding,
    CellFinding,
    Findings,
    RuleFinding,
    ShownTrajectory,
    TrainingCurve,
    TransferResult,
    Versus,
)
from unmask.evaluation.intervals import Interval

EVIL = "</script><img src=x onerror=\"document.title='broken into'\"><b>bold</b> & {{ 7 * 7 }}"
GRID = {
    "random": ("k", (1, 2, 4)),
    "top-k": ("k", (1, 2, 4)),
    "threshold": ("threshold", (0.5, 0.7, 0.9)),
    "threshold, EOS suppressed": ("threshold", (0.5, 0.9)),
    "factor": ("factor", (0.5, 1.0)),
    "margin": ("threshold", (0.3, 0.9)),
    "entropy": ("bound", (0.05, 0.5)),
    "KLASS": ("kl", (0.01, 0.1)),
    EVIL: ("k", (1,)),
}
WORDS = (" the", " 12", " *", " 7", " is", "\n", "un", "mask", "ing", "  ", " eight", "y-", "four", ".")


def around(mean: float, half: float) -> Interval:
    return Interval(mean, max(mean - half, 0.0), mean + half)


def made_up(positions: int = 32, prompts: int = 2) -> Findings:
    """Cells of ten rules and two learned policies, three runs, a transfer of three by three, and trajectories."""
    rng = random.Random(0)
    cells = _cells(rng)
    rules = [
        RuleFinding(
            rule, len(places), max(places, key=lambda i: cells[i].accuracy.mean), rng.random(), 900 * rng.random()
        )
        for rule, places in _by_rule(cells).items()
    ]
    policy = next(i for i, cell in enumerate(cells) if cell.learned)
    gaps = [0.373, 0.41, math.nan, 0.52]
    versus = [
        Versus(policy, rule.rule, Difference(gap, gap - 0.04, gap + 0.04, float(math.isnan(gap)), -0.01))
        for rule, gap in zip(rules, gaps, strict=False)
    ]
    return Findings(
        title="house on house-base",
        facts={
            "dLLM": "house-base",
            "task": "house, test split",
            "prompts": "400",
            "seeds": "3",
            "generation": "32 positions",
            "versions": "unmask 0.1.0, torch 2.13.0",
            "hardware": "2 CPU cores",
            "command": "unmask report runs/a runs/b --output report.html",
        },
        gen_length=32,
        cells=cells,
        rules=rules,
        bounds=[
            Bound("known order", Interval(0.99, 0.97, 1.0), Interval(3.0, 2.9, 3.1)),
            Bound("best of 64, none right", Interval(0.0, 0.0, 0.01), Interval(math.nan, math.nan, math.nan)),
        ],
        versus=versus,
        calibrations=[
            CalibrationFinding(
                "runs/mine",
                f"house-base on {task}, 32 positions, full diffusion, 400 prompts of validation",
                "agreement with speed 0" if task == "ledger" else "accuracy",
                [(0.0, 6.5, around(0.99, 0.02)), (0.5, 4.1, around(0.9, 0.03)), (1.0, 2.0, around(0.4, 0.05))],
                ["--max-drop 1%: speed 0.20, about 5.0 forward passes per prompt (95% confidence)"],
            )
            for task in ("house", "ledger")
        ],
        training=[_run(rng, f"alpha {alpha}, seed {seed}") for alpha, seed in ((1, 0), (1, 1), (3, 0))],
        transfer=_transfer(rng),
        trajectories=[
            shown
            for index in range(prompts)
            for shown in (
                _shown(rng, index, "policy house-base-full, full diffusion", positions, positions // 5, "complete"),
                _shown(rng, index, "threshold 0.9, blocks of 8", positions, positions // 2, "complete"),
                _shown(rng, index, "top-k k 1, full diffusion", positions, positions // 3, "budget"),
            )
        ],
    )


def only_trajectories() -> Findings:
    return replace(made_up(), cells=(), rules=(), versus=(), bounds=(), calibrations=(), training=(), transfer=())


def _cells(rng: random.Random) -> list[CellFinding]:
    made = []
    for rule, (name, values) in GRID.items():
        for blocks in ("full", "16", "adaptive"):
            for place, value in enumerate(values):
                nfe = 32 / (1 + place) + 3 * rng.random() if name == "k" else 8 + 4 * place + 3 * rng.random()
                accuracy = (0.35 if blocks == "full" else 0.6) * (0.6 + 0.4 * nfe / 35) + 0.25 * rng.random()
                made.append(_cell(rule, f"{name} {value:g}", blocks, accuracy, nfe, {name: value}))
    made.append(_cell("policy", "house-base-full", "full", 0.953, 6.2, {"name": "house-base-full"}, learned=True))
    made.append(_cell("policy", "house-base-block8", "8", 0.985, 9.9, {"name": "house-base-block8"}, learned=True))
    made.append(_cell("cloned", "threshold 0.9", "full", 0.903, 13.6, {"name": "cloned"}, learned=True))
    return [_placed(i, made) for i in range(len(made))]


def _cell(rule, setting, blocks, accuracy, nfe, config, learned=False) -> CellFinding:
    whole = {"type": rule, **config, "block_length": blocks, "gen_length": 32, "suppress_eos": False}
    at = around(accuracy, 0.03)
    return CellFinding(
        rule, setting, blocks, at, around(nfe, 0.3), 24 / nfe, 400, 3 if learned else 1, whole, learned, False, None
    )


def _placed(place: int, cells: list[CellFinding]) -> CellFinding:
    """With what beats it, found by comparing it with each other cell."""
    cell = cells[place]
    better = [
        i
        for i, other in enumerate(cells)
        if i != place and other.nfe.mean <= cell.nfe.mean and other.accuracy.mean >= cell.accuracy.mean
    ]
    return replace(
        cell, frontier=all(cells[i].rule != cell.rule for i in better), beaten_by=better[-1] if better else None
    )


def _by_rule(cells: list[CellFinding]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        places.setdefault(cell.rule, []).append(i)
    return places


def _run(rng: random.Random, name: str) -> TrainingCurve:
    every, some = range(0, 200), range(0, 200, 20)
    rise = [1 - 0.9 * 0.98**i for i in every]
    return TrainingCurve(
        name,
        {
            "reward": (every, [value - 0.2 * rng.random() for value in rise]),
            "correct": (list(every), [value - 0.1 * rng.random() for value in rise]),
            "nfe": (list(every), [30 - 22 * value + rng.random() for value in rise]),
            "validation reward": (list(some), [rise[i] for i in some]),
            "validation correct": (list(some), [rise[i] - 0.05 * rng.random() for i in some]),
            "validation nfe": (list(some), [math.nan if i == 0 else 30 - 22 * rise[i] for i in some]),
        },
    )


def _transfer(rng: random.Random) -> list[TransferResult]:
    names = ("house, full", "house, blocks of 8", "ledger, full")
    found = []
    for i, policy in enumerate(names):
        for j, target in enumerate(names):
            loss = -0.12 * abs(i - j) * rng.random() * 2
            gap = Interval(loss, loss - 0.03, loss + 0.03)
            slower = Interval(j - i + 0.0, j - i - 0.4, j - i + 0.4)
            found.append(
                TransferResult(policy, target, around(0.95 + loss, 0.02), around(6.2 + j, 0.2), gap, slower, i == j)
            )
    return found[:-2] + found[-1:]  # one was not measured


def _shown(rng: random.Random, index: int, name: str, positions: int, nfe: int, ended: str) -> ShownTrajectory:
    """Random words revealed mostly from left to right, then EOS; out of steps, some stay masked."""
    length = positions - positions // 4
    revealed = [min(nfe - 1, max(0, round(nfe * (0.7 * i / positions + 0.3 * rng.random())))) for i in range(positions)]
    revealed[0], revealed[1] = 0, nfe - 1
    if ended == "budget":
        revealed = [-1 if i % 9 == 8 else at for i, at in enumerate(revealed)]
    words = [rng.choice(WORDS) if i < length else "[EOS]" for i in range(positions)]
    words = ["" if at < 0 else word for word, at in zip(words, revealed, strict=True)]
    text = "".join(words[:length])
    trajectory = Trajectory(
        prompt=f"What is 12 * {index}?" if index else f"hall: red blue gold green?\n{EVIL}",
        words=words,
        end=[i >= length for i in range(positions)],
        revealed_at=revealed,
        confidence=[0.0 if at < 0 else round(1 - 0.9 * rng.random() ** 2, 4) for at in revealed],
        nfe=nfe,
        text=text,
        ended=ended,
    )
    return ShownTrajectory(name, index, ended == "complete" and index % 2 == 0, "84" if index else "gold", trajectory)
