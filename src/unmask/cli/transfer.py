"""`unmask transfer`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le, MinLen
from cyclopts import Parameter
from pydantic import BeforeValidator, Field
from rich.table import Table

from unmask.cli.common import ConfigFile, DryRun
from unmask.cli.comparison import SPEEDS, ComparisonConfig, compare, verifiable
from unmask.cli.console import console
from unmask.errors import UnmaskError, nearest
from unmask.evaluation.differences import Outcomes, paired_difference
from unmask.evaluation.entries import Candidate, candidate
from unmask.evaluation.findings import TransferResult
from unmask.evaluation.summaries import Results, outcomes, summary
from unmask.files import write_text
from unmask.models.config import ModelConfig
from unmask.settings import Output, Settings, load_settings
from unmask.tasks.base import Task
from unmask.tasks.config import TaskConfig

Several = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value), MinLen(1)
]


class Target(ModelConfig, TaskConfig):
    """Where policies are tried: a dLLM, a length and a task."""

    name: str
    native: Annotated[Several, Field(description="The policy trained there; several are its training seeds.")]
    policies: Annotated[tuple[str, ...], Field(description="Names of those tried there (default: all).")] = ()
    gen_length: Annotated[int | None, Ge(1), Field(description="Region length (default: the task's).")] = None
    block_length: Annotated[int | str | None, Field(description="Default: full diffusion.")] = None


class TransferConfig(Settings):
    """Policies and where they are tried; both stand in the TOML file."""

    output: Annotated[Output, Field(description="Folder for a folder of rows per target, and transfer.json.")] = (
        "runs/transfer"
    )
    policies: Annotated[
        dict[str, Several], Parameter(parse=False), Field(description="Name -> policy, or its training seeds.")
    ] = {}
    targets: Annotated[tuple[Target, ...], Parameter(parse=False), Field(description="Where they are tried.")] = ()
    prompts: Annotated[int, Ge(2), Field(description="Prompts per target.")] = 500
    seeds: Annotated[int, Ge(1), Field(description="Decoding seeds of policies that draw.")] = 1
    speeds: Annotated[
        tuple[Annotated[float, Ge(0), Le(1)], ...],
        Field(description="Of policies with a speed (default: 0, 0.25, 0.5, 0.75 and 1)."),
    ] = SPEEDS
    batch_size: Annotated[int | None, Ge(1), Field(description="Active rows at most.")] = None


def transfer(
    *,
    settings: Annotated[TransferConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the output folder.", negative="")] = False,
    dry_run: DryRun = False,
) -> None:
    """What policies lose where they were not trained, against one that was."""
    resolved = load_settings(TransferConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    _check(resolved)
    plans = [(target, *_plan(resolved, target)) for target in resolved.targets]
    if dry_run:
        for target, _, _, candidates in plans:
            console.print(f"{target.name}: {', '.join(candidates)}", highlight=False)
        return
    found: list[TransferResult] = []
    for target, comparison, task, candidates in plans:
        console.rule(target.name, align="left")
        begun = (Path(comparison.output) / "config.json").exists()
        everyone = {entry.key: (entry, policy) for group in candidates.values() for entry, policy in group}
        gen_length = task.region(comparison.gen_length)
        made = compare(comparison, task, gen_length, list(everyone.values()), resume=resume and begun)
        if made is not None:
            found += _against_native(target, candidates, made.results)
    if found:
        path = Path(resolved.output) / "transfer.json"
        write_text(path, json.dumps({"transfers": [asdict(one) for one in found]}, indent=2) + "\n")
        console.print(matrix(found))
        console.print(f"With everything else: unmask report {resolved.output} -o report.html", highlight=False)


def _check(config: TransferConfig) -> None:
    if not config.policies or not config.targets:
        raise UnmaskError("Nothing to transfer: give a --config with [policies] and [[targets]].")
    if taken := next((name for name in config.policies if name.startswith(NATIVE)), None):
        raise UnmaskError(f"{NATIVE!r} is what the native policy is called: give {taken!r} another name.")
    folders = [_folder(target.name) for target in config.targets]
    for target in config.targets:
        if folders.count(_folder(target.name)) > 1:
            raise UnmaskError(
                f"Two targets are called {target.name!r}, or so but for signs: give each a name of its own."
            )
        for name in target.policies:
            if name not in config.policies:
                raise UnmaskError(
                    f"The target {target.name!r} tries an unknown policy {name!r}: {nearest(name, config.policies)}"
                )


NATIVE = "trained there"


def _plan(config: TransferConfig, target: Target) -> tuple[ComparisonConfig, Task, dict[str, list[Candidate]]]:
    """A target's comparison and, by name, the policies tried there."""
    where = target.model_dump(exclude={"name", "native", "policies", "block_length"}, exclude_unset=True)
    folder = Path(config.output) / _folder(target.name)
    comparison = ComparisonConfig(
        **where,
        output=str(folder),
        prompts=config.prompts,
        seeds=config.seeds,
        batch_size=config.batch_size,
    )
    task = verifiable(comparison)
    gen_length = task.region(target.gen_length)
    (decode,) = comparison.decodings(gen_length, [target.block_length or comparison.usual_blocks(gen_length)])
    tried = {NATIVE: target.native, **{name: config.policies[name] for name in target.policies or config.policies}}
    found: dict[str, list[Candidate]] = {}
    for name, paths in tried.items():
        for entry, policy in (candidate(one, decode) for one in paths):
            for speed in config.speeds if policy.needs.speed else (None,):
                at = replace(entry, decode=entry.decode.model_copy(update={"speed": speed}))
                found.setdefault(_at(name, speed), []).append((at, policy))
    return comparison, task, found


def _at(name: str, speed: float | None) -> str:
    return name if speed is None else f"{name} at speed {speed:g}"


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _against_native(
    target: Target, candidates: Mapping[str, Sequence[Candidate]], results: Results
) -> list[TransferResult]:
    rows = {entry.key: rows for entry, rows in results}
    groups = {name: together([outcomes(rows[entry.key]) for entry, _ in group]) for name, group in candidates.items()}
    natives = {_speed(candidates[name]): name for name in groups if name.startswith(NATIVE)}
    found = []
    for name, group in groups.items():
        # One with a speed is compared at it; where only one of the two has speeds, the native's slowest counts.
        rival = natives.get(_speed(candidates[name]), next(iter(natives.values())))
        native = groups[rival]
        accuracy, nfe = summary(group)
        loss, slower = (paired_difference(a, b) for a, b in ((group.correct, native.correct), (group.nfe, native.nfe)))
        found.append(TransferResult(name, target.name, accuracy, nfe, loss, slower, native=name == rival))
    return found


def _speed(group: Sequence[Candidate]) -> float | None:
    return group[0][0].decode.speed


def together(policies: Sequence[Outcomes]) -> Outcomes:
    """Training seeds as the seeds of one policy: each one's mean over its decoding seeds."""
    return Outcomes(
        torch.stack([one.correct.mean(dim=0) for one in policies]),
        torch.stack([one.nfe.mean(dim=0) for one in policies]),
    )


def matrix(found: Sequence[TransferResult]) -> Table:
    """Policies by targets: points of accuracy lost, and forward passes more."""
    targets = list(dict.fromkeys(one.target for one in found))
    grid = Table(
        title="Accuracy % @ NFE where each was tried, and the difference to the policy trained there",
        title_justify="left",
    )
    grid.add_column("policy")
    for target in targets:
        grid.add_column(target)
    for policy in dict.fromkeys(one.policy for one in found):
        shown = {one.target: one for one in found if one.policy == policy}
        grid.add_row(policy, *(_tried(shown[target]) if target in shown else "" for target in targets))
    return grid


def _tried(one: TransferResult) -> str:
    reached = f"{100 * one.accuracy.mean:.1f} @ {one.nfe.mean:.1f}"
    if one.native:
        return reached
    loss = f"{100 * one.loss.mean:+.1f} ({100 * one.loss.low:+.1f} to {100 * one.loss.high:+.1f})"
    return f"{reached}\n{loss}\nNFE {one.slower.mean:+.1f}"
