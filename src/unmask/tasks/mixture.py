"""Several tasks as one."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from unmask.errors import UnmaskError
from unmask.tasks.base import Example, Task, check_count


class MixtureTask(Task):
    """Examples of several tasks, each verified by its own.

    Without weights a mixture is the union: n examples are drawn from all of them, so that each task has its share by
    size. With weights each has its share of n by weight. No example is drawn twice.

    Args:
        weights: a number > 0 for each task; needed if a task's prompts are drawn and have no end.

    Raises:
        UnmaskError: fewer than two tasks, two of one name, or weights that do not fit.
    """

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float] | None = None) -> None:
        names = [task.name for task in tasks]
        if len(tasks) < 2:
            raise UnmaskError("A mixture needs two tasks or more: name them, as in 'gsm8k+math'.")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UnmaskError(f"Two tasks of the mixture are called {twice!r}: name each once.")
        if weights is not None and len(weights) != len(tasks):
            raise UnmaskError(f"{len(weights)} weights for {len(tasks)} tasks: give one for each.")
        if weights is not None and not all(0 < weight < math.inf for weight in weights):
            raise UnmaskError(f"Weights must be numbers above 0, not {list(weights)}.")
        self.tasks = {task.name: task for task in tasks}
        self.weights = None if weights is None else [weight / sum(weights) for weight in weights]
        self.name = "+".join(names)
        self.gen_length = max(task.gen_length for task in tasks)
        for task in tasks:
            if task.gen_length != self.gen_length:
                try:
                    task.region(self.gen_length)
                except UnmaskError:
                    raise UnmaskError(
                        f"A mixture has one region, of {self.gen_length} positions here, and {task.name!r} fills one "
                        f"of {task.gen_length}: evaluate them one by one, or train on them in turns (task.also)."
                    ) from None
        self.block_length = math.gcd(*(task.block_length for task in tasks))  # divides the region that is longest
        self.verifiable = all(task.verifiable for task in tasks)

    def examples(self, split: str | None = None, n: int | None = None, seed: int = 0) -> list[Example]:
        """n examples in an order of the seed's, of which fewer are the first; without n all of the union in the order
        of the tasks, or as many as the weights allow.

        Raises:
            UnmaskError: as its tasks' `examples`; a task has too few for its weight.
        """
        check_count(n)
        endless = [name for name, task in self.tasks.items() if task.endless]
        if endless and (self.weights is None or n is None):
            raise UnmaskError(
                f"The prompts of {endless[0]!r} are drawn and have no end: give weights, and say how many."
            )
        if self.weights is None:
            union = [example for name in self.tasks for example in self._all(name, split)]
            return union if n is None else _shuffled(union, f"{self.name}/{split}/{seed}")[:n]
        order = self._order(self.weights, split, n)
        drawn = {name: iter(self._draw(name, split, count, seed)) for name, count in Counter(order).items()}
        return [next(drawn[name]) for name in order]

    def prepare(self) -> None:
        for task in self.tasks.values():
            task.prepare()

    def verify(self, example: Example, text: str) -> bool:
        return self._task_of(example).verify(example, text)

    def verify_all(self, examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
        right = [False] * len(examples)
        for name in {example.task: None for example in examples}:
            places = [i for i, example in enumerate(examples) if example.task == name]
            chosen = [examples[i] for i in places]
            verdicts = self._task_of(chosen[0]).verify_all(chosen, [texts[i] for i in places])
            for i, verdict in zip(places, verdicts, strict=True):
                right[i] = verdict
        return right

    def _task_of(self, example: Example) -> Task:
        if example.task not in self.tasks:
            raise UnmaskError(f"The mixture {self.name!r} has no task {example.task!r}: verify examples of its own.")
        return self.tasks[example.task]

    def _all(self, name: str, split: str | None, n: int | None = None, seed: int = 0) -> list[Example]:
        return [replace(example, task=name) for example in self.tasks[name].examples(split, n, seed)]

    def _order(self, weights: Sequence[float], split: str | None, n: int | None) -> list[str]:
        """Whose turn it is, n times: the task's that has had least of its share; without n as often as all can."""
        if n is None:
            sizes = [len(self._all(name, split)) for name in self.tasks]
            n = math.floor(min(size / weight for size, weight in zip(sizes, weights, strict=True)) + 1e-9)
        shares = dict(zip(self.tasks, weights, strict=True))
        order, counts = [], dict.fromkeys(shares, 0)
        for turn in range(1, n + 1):
            name = max(shares, key=lambda name: round(turn * shares[name] - counts[name], 9))
            counts[name] += 1
            order.append(name)
        return order

    def _draw(self, name: str, split: str | None, count: int, seed: int) -> list[Example]:
        endless = self.tasks[name].endless
        found = self._all(name, split, count, seed) if endless else self._all(name, split)
        if len(found) < count:
            raise UnmaskError(
                f"{name} has {len(found)} {split or 'test'} examples, and its weight asks for {count}: ask for "
                "fewer, or lower the weight."
            )
        return found if endless else _shuffled(found, f"{self.name}/{split}/{seed}/{name}")[:count]


def _shuffled(examples: Sequence[Example], seed: str) -> list[Example]:
    return random.Random(seed).sample(examples, len(examples))
