"""Checkpoints in the layout the paper's authors release: one safetensors file, every tensor behind `base_policy.`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unmask.errors import UnmaskError

PREFIX = "base_policy."


def is_released(weights: Mapping[str, Tensor]) -> bool:
    """True if the tensors are named as in a released checkpoint."""
    return any(name.startswith(PREFIX) for name in weights)


def from_released(weights: Mapping[str, Tensor], where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A released checkpoint as this project saves policies.

    Sizes are read from the shapes. The released time features have P = 1 and are rounded to bfloat16. The tensors tell
    neither another P nor how actions are drawn: Bernoulli, unless the user says so.

    Returns:
        The config with its type, and the tensors under our names; the rotary buffer is left out.

    Raises:
        UnmaskError: tensors are missing that tell the sizes.
    """
    ours = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    rotary = {name: ours.pop(name) for name in list(ours) if name.endswith(".inv_freq")}
    try:
        width, top_k = ours["confidence_proj.weight"].shape
        feed_forward = len(ours["transformer_blocks.0.linear1.weight"])
        heads = width // (2 * len(rotary["transformer_blocks.0.inv_freq"]))
        time_size = ours["time_mlp.0.weight"].shape[1]
    except KeyError as e:
        raise UnmaskError(
            f"{where} has the layout of a released checkpoint but lacks the tensor '{PREFIX}{e.args[0]}': "
            "it was saved from another architecture."
        ) from None
    config = {
        "type": "transformer",
        "top_k": top_k,
        "width": width,
        "heads": heads,
        "feed_forward": feed_forward,
        "blocks": len(rotary),
        "time_size": None if time_size == width else time_size,
        "time_period": 1.0,
        "round_time": True,
    }
    return config, ours
