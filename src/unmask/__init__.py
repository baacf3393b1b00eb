"""Learn, evaluate and run unmasking policies for masked diffusion language models."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask import policies, testing
    from unmask.decoding.blocks import AdaptiveBlocks
    from unmask.decoding.generate import generate
    from unmask.decoding.options import DecodeConfig
    from unmask.decoding.results import Completion, Generation
    from unmask.decoding.step import see
    from unmask.errors import UnmaskError
    from unmask.models.auto import load_model
    from unmask.policies.auto import load_policy
    from unmask.tasks.auto import load_task

__version__ = version("unmask")

__all__ = [
    "AdaptiveBlocks",
    "Completion",
    "DecodeConfig",
    "Generation",
    "UnmaskError",
    "__version__",
    "generate",
    "load_model",
    "load_policy",
    "load_task",
    "policies",
    "see",
    "testing",
]

_HOME = {
    "AdaptiveBlocks": "unmask.decoding.blocks",
    "Completion": "unmask.decoding.results",
    "DecodeConfig": "unmask.decoding.options",
    "Generation": "unmask.decoding.results",
    "UnmaskError": "unmask.errors",
    "generate": "unmask.decoding.generate",
    "load_model": "unmask.models.auto",
    "load_policy": "unmask.policies.auto",
    "load_task": "unmask.tasks.auto",
    "see": "unmask.decoding.step",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a task, or `unmask --help`, needs no torch."""
    if name in ("policies", "testing"):
        return importlib.import_module(f"unmask.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
