"""Trained policies whose decisions are cloned: several tasks' policies into one, or one network into another."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy
from unmask.policies.wrappers import Plain
from unmask.rl.cloning import Lessons, kept
from unmask.rl.processes import Processes
from unmask.rl.prompts import Prompt
from unmask.rl.rollout import roll_out
from unmask.tasks.base import Task
from unmask.tasks.mixture import MixtureTask


@dataclass(frozen=True)
class Teachers:
    """Policies to clone.

    Args:
        names: one for each task of a mixture, in its order, or one for all.
        config: how the learner decodes, and so they.
        parts: of the axis of speeds; where the policies have a speed, each prompt is decoded once in each part.
        keep: which roll-outs are cloned.
    """

    names: Sequence[str]
    model: MaskedDiffusionModel
    task: Task
    config: DecodeConfig
    parts: int
    keep: Literal["correct", "all"]
    processes: Processes

    def lessons(
        self, policy: LearnedPolicy, prompts: Sequence[Prompt], seed: int, on_ended: Callable[[int, int], None]
    ) -> dict[str, Lessons]:
        """The steps of each teacher's roll-outs of the prompts of its task, at speeds of the whole axis.

        Raises:
            UnmaskError: no trajectory of a teacher is left to clone.
        """
        tasks, found, mixed = _tasks(self.task), {}, isinstance(self.task, MixtureTask)
        names = list(self.names) * (len(tasks) if len(self.names) == 1 else 1)
        copies = self.parts if policy.needs.speed else 1
        for name, task in zip(names, tasks, strict=True):
            teacher = load_policy(name)
            teacher.place(self.model.device)
            of = [i for i, prompt in enumerate(prompts) if not mixed or prompt.example.task == task]
            rows = [(i, copy) for i in self.processes.share(of) for copy in range(copies)]
            within = [random.Random(f"{seed}/{i}/{copy}").random() for i, copy in rows]
            speeds = [(copy + share) / copies for (_, copy), share in zip(rows, within, strict=True)]
            numbers = [i * copies + copy for i, copy in rows]
            rolled = roll_out(
                self.model,
                Plain(teacher),
                self.task,
                [prompts[i].example for i, _ in rows],
                self.config,
                prompts=[prompts[i].tokens for i, _ in rows],
                seed=seed,
                streams=numbers,
                speeds=speeds if policy.needs.speed else None,
                needs=policy.needs,
                on_ended=on_ended,
            )
            nfe, right = rolled.outcome.nfe.tolist(), rolled.outcome.correct.tolist()
            lessons = kept(rolled.steps, numbers, nfe, right, self.keep, self.processes)
            if lessons is None:
                raise UnmaskError(
                    f"The teacher {name} answers no prompt of {task} correctly: choose another, or clone.keep = 'all'."
                )
            found[f"{name} on {task}"] = lessons
        return found


def _tasks(task: Task) -> list[str]:
    return list(task.tasks) if isinstance(task, MixtureTask) else [task.name]


def check_teachers(names: Sequence[str], policy: LearnedPolicy, task: Task) -> None:
    """See that the policies to clone fit the learner and its tasks.

    Raises:
        UnmaskError: too many or too few for the tasks, or one without weights or with a speed where the learner has
            none, or the other way round.
    """
    tasks = len(_tasks(task))
    if len(names) not in (0, 1, tasks):
        raise UnmaskError(f"{len(names)} clone.teachers for {tasks} task(s): give one for each, or one for all.")
    for name in names:
        teacher = load_policy(name)
        if not isinstance(teacher, LearnedPolicy):
            raise UnmaskError(f"The teacher {name} is a rule: clone it by clone.rule.")
        if teacher.needs.speed != policy.needs.speed:
            has, lacks = ("it", "the policy to train") if teacher.needs.speed else ("the policy to train", "it")
            remedy = "set policy.use_speed" if teacher.needs.speed else "unset policy.use_speed"
            raise UnmaskError(
                f"The teacher {name} cannot be cloned: {has} has a speed, and {lacks} has none; {remedy}, or choose "
                "another teacher."
            )
