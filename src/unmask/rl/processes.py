"""The processes of a run, through accelerate. With one process nothing is sent anywhere.

Every process draws the same prompts, takes its share, and rolls out at its own pace; they meet only to add up numbers
and gradients, once an optimiser step, so that roll-outs of different lengths cannot block each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

T = TypeVar("T")
Stop = Callable[[], bool]


def never() -> bool:
    """A `Stop` that does not."""
    return False


class Processes:
    """The processes that share a job.

    Args:
        accelerator: None trains alone.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index if accelerator else 0
        self.size: int = accelerator.num_processes if accelerator else 1
        self.main = self.rank == 0
        self.device = accelerator.device if accelerator else None

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every size-th item from its rank on."""
        return items[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self._accelerator is None or self.size == 1:
            return values
        return self._accelerator.reduce(values, "sum")

    def total(self, *values: float) -> list[float]:
        """`sum` of plain numbers."""
        if self.size == 1:
            return list(values)
        assert self._accelerator is not None
        return self.sum(torch.tensor(values, dtype=torch.float64, device=self._accelerator.device)).tolist()

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes in one message; a process without any adds zeros."""
        mine = list(parameters)
        for parameter in mine:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.size > 1:
            flat = self.sum(torch.cat([p.grad.flatten() for p in mine if p.grad is not None]))
            for parameter, grad in zip(mine, flat.split([p.numel() for p in mine]), strict=True):
                parameter.grad = grad.view_as(parameter)

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, those of rank 0 first."""
        return list(items) if self.size == 1 else list[Any](gather_object(list(items)))

    def any(self, flag: bool) -> bool:
        """True if it is for any process."""
        return self.total(float(flag))[0] > 0

    def wait(self) -> None:
        """Until all are here."""
        if self._accelerator is not None and self.size > 1:
            self._accelerator.wait_for_everyone()
