"""The processes of a run, through accelerate. With one process nothing is sent anywhere.

Every process draws the same prompts, takes its share, and rolls out at its own pace; they meet only to add up numbers
and gradients, once an optimiser step, so that roll-outs of different lengths cannot block each other.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn

from unmask.errors import UnmaskError, explain_system

T = TypeVar("T")
Stop = Callable[[], bool]


def never() -> bool:
    """A `Stop` that does not."""
    return False


class _ToldError(UnmaskError):
    """What all processes know already."""


class Processes:
    """The processes that share a job.

    Args:
        accelerator: None trains alone.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        if accelerator is not None:
            # Else torch's threads end with the interpreter, which aborts some processes whose work is done.
            atexit.register(accelerator.state.destroy_process_group)
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index if accelerator else 0
        self.size: int = accelerator.num_processes if accelerator else 1
        self.main = self.rank == 0
        self.device = accelerator.device if accelerator else None

    @classmethod
    def launched(cls) -> Processes:
        """Those that a launcher, such as `accelerate launch`, has started; this one alone where there was none."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        patience = InitProcessGroupKwargs(timeout=timedelta(weeks=4))  # who is done early waits for the others
        return cls(Accelerator(kwargs_handlers=[patience]))

    @contextmanager
    def together(self, on_error: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Work after which all processes meet. What stops one stops all: the first says why, and all exit with 2.

        Within the block, processes meet in further such blocks only: an error is told at the next meeting.

        Args:
            on_error: called where the error is found, before the others are waited for.

        Raises:
            UnmaskError: in the first process, the first error that any has found; a process is gone.
            SystemExit: in the others.
        """
        problem = None
        try:
            yield
        except _ToldError:
            raise
        except (UnmaskError, OSError) as e:
            if self.size == 1:
                raise
            on_error()
            problem = explain_system(e) if isinstance(e, OSError) else str(e)
        if self.size == 1:
            return
        try:
            problems = [one for one in self.gather([problem]) if one]
        except RuntimeError:
            raise _ToldError("Another process of this run is gone: go on with --resume.") from None
        if problems and not self.main:
            time.sleep(1)  # a launcher ends all with the first that leaves: the sentence is told before
            raise SystemExit(2)
        if problems:
            raise _ToldError(problems[0])

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
