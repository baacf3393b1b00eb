"""`unmask tune`: one policy of every speed for a dLLM and a task, and the evidence that it is worth using."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unmask.cli.bounds import measure_bounds, most_passes_of_bounds
from unmask.cli.calibrate import CalibrateConfig, measure, show
from unmask.cli.common import ConfigFile, DryRun, Resume, draw
from unmask.cli.comparison import ComparisonConfig, compare
from unmask.cli.console import console, errors
from unmask.cli.costs import describe_costs
from unmask.cli.flags import flags_of, given
from unmask.cli.train import FLAT, START, AllowChanges, judged, tables, train_policy
from unmask.cli.train import SHORT as TRAIN_SHORT
from unmask.cli.tuned import Tuned, closing, verdict, write_card, write_page
from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import KNOBS
from unmask.evaluation.entries import Candidate, candidate, decoding
from unmask.evaluation.figures import curve
from unmask.evaluation.summaries import costed, summarise
from unmask.files import read_object, write_text
from unmask.journal import Journal
from unmask.models.base import MaskedDiffusionModel
from unmask.pareto import Point, near_frontier
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.calibration import Calibration
from unmask.rl.algorithms.auto import load_algorithm
from unmask.rl.config import DEFAULT_ALGORITHM, TrainConfig
from unmask.rl.places import had_a_part
from unmask.rl.run import read_metrics
from unmask.rl.search import BEST, COLUMNS, EVERY, plain
from unmask.rl.swept import swept
from unmask.settings import laid_over, load_settings, read_toml
from unmask.tasks.base import Split, Task
from unmask.tasks.puzzle import Puzzle
from unmask.tasks.unseen import unseen

SPEEDS = tuple(i / 7 for i in range(8))
DEFAULTS: dict[str, dict[str, Any]] = {
    "policy": {"use_speed": True, "use_entropy": True, "top_k": 2},
    "clone": {"rule": "best:*", "updates": 200, "batch_size": 64},
    "algorithm": {
        "reward": "scale_free",
        "beta": (0.01, 3.0),
        "prompts": 40,
        "lr": 1.5e-4,
        "entropy_weight": 0.001,
        "other_speeds": 1,
    },
    "run": {"folder": "runs/tuned", "iterations": 200, "validate_every": 20, "temperatures": (0.5, 0.25)},
}
"""Where tuning differs from `TrainConfig`, by measurement (LOG.md)."""


def tune(
    *,
    settings: Annotated[Any, Parameter(name="*")] = None,
    calibration_prompts: Annotated[
        int, START, Parameter(help="Prompts for the table of speeds: the more, the more can be promised.")
    ] = 400,
    held_out_prompts: Annotated[int, START, Parameter(help="Test prompts for the comparison with the rules.")] = 400,
    config: Annotated[ConfigFile, START] = None,
    resume: Annotated[Resume, START] = False,
    allow_changes: AllowChanges = False,
    dry_run: Annotated[DryRun, START] = False,
) -> None:
    """Train one policy for every speed, calibrate it, and compare it with the best of all rules.

    Example: unmask tune --model GSAI-ML/LLaDA-8B-Instruct --task gsm8k --block-length 32 --run runs/mine
    """
    asked = tuning(config, given(settings))
    if min(calibration_prompts, held_out_prompts) < 2:
        raise UnmaskError(
            f"{calibration_prompts} calibration and {held_out_prompts} held-out prompts: give at least 2 of each."
        )
    if dry_run:
        describe_costs(asked, 1)
        gen_length = asked.task.load_task().region(asked.decode.gen_length)
        slow = int(asked.task.labels == "agreement")
        # Beside the policy at each speed, a replay of its pace.
        passes = (calibration_prompts * (KNOBS + slow) + held_out_prompts * (2 * len(SPEEDS) + slow)) * gen_length
        if isinstance(asked.task.load_task(), Puzzle) and not slow:
            passes += most_passes_of_bounds(held_out_prompts, gen_length)
        console.print(
            f"Calibration and comparison: {passes:,} forward passes at most, and those of the best rules.",
            highlight=False,
        )
        return
    made = run_tuning(asked, calibration_prompts, held_out_prompts, resume=resume, allow_changes=allow_changes)
    closing(made, asked)


SHORT = {key: flag for key, flag in TRAIN_SHORT.items() if key != "algorithm.alpha"} | {"algorithm.beta": "--beta"}
CARRIED = ("gen_length", "block_length", "batch_size", "stop_at_eos", "suppress_eos", "cache")
"""Of decoding: what calibration and comparison do as training does."""
DECODE = {key: field for key, field in tables()["decode"].items() if key in CARRIED}
TuneFlags = flags_of("TuneFlags", {**tables(), "decode": DECODE}, FLAT, SHORT, DEFAULTS)
tune.__annotations__["settings"] = Annotated[TuneFlags | None, Parameter(name="*")]


def tuning(config: str | Path | None, overrides: dict[str, dict[str, Any]]) -> TrainConfig:
    """The settings of a tuning run: `DEFAULTS`, over them the user's file, over that the flags.

    Raises:
        UnmaskError: settings that do not fit each other, or that only training has.
    """
    own = laid_over(read_toml(config) if config is not None else {}, overrides)
    values = _fitting(laid_over(DEFAULTS, own), own)
    asked = load_settings(TrainConfig, None, values)
    asked = asked.in_blocks(asked.model.own_blocks)
    if asked.policy.init is None and not asked.policy.network.has_speed:
        raise UnmaskError("Tuning makes a policy with a speed: leave policy.use_speed on, or use unmask train.")
    for name, field in type(asked.decode).model_fields.items():
        if name not in CARRIED and getattr(asked.decode, name) != field.default:
            raise UnmaskError(
                f"decode.{name} is {getattr(asked.decode, name)}, and tuning decodes the likeliest tokens without a "
                "budget at every speed: leave it out, or use unmask train."
            )
    return asked


def calibrated_on(config: TrainConfig, prompts: int) -> tuple[Split, int]:
    """Where the calibration finds prompts that had no part in the policy: among validation prompts; where a task has
    too few of them, among training prompts, if that gives more.

    Returns:
        The split, and how many there are, at most `prompts`.
    """
    task = config.task.load_task()

    def left(split: Split) -> int:
        return len(unseen(task, split, prompts, had_a_part(config.task, config.clone.examples, split)))

    found = left("validation")
    if found < prompts and (spare := left("train")) > found:
        return "train", spare
    return "validation", found


def check_prompts(config: TrainConfig, calibration: int, held_out: int) -> None:
    """See before the training that the task has prompts for what comes after it, and say if they are fewer than asked.

    Raises:
        UnmaskError: too few to measure anything.
    """
    try:
        config.task.load_task().examples("test", held_out)
    except UnmaskError as e:
        raise UnmaskError(f"{e} (--held-out-prompts)") from None
    name = config.task.load_task().name
    try:
        split, left = calibrated_on(config, calibration)
    except UnmaskError as e:
        raise UnmaskError(f"{e} (--calibration-prompts, --validation-prompts)") from None
    if left < 2:
        raise UnmaskError(
            f"The task {name!r} has too few prompts: --validation-prompts takes {config.task.validation_prompts} to "
            f"choose the checkpoint and leaves {left} for the calibration. Lower it, or --train-examples."
        )
    told = ""
    if split == "train":
        told = f"The calibration decodes training prompts that are not trained on: the task {name!r} has too few "
        told += "validation prompts beside those that choose the checkpoint. "
    if left < calibration:
        told += f"The calibration has {left} prompts, not {calibration}: the task {name!r} has no more that training "
        told += "leaves alone. To have more, lower --validation-prompts or --train-examples."
    if told:
        errors.print(told.strip(), style="yellow" if left < calibration else "", highlight=False, soft_wrap=True)


def _fitting(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Without the defaults that another algorithm or reward, or a policy to start from, has no place for.

    Args:
        own: what the user gave.
    """
    algorithm, asked = values["algorithm"], own.get("algorithm", {})
    known = load_algorithm(algorithm.get("name", DEFAULT_ALGORITHM)).Settings.model_fields
    unfit = {key for key in algorithm if key not in known}
    if "alpha" in asked or asked.get("reward", "scale_free") != "scale_free":
        unfit |= {"reward", "beta"}
    fitting = {**values, "algorithm": {key: algorithm[key] for key in algorithm if key in asked or key not in unfit}}
    if values["policy"].get("init") is not None:
        for table in ("policy", "clone"):
            fitting[table] = dict(own.get(table, {}))
    return fitting


def run_tuning(
    config: TrainConfig,
    calibration_prompts: int,
    held_out_prompts: int,
    *,
    resume: bool,
    allow_changes: bool = False,
) -> Tuned:
    """All stages; those that are done are not done again.

    Raises:
        UnmaskError: too few prompts; as training.
        Stopped: the user stopped it.
    """
    check_prompts(config, calibration_prompts, held_out_prompts)
    folder, seconds, clock = Path(config.run.folder), dict[str, float](), time.perf_counter

    def stage(name: str, number: int) -> float:
        console.rule(f"{number}. {name}", align="left")
        return clock()

    started = stage("Find the best rules, clone them, and train at every speed", 1)
    train_policy(config, resume=resume and (folder / "config.json").exists(), allow_changes=allow_changes)
    seconds["train"] = clock() - started
    started = stage("Calibrate: forward passes and accuracy at each speed", 2)
    comparison = _comparison(config, folder, held_out_prompts)
    model, task = comparison.load(), comparison.load_task()
    slow = None if config.task.labels == "verifier" else judged(task, model, config)
    table = _calibrate(config, folder, calibration_prompts, resume, model, slow)
    seconds["calibrate"] = clock() - started
    started = stage("Compare with the rules on held-out prompts", 3)
    gen_length = config.decode.region(task)
    sweep = config.clone.sweep
    rules = finalists(folder) if sweep is None else finalists_of_sweep(config, sweep, model, task)
    candidates = _candidates(config, folder, gen_length, rules)
    again = resume and (folder / "comparison" / "config.json").exists()
    found = compare(comparison, slow or task, gen_length, candidates, resume=again, controls=True, model=model)
    assert found is not None  # tuning has one process
    cost = config.algorithm.settings.cost
    found = replace(found, results=costed(found.results, cost))
    if isinstance(task, Puzzle) and slow is None:
        examples = task.examples("test", held_out_prompts)
        found = replace(found, bounds=measure_bounds(found.folder, model, task, examples, config.decode.batch_size))
    summaries = [summarise(entry, rows, cost) for entry, rows in found.results]
    seconds["compare"] = clock() - started
    if (folder / "tuned.json").exists():  # what was there was not made again
        before = json.loads((folder / "tuned.json").read_text(encoding="utf-8"))["seconds"]
        seconds = {name: max(value, before.get(name, 0.0)) for name, value in seconds.items()}
    made = Tuned(folder, table, summaries, found, seconds)
    write_text(folder / "tuned.json", json.dumps({"seconds": seconds, "verdict": verdict(made)}, indent=2) + "\n")
    console.print(draw(summaries, folder / "curve", found.title, curve), highlight=False, soft_wrap=True)
    write_card(made)
    write_page(made)
    return made


def _calibrate(
    config: TrainConfig, folder: Path, prompts: int, resume: bool, model: MaskedDiffusionModel, slow: Task | None
) -> Calibration:
    policy = load_policy(folder / "best")
    assert isinstance(policy, LearnedPolicy)
    shared = _shared(config)
    blocks = config.decode.model_dump(mode="json")["block_length"]
    begun = folder / "calibration" / "config.json"
    again = resume and begun.exists()
    if again:  # as it was begun, perhaps by a version that chose others
        before = read_object(begun, "delete the folder calibration, and resume again")
        split = before["split"]
    else:
        split, _ = calibrated_on(config, prompts)
    settings = CalibrateConfig(
        **shared,
        prompts=prompts,
        block_length=None if blocks is None else str(blocks),
        new_axis=True,
        split=split,
        output=str(folder / "calibration"),
    )
    table = measure(settings, folder / "best", policy, resume=again, task=slow, model=model)
    assert table is not None
    show(table)
    return table


def _shared(config: TrainConfig) -> dict[str, Any]:
    """What training and a comparison call by the same names."""
    names = set(ComparisonConfig.model_fields)
    found = {**config.model.model_dump(exclude_unset=True), **config.task.model_dump(exclude_unset=True)}
    found |= config.decode.model_dump(include={"gen_length", "stop_at_eos", "suppress_eos", "cache"})
    return {name: value for name, value in found.items() if name in names}


def _comparison(config: TrainConfig, folder: Path, prompts: int) -> ComparisonConfig:
    return ComparisonConfig(
        **_shared(config),
        output=str(folder / "comparison"),
        prompts=prompts,
        seeds=1,
        split="test",
    )


def _candidates(config: TrainConfig, folder: Path, gen_length: int, rules: Sequence[Cell]) -> list[Candidate]:
    """The policy at each speed, and the rules."""
    eos = {"suppress_eos": config.decode.suppress_eos, "stop_at_eos": config.decode.stop_at_eos}
    blocks = config.decode.model_dump(mode="json")["block_length"]
    own = decoding(gen_length, blocks, **eos)
    at = [own.model_copy(update={"speed": speed}) for speed in SPEEDS]
    found = [candidate(str(folder / "best"), decode) for decode in at]
    for policy, length in rules:
        found.append(candidate(policy, decoding(gen_length, length, **eos)))
    return list({entry.key: (entry, policy) for entry, policy in found}.values())


Cell = tuple[str, int | str | None]
"""A rule and its block length."""


def finalists(folder: Path) -> list[Cell]:
    """The rules that the search tried on most prompts; without a search those cloned."""
    seen: dict[Cell, int] = {}
    for row in Journal(folder / "search.jsonl").rows(COLUMNS):
        cell = (row["policy"], row["block_length"])
        seen[cell] = seen.get(cell, 0) + len(row["index"])
    if not seen:
        cloned = [line for line in read_metrics(folder / "metrics.jsonl") if line["stage"] == "clone"]
        cells = [cell for line in cloned for cell in line.get("cells", ())]
        return list(dict.fromkeys((cell["policy"], cell["block_length"]) for cell in cells))
    most = max(seen.values())
    return [cell for cell, count in seen.items() if 2 * count >= most]


def finalists_of_sweep(config: TrainConfig, folder: str, model: MaskedDiffusionModel, task: Task) -> list[Cell]:
    """The rules of a sweep that may be part of the best mixture of two."""
    tried = swept(folder, BEST + EVERY, model, task, config.decode)
    points = [Point(one.nfe.double().mean().item(), one.correct.double().mean().item(), c) for c, one in tried.items()]
    return [(one.cell.policy, plain(one.cell.block_length)) for one in near_frontier(points)]
