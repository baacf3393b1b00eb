"""What made a result: versions and hardware."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

PACKAGES = ("unmask", "torch", "transformers", "accelerate", "safetensors")


def versions() -> dict[str, str]:
    """Of Python, this package and what it stands on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware(device: torch.device) -> str:
    """What ran it: another kind may round otherwise."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else name
