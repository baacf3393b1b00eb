"""Several dLLMs and tasks that one policy learns on: iterations take turns with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.rl.config import TrainConfig, TrainTaskConfig
from unmask.rl.prompts import CLONED, LEARNT
from unmask.rl.run import Metrics
from unmask.rl.validation import Validate
from unmask.tasks.auto import load_task
from unmask.tasks.base import Split, Task
from unmask.tasks.config import TaskConfig
from unmask.tasks.mixture import MixtureTask

SIGN = "@"


@dataclass(frozen=True)
class Place:
    """A dLLM and a task, and what a run's settings are there."""

    config: TrainConfig
    model: MaskedDiffusionModel
    task: Task

    @property
    def name(self) -> str:
        """What tells it from others in metrics."""
        return f"{self.task.name} {SIGN} {self.model.name}"


def places_of(config: TrainConfig) -> list[TrainConfig]:
    """The settings at each of ``task.also``, ``TASK @ DLLM``; each has its share of the teachers.

    Raises:
        UnmaskError: one is written otherwise, or labels that only the first has.
    """
    if not config.task.also:
        return []
    if config.task.labels == "agreement":
        raise UnmaskError("task.also goes with gold answers, and task.labels is agreement: leave one out.")
    found, taken = [], _size(config.task.load_task())
    for each in config.task.also:
        task, sign, model = (part.strip() for part in each.partition(SIGN))
        if not (task and sign and model):
            raise UnmaskError(f"Cannot read {each!r} in task.also: write TASK @ DLLM, such as lists @ runs/lists.")
        limits = config.task.model_dump(exclude={*TaskConfig.model_fields, "also"}, exclude_unset=True)
        there = config.model_copy(
            update={
                "task": type(config.task)(task=task, **limits),
                "model": config.model.model_copy(
                    update={"model": model, "mask_id": None, "causal_block": None, "revises": False}
                ),
                "decode": config.decode.model_copy(update={"gen_length": None}),
            }
        )
        size = _size(there.task.load_task())
        found.append(_taught(there, config.clone.teachers[taken : taken + size]))
        taken += size
    if len(config.clone.teachers) not in (0, 1, taken):
        raise UnmaskError(
            f"{len(config.clone.teachers)} clone.teachers for {taken} tasks: give one for each, or one for all."
        )
    return found


def first_of(config: TrainConfig) -> TrainConfig:
    """The settings at the first place: with its own teachers."""
    if not config.task.also:
        return config
    return _taught(config, config.clone.teachers[: _size(config.task.load_task())])


def _size(task: Task) -> int:
    return len(task.tasks) if isinstance(task, MixtureTask) else 1


def _taught(config: TrainConfig, teachers: Sequence[str]) -> TrainConfig:
    one_for_all = config.clone.teachers if len(config.clone.teachers) == 1 else tuple(teachers)
    return config.model_copy(update={"clone": config.clone.model_copy(update={"teachers": one_for_all})})


def at_all(validations: Mapping[str, Validate]) -> Validate:
    """A validation at each place: means, and each place's own numbers as ``reward[lists @ runs/lists]``."""

    def validate(policy: Policy) -> Metrics:
        found = {name: one(policy) for name, one in validations.items()}
        names = [name for name in next(iter(found.values())) if all(name in each for each in found.values())]
        means: dict[str, Any] = {name: sum(each[name] for each in found.values()) / len(found) for name in names}
        for name, each in found.items():
            own = [key for key in each if key not in names]  # such as those of a mixture's tasks
            means |= {f"{key}[{name}]": each[key] for key in ("reward", "correct", "nfe", *own)}
        return means

    return validate


def had_a_part(asked: TrainTaskConfig, cloned: int, split: Split | None) -> frozenset[str]:
    """Prompts that a training takes at its places: those that teach the policy, and those that choose it.

    Args:
        cloned: training prompts of the warm start.
        split: of which; None for all.

    Raises:
        UnmaskError: as the tasks' `examples`.
    """
    taken = {
        "train": [(asked.train_examples, LEARNT), (cloned, CLONED)],
        "validation": [(asked.validation_prompts, LEARNT)],
    }
    tasks = [asked.load_task(), *(load_task(each.partition(SIGN)[0].strip()) for each in asked.also)]
    return frozenset(
        example.prompt
        for task in tasks
        for name, draws in taken.items()
        for n, seed in draws
        if split in (None, name) and n
        for example in task.examples(name, n, seed)
    )
