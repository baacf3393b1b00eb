"""`unmask calibrate`: measure a policy of every speed, and put the table into its folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from cyclopts import Parameter
from pydantic import Field
from rich.table import Table

from unmask.cli.common import ConfigFile
from unmask.cli.comparison import ComparisonConfig, compare
from unmask.cli.console import console
from unmask.decoding.options import JUDGED, DecodeConfig
from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import calibration_entries, promises, table_of
from unmask.files import read_object, write_text
from unmask.hub import find_policy_folder
from unmask.models.auto import DEFAULT_MODEL
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.calibration import Calibration, Labels, write_calibration
from unmask.rl.config import TrainTaskConfig
from unmask.rl.labels import SlowAnswers
from unmask.rl.places import had_a_part
from unmask.settings import load_settings
from unmask.tasks.base import Split, Task


class CalibrateConfig(ComparisonConfig):
    """A policy of every speed, and on what it is measured."""

    policies: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    policy: Annotated[str | None, Field(description="Folder of the policy, or of the run that trained it.")] = None
    output: Annotated[
        str | None, Field(description="Folder for the rows (default: calibration-... beside a run's best/, by place).")
    ] = None  # type: ignore[assignment]
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        Field(
            description="Split of the prompts (default: validation; all rows where a task has one file). Those that "
            "had a part in the policy of a run are left out."
        ),
    ] = None
    prompts: Annotated[int, Ge(2), Field(description="Prompts, n: the more, the more can be promised.")] = 400
    seeds: Annotated[Literal[1], Parameter(parse=False)] = 1
    trajectories: Annotated[Literal[0], Parameter(parse=False)] = 0
    bounds: Annotated[Literal[False], Parameter(parse=False)] = False
    block_length: Annotated[str | None, Field(description="Block length (default: full diffusion).")] = None
    block_lengths: Annotated[tuple[int | str, ...], Parameter(parse=False)] = ()
    speeds: Annotated[tuple[float, ...], Parameter(parse=False)] = ()
    labels: Annotated[
        Literal["verifier", "agreement"] | None,
        Field(description="What is right: the verifier's verdict, or the answer of speed 0 (default where none is)."),
    ] = None
    new_axis: Annotated[
        bool, Field(description="Let equal steps of speed be equal steps of log NFE here; other tables are dropped.")
    ] = False


def calibrate(
    *,
    settings: Annotated[CalibrateConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the rows.", negative="")] = False,
) -> None:
    """Measure forward passes and accuracy at every speed of a policy, for --target-nfe and --max-drop.

    Example: unmask calibrate --policy runs/mine --model GSAI-ML/LLaDA-8B-Instruct --task gsm8k
    """
    resolved = load_settings(CalibrateConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    if resolved.policy is None:
        raise UnmaskError("Nothing to calibrate: give --policy, the folder of a policy with a speed.")
    for name in JUDGED:
        if getattr(resolved, name):
            raise UnmaskError(f"A calibration is of decoding as it is by default: leave out {name}.")
    folder = find_policy_folder(resolved.policy)
    if not Path(resolved.policy).exists():
        raise UnmaskError(
            f"The table is written into the policy's folder, and {resolved.policy} is no folder of yours: save it into "
            "one first (unmask.load_policy(...).save('runs/mine'))."
        )
    if not os.access(folder, os.W_OK):
        raise UnmaskError(f"The table is written into {folder}, which cannot be written: calibrate a copy of it.")
    policy = load_policy(folder)
    if not isinstance(policy, LearnedPolicy) or not policy.needs.speed:
        raise UnmaskError(f"The policy {resolved.policy} has no speed to calibrate: unmask tune trains one that has.")
    table = measure(resolved, folder, policy, resume=resume)
    if table is not None:
        show(table)
        console.print(f"Written to {folder / 'calibration.json'}.", highlight=False, soft_wrap=True)


calibrate.__annotations__["settings"] = Annotated[CalibrateConfig | None, Parameter(name="*")]


def measure(
    config: CalibrateConfig,
    folder: Path,
    policy: LearnedPolicy,
    *,
    resume: bool,
    task: Task | None = None,
    model: MaskedDiffusionModel | None = None,
) -> Calibration | None:
    """Decode at every speed, and write the table and, if it has none, the axis of speeds into the policy's folder.

    Args:
        task: in place of the one that the settings name.
        model: the dLLM if it is loaded already.

    Returns:
        None in all processes but the first.
    """
    task = task or config.load_task()
    verified: Labels = "slow_decode" if isinstance(task, SlowAnswers) else "verifier"
    labels: Labels = config.labels or (verified if task.verifiable else "agreement")
    if labels == "verifier" and not task.verifiable:
        raise UnmaskError(f"The task {task.name!r} has no verifier: pass --verifier, or --labels agreement.")
    gen_length = task.region(config.gen_length)
    (decode,) = config.decodings(gen_length, [config.block_length or config.usual_blocks(gen_length)])
    entries = calibration_entries(str(folder), policy, decode)
    split = config.split or (None if config.from_file else "validation")
    own = {"output", "policies", "split", "prompts", "seeds", "trajectories"}
    shared = config.model_dump(include=set(ComparisonConfig.model_fields) - own, exclude_unset=True)
    output = config.output or str(_rows_folder(folder, config, task.name, decode))
    how = {"split": split, "prompts": config.prompts, "seeds": 1, "trajectories": 0, "output": output}
    seen = frozenset[str]()
    if "skip" not in config.model_fields_set:
        if skip := _begun_with(Path(output), resume):
            how["skip"] = skip
        else:
            seen = _had_a_part(folder, split)
    comparison = ComparisonConfig(**shared, **how)
    found = compare(comparison, task, gen_length, entries, resume=resume, model=model, seen=seen)
    if found is None:
        return None
    axis = None if config.new_axis else policy.settings.speed_axis or None
    made, table = table_of(policy, found.results, labels=labels, axis=axis)
    if axis is None:
        set_axis(folder, made)
    write_calibration(folder, table, keep=made == policy.settings.speed_axis)
    return table


def _rows_folder(policy: Path, config: CalibrateConfig, task: str, decode: DecodeConfig) -> Path:
    """Of the rows of a place, so that each has its own."""
    model = Path(config.model or DEFAULT_MODEL).name
    blocks = decode.model_dump(mode="json")["block_length"]
    cache = f"-{config.cache}" if config.cache else ""
    name = re.sub(r"[^\w.+-]+", "_", f"calibration-{model}-{task}-{decode.region()}-{blocks}{cache}")
    return (policy.parent if policy.name == "best" else policy) / name


def _begun_with(output: Path, resume: bool) -> int:
    """Prompts that a calibration of an earlier version skipped, which goes on with those that it has."""
    begun = output / "config.json"
    return int(read_object(begun, "delete the folder").get("skip", 0)) if resume and begun.exists() else 0


def _had_a_part(policy: Path, split: Split | None) -> frozenset[str]:
    """The prompts that trained this policy of a run, or chose it, which measure it too well."""
    run = policy.parent / "config.json"
    if policy.name != "best" or not run.exists():
        return frozenset()
    values = read_object(run, "calibrate a saved copy of the policy")
    asked = TrainTaskConfig.model_validate(values.get("task", {}))
    with suppress(UnmaskError):  # its data may have moved
        return had_a_part(asked, values.get("clone", {}).get("examples", 0), split)
    return frozenset()


def set_axis(folder: Path, axis: Sequence[tuple[float, float]]) -> None:
    """Write the axis of speeds into a saved policy's config.json."""
    path = folder / "config.json"
    values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**values, "speed_axis": axis}, indent=2) + "\n")


def show(table: Calibration) -> None:
    """The table, and what it promises."""
    grid = Table(
        title=f"{table.model} on {table.task}: {table.prompts} prompts, {table.gen_length} positions, "
        f"blocks of {table.block_length}" + ("" if table.cache == "default" else f", {table.cache} cache"),
        title_justify="left",
        header_style="bold",
    )
    for name in ("speed", "NFE", f"{table.judged}, %", "95% interval"):
        grid.add_column(name, justify="right")
    for row in table.rows:
        interval = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        grid.add_row(f"{row.speed:.2f}", f"{row.nfe:.2f}", f"{100 * row.accuracy:.1f}", interval)
    console.print(grid)
    counts = [row.nfe for row in table.rows]
    if max(counts) < 1.05 * min(counts):
        console.print(
            f"Every speed takes about {counts[0]:.1f} forward passes: nothing is traded here.", highlight=False
        )
    for sentence in promises(table):
        console.print(f"- {sentence}", highlight=False)
