"""`load_policy`: type name -> class, from a folder, a name, a spec string or a mapping.

A new rule is one file here and one line in `TYPES`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.hub import find_policy_folder, load_strictly, read_config, read_weights
from unmask.policies.base import Policy
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.settings import build

TYPES = {
    "random_order": "unmask.policies.random_order:RandomOrder",
    "top_k_confidence": "unmask.policies.top_k_confidence:TopKConfidence",
    "confidence_threshold": "unmask.policies.confidence_threshold:ConfidenceThreshold",
    "transformer": "unmask.policies.transformer:TransformerPolicy",
}

DEFAULT_POLICY = "house-base-full"


def load_policy(name_or_path: str | Path | Mapping[str, Any] | None = None) -> Policy:
    """Load a policy of any kind.

    Args:
        name_or_path: None for the bundled default; a bundled name; a folder that `Policy.save` wrote; a Hub id; a rule
            with its settings, ``"confidence_threshold:threshold=0.8"`` or ``{"type": ..., "threshold": 0.8}``.

    Raises:
        UnmaskError: no such policy, an unknown type or setting, a corrupt or foreign checkpoint.
    """
    if isinstance(name_or_path, Mapping):
        return make_policy(name_or_path, "the policy's settings")
    name = DEFAULT_POLICY if name_or_path is None else str(name_or_path)
    type_name, _, settings = name.partition(":")
    if type_name in TYPES and not Path(name).exists():
        return make_policy({"type": type_name, **_parse(settings, name)}, f"the policy {name!r}")
    if settings:
        raise UnmaskError(f"Unknown policy type {type_name!r}: {nearest(type_name, TYPES)}")
    folder = find_policy_folder(name)
    policy = make_policy(read_config(folder), str(folder / "config.json"))
    if isinstance(policy, TransformerPolicy):
        load_strictly(policy, read_weights(folder / "model.safetensors"), str(folder / "model.safetensors"))
        policy.eval()
    return policy


def make_policy(settings: Mapping[str, Any], where: str) -> Policy:
    """Build a policy from its config; a learned one comes with fresh weights.

    Raises:
        UnmaskError: an unknown type, an unknown setting, a bad value.
    """
    values = dict(settings)
    type_name = values.pop("type", None)
    if type_name not in TYPES:
        raise UnmaskError(f"Unknown policy type {type_name!r} in {where}: {nearest(str(type_name), TYPES)}")
    module, _, class_name = TYPES[type_name].partition(":")
    cls = getattr(importlib.import_module(module), class_name)
    if cls is TransformerPolicy:
        return TransformerPolicy(
            build(TransformerConfig, values, where=where, known=set(TransformerConfig.model_fields))
        )
    return build(cls, values, where=where, known={field.name for field in dataclasses.fields(cls)})


def _parse(settings: str, name: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in settings.split(",") if pair]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise UnmaskError(f"Cannot read the policy {name!r}: write it as type:key=value,key=value.")
    return {key.strip(): value.strip() for key, _, value in pairs}
