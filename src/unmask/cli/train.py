"""`unmask train` and `unmask clone`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from accelerate import Accelerator
from cyclopts import Parameter
from pydantic.fields import FieldInfo

from unmask.cli.common import ConfigFile, DryRun, Resume
from unmask.cli.console import Stop, Ticker, console, errors, ticking
from unmask.cli.costs import describe_costs
from unmask.cli.flags import SECOND, flags_of, given
from unmask.errors import UnmaskError
from unmask.files import write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.policies.base import LearnedPolicy
from unmask.policies.registry import policy_types
from unmask.rl.algorithms.auto import load_algorithm, names
from unmask.rl.card import card, describe
from unmask.rl.config import (
    AlgorithmConfig,
    CloneConfig,
    PolicyConfig,
    RunConfig,
    TrainConfig,
    TrainDecodeConfig,
    TrainTaskConfig,
)
from unmask.rl.labels import FILE, SlowAnswers
from unmask.rl.places import Place, at_all, places_of
from unmask.rl.processes import Processes
from unmask.rl.prompts import LEARNT, fitting
from unmask.rl.run import Metrics, by_dots
from unmask.rl.trainer import Trainer
from unmask.rl.validation import Validate, validator
from unmask.settings import load_settings
from unmask.tasks.base import Task

# Cyclopts would show what has no group before all else.
START = Parameter(group=SECOND)
AllowChanges = Annotated[bool, START, Parameter(help="Resume with settings that have changed since.", negative="")]
SHORT = {
    "model.model": "--model",
    "task.task": "--task",
    "decode.block_length": "--block-length",
    "decode.gen_length": "--gen-length",
    "clone.rule": "--clone-from",
    "algorithm.name": "--algorithm",
    "algorithm.alpha": "--alpha",
    "algorithm.lr": "--lr",
    "run.folder": "--run",
    "run.iterations": "--iterations",
}
FLAT = ("model", "task", "decode", "run")


def tables() -> dict[str, dict[str, FieldInfo]]:
    """Every setting of every table; of networks and algorithms those that any of them has."""
    networks = [found.Config for found in policy_types().values() if issubclass(found, LearnedPolicy)]
    algorithms = [load_algorithm(name).Settings for name in names()]
    chosen: dict[str, dict[str, FieldInfo]] = {"policy": {}, "algorithm": {}}
    for table, classes in (("policy", networks), ("algorithm", algorithms)):
        for cls in reversed(classes):
            chosen[table] |= cls.model_fields
    own = {name: field for name, field in PolicyConfig.model_fields.items() if name != "network"}
    name = {"name": AlgorithmConfig.model_fields["name"]}
    return {
        "model": ModelConfig.model_fields,
        "task": TrainTaskConfig.model_fields,
        "decode": TrainDecodeConfig.model_fields,
        "policy": own | chosen["policy"],
        "clone": CloneConfig.model_fields,
        "algorithm": name | chosen["algorithm"],
        "run": RunConfig.model_fields,
    }


TrainFlags = flags_of("TrainFlags", tables(), FLAT, SHORT)


def train(
    *,
    settings: Annotated[Any, Parameter(name="*")] = None,
    config: Annotated[ConfigFile, START] = None,
    resume: Annotated[Resume, START] = False,
    allow_changes: AllowChanges = False,
    dry_run: Annotated[DryRun, START] = False,
) -> None:
    """Train an unmasking policy on a dLLM and a task.

    Example: unmask train --config configs/train/house-full.toml --run runs/mine --alpha 3
    """
    asked = load_settings(TrainConfig, config, given(settings))
    asked = asked.in_blocks(asked.model.own_blocks)
    _run(asked, resume, allow_changes, dry_run)


def clone(
    *,
    settings: Annotated[Any, Parameter(name="*")] = None,
    config: Annotated[ConfigFile, START] = None,
    resume: Annotated[Resume, START] = False,
    dry_run: Annotated[DryRun, START] = False,
) -> None:
    """Fit a policy to a rule's decisions, without reinforcement learning.

    Example: unmask clone --clone-from best:confidence_threshold --alpha 3 --run runs/clone
    """
    asked = load_settings(TrainConfig, config, given(settings))
    asked = asked.in_blocks(asked.model.own_blocks)
    if not asked.clones:
        raise UnmaskError("Nothing to clone: set clone.rule, such as confidence_threshold:threshold=0.9.")
    run = asked.run.model_copy(update={"iterations": 0})
    _run(asked.model_copy(update={"run": run}), resume, False, dry_run)


# Made from the settings' own classes, which a type checker cannot follow.
train.__annotations__["settings"] = Annotated[TrainFlags | None, Parameter(name="*")]
clone.__annotations__["settings"] = train.__annotations__["settings"]


def _run(config: TrainConfig, resume: bool, allow_changes: bool, dry_run: bool) -> None:
    if dry_run:
        describe_costs(config, int(os.environ.get("WORLD_SIZE", "1")))
        return
    train_policy(config, resume=resume, allow_changes=allow_changes)


def train_policy(config: TrainConfig, *, resume: bool, allow_changes: bool = False) -> None:
    """A run, with progress in the terminal, a card for its policy, and trackers.

    Raises:
        Stopped: the user stopped it.
    """
    accelerator = Accelerator(log_with=list(_installed(config)) or None, project_dir=config.run.folder)
    if not accelerator.is_main_process:
        console.quiet = errors.quiet = True
    processes = Processes(accelerator)
    task = config.task.load_task()
    task.examples("train", 1)  # refused before the dLLM is loaded
    task.prepare()
    model = config.model.load(None if config.model.device_map else accelerator.device)
    console.print(model.summary(), highlight=False, soft_wrap=True)
    if config.task.labels == "agreement":
        console.print(
            "Right is what the dLLM answers when it reveals one position a pass: each prompt is decoded so once."
        )
    task = judged(task, model, config, processes.rank)
    also = [_place(there, accelerator.device) for there in places_of(config)]
    validations = {
        place.name: _validator(place.config, place.model, place.task, processes)
        for place in (Place(config, model, task), *also)
    }
    validate = at_all(validations) if also else next(iter(validations.values()))
    gen_length = config.decode.region(task, model)
    console.print(describe(config, model.name, task.name, gen_length), highlight=False)
    with (
        ticking("training", max(config.run.iterations, 1)) as tick,
        Stop() as stop,
        _tracking(accelerator, config) as track,
    ):

        def log(metrics: Metrics) -> None:
            show(metrics, tick)
            track(metrics)

        trainer = Trainer(config, model, task, validate, log, processes, tick.stage, also)
        trainer.run(resume=resume, allow_changes=allow_changes, stop=stop)
    if processes.main:
        text = card(config, model.name, task.name, gen_length)
        write_text(trainer.keeper.folder.path / "best" / "README.md", text)
    progress = trainer.keeper.progress
    surer = f", logits divided by {progress.temperature:g}" if progress.temperature not in (None, 1.0) else ""
    console.print(
        f"The best policy is in {config.run.folder}/best (validation reward {progress.best:.3f}{surer}).",
        highlight=False,
    )


def judged(task: Task, model: MaskedDiffusionModel, config: TrainConfig, rank: int = 0) -> Task:
    """The task with the labels that training asks for; slow answers are kept in the run folder, by process."""
    if config.task.labels == "verifier":
        return task
    kept = Path(config.run.folder) / (f"{rank}-{FILE}" if rank else FILE)
    return SlowAnswers(task, model, config.decode, config.task.max_prompt_length, kept)


def _place(config: TrainConfig, device: Any) -> Place:
    """A further dLLM with its task."""
    task = config.task.load_task()
    task.prepare()
    model = config.model.load(None if config.model.device_map else device)
    console.print(f"In turns with {task.name} on {model.summary()}", highlight=False, soft_wrap=True)
    return Place(config.in_blocks(model.block_length), model, task)


def _validator(config: TrainConfig, model: MaskedDiffusionModel, task: Task, processes: Processes) -> Validate:
    limits, settings = config.task, config.algorithm.settings
    examples = task.examples("validation", limits.validation_prompts, LEARNT)
    length = config.decode.region(task, model)
    prompts, note = fitting(model, examples, length, limits.max_prompt_length, limits.long_prompts)
    if note:
        errors.print(f"Validation: {note}", style="yellow", highlight=False)
    return validator(model, task, prompts, config.decode, settings, processes)


def _installed(config: TrainConfig) -> tuple[str, ...]:
    """The trackers asked for.

    Raises:
        UnmaskError: one is not installed.
    """
    for name in config.run.trackers:
        if find_spec(name) is None:
            raise UnmaskError(
                f"The tracker {name!r} is not installed: pip install {name}, or leave it out of trackers."
            )
    return config.run.trackers


@contextmanager
def _tracking(accelerator: Accelerator, config: TrainConfig) -> Iterator[Callable[[Metrics], None]]:
    """Send numbers to the trackers, under stage/name, by iteration."""
    if not config.run.trackers:
        yield lambda metrics: None
        return
    asked = by_dots(config.model_dump(mode="json"))
    flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in asked.items()}
    accelerator.init_trackers("unmask", config=flat)

    def track(metrics: Metrics) -> None:
        numbers = {f"{metrics['stage']}/{key}": float(v) for key, v in metrics.items() if isinstance(v, int | float)}
        accelerator.log(numbers, step=metrics["iteration"])

    try:
        yield track
    finally:
        accelerator.end_training()


def show(metrics: Metrics, tick: Ticker) -> None:
    """One stage's metrics, on the progress bar or as a line."""
    if "signal" in metrics:  # an iteration, of whatever algorithm
        note = f"reward {metrics['reward']:.3f}  correct {metrics['correct']:4.0%}  NFE {metrics['nfe']:4.1f}"
        tick(metrics["iteration"], note)
    elif metrics["stage"] == "clone":
        tick.restart()
        console.print(
            f"cloned {metrics['steps']} steps of {metrics['rule']} in blocks of {metrics['block_length']} in "
            f"{metrics['seconds']:.0f} s (it is right on {metrics['expert_correct']:.0%}), loss {metrics['loss']:.3f}",
            highlight=False,
        )
    elif metrics["stage"] in ("collapse", "note"):
        errors.print(metrics["message"], style="yellow", highlight=False)
    else:
        kept = "temperature" in metrics
        console.print(
            (
                f"the best at temperature {metrics['temperature']:g}"
                if kept
                else f"validation at {metrics['iteration']:>3}"
            )
            + f": reward {metrics['reward']:.3f}, correct {metrics['correct']:.1%}, NFE {metrics['nfe']:.1f}",
            highlight=False,
        )
