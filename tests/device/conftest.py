"""The device that a test runs on: a pretended one always, a real one under `pytest -m gpu` as well."""

from __future__ import annotations

import warnings
from types import TracebackType

import pytest
import torch
from benchmarks.published import DREAM, LLADA, tiny, write

from tests.device.pretend import PretendDevice, Wait

TEXTS = ["Natalia sold clips to 48 of her friends. How many clips did she sell altogether?", "go red porch, blue hall."]


class CudaDevice:
    """The same face on a CUDA device; torch itself says where the host waits (not all of it: not in `unique`)."""

    place = torch.device("cuda:0")

    def __enter__(self) -> CudaDevice:
        torch.cuda.init()
        self._catcher = warnings.catch_warnings(record=True)
        self._caught = self._catcher.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._catcher.__exit__(kind, error, trace)

    @property
    def waits(self) -> list[Wait]:
        """So far, in order."""
        synchronised = [w for w in self._caught if "synchronizing CUDA operation" in str(w.message)]
        return [Wait("synchronised", f"{w.filename}:{w.lineno}") for w in synchronised]


Device = PretendDevice | CudaDevice


@pytest.fixture(params=["pretend", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    with PretendDevice() if request.param == "pretend" else CudaDevice() as device:
        yield device


@pytest.fixture(scope="session")
def folders(tiny_folder, tmp_path_factory) -> dict[str, str]:
    """Tiny dLLMs by family, as they are loaded."""
    found = {"masked-lm": tiny_folder}
    for family, config in (("llada", LLADA), ("dream", DREAM)):
        folder = tmp_path_factory.mktemp(family) / "tiny"
        write(folder, {**tiny(config), "torch_dtype": "float32"}, TEXTS, scale=0.3)
        found[family] = str(folder)
    return found
