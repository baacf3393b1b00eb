"""What happens between forward passes, whatever the loop is called."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from tests.device.conftest import CudaDevice, Device
from tests.device.pretend import Wait, peek
from unmask.decoding.results import Generation
from unmask.models.base import MaskedDiffusionModel


class Steps:
    """Records each forward pass of a dLLM: how often the host had waited before it, and how many rows it had."""

    def __init__(self, device: Device, model: MaskedDiffusionModel) -> None:
        self.device = device
        self._passes: list[tuple[int, int]] = []
        assert model.network is not None
        model.network.get_input_embeddings().register_forward_pre_hook(self._see)

    def _see(self, module: Any, inputs: Any) -> None:
        self._passes.append((len(self.device.waits), len(inputs[0])))

    def steady(self, least: int = 3, may_grow: bool = False) -> list[list[Wait]]:
        """The waits from each pass to the next, where no row ended or began in between.

        Args:
            least: such steps that a test must have seen.
            may_grow: rows that share passes part from each other, so that their number grows though none began.
        """
        waits = self.device.waits
        pairs = zip(self._passes, self._passes[1:], strict=False)
        found = [waits[a:b] for (a, rows), (b, then) in pairs if rows == then or (may_grow and rows < then)]
        assert len(found) >= least
        return found

    def ends(self) -> list[list[Wait]]:
        """The same where rows ended and none began."""
        waits = self.device.waits
        pairs = zip(self._passes, self._passes[1:], strict=False)
        return [waits[a:b] for (a, rows), (b, then) in pairs if rows > then]


def assert_waits(device: Device, steps: list[list[Wait]], **allowed: int) -> None:
    """In each step the host waits as often as allowed, kind by kind (on a real device: no more often in all)."""
    for step in steps:
        found = Counter(wait.kind for wait in step)
        told = "\n".join(map(str, step))
        if isinstance(device, CudaDevice):
            assert len(step) <= sum(allowed.values()), told
        else:
            assert found == Counter(allowed), told


def same_as_on_the_host(device: Device, out: Generation, host: Generation) -> None:
    """A pretended device computes what the host does, digit by digit; a real one rounds otherwise."""
    if isinstance(device, CudaDevice):
        return
    for name in ("tokens", "nfe", "revealed_at"):
        assert torch.equal(peek(getattr(out, name)), getattr(host, name)), name
    assert (out.texts, out.ended) == (host.texts, host.ended)
