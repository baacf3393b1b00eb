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
from unmask.hub import find_policy_folder, read_config, read_weights
from unmask.policies.base import Policy
from unmask.policies.released import from_released, is_released
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.settings import build, parse_spec

TYPES = {
    "beta_scaling": "unmask.policies.wrappers:BetaScaling",
    "confidence_threshold": "unmask.policies.confidence_threshold:ConfidenceThreshold",
    "entropy_bound": "unmask.policies.entropy_bound:EntropyBound",
    "factor": "unmask.policies.factor:Factor",
    "fixed_schedule": "unmask.policies.fixed_schedule:FixedSchedule",
    "klass": "unmask.policies.klass:KLASS",
    "margin_threshold": "unmask.policies.top_2_margin:MarginThreshold",
    "margin_top_k": "unmask.policies.top_2_margin:MarginTopK",
    "max_reveal": "unmask.policies.wrappers:MaxReveal",
    "min_reveal": "unmask.policies.wrappers:MinReveal",
    "mode": "unmask.policies.wrappers:Mode",
    "random_order": "unmask.policies.random_order:RandomOrder",
    "rising_threshold": "unmask.policies.rising_threshold:RisingThreshold",
    "temperature": "unmask.policies.wrappers:Temperature",
    "top_k_confidence": "unmask.policies.top_k_confidence:TopKConfidence",
    "transformer": "unmask.policies.transformer:TransformerPolicy",
}

DEFAULT_POLICY = "house-base-full"


def load_policy(name_or_path: str | Path | Mapping[str, Any] | None = None) -> Policy:
    """Load a policy of any kind.

    Args:
        name_or_path: None for the bundled default; a bundled name; a folder that `Policy.save` wrote; a safetensors
            file, or a folder with one, in the layout of the paper's released checkpoints; a Hub id; a rule
            with its settings, ``"confidence_threshold:threshold=0.8"`` or ``{"type": ..., "threshold": 0.8}``; any of
            these in wrappers, inside out, ``"house-base-full | temperature:tau=0.5 | max_reveal:n=8"``.

    Raises:
        UnmaskError: no such policy, an unknown type or setting, a corrupt or foreign checkpoint.
    """
    if isinstance(name_or_path, Mapping):
        return make_policy(name_or_path, "the policy's settings")
    name = DEFAULT_POLICY if name_or_path is None else str(name_or_path)
    inside, bar, wrapper = name.rpartition("|")
    if bar and not Path(name).exists():
        return make_policy({**parse_spec(wrapper), "policy": inside.strip()}, f"the policy {name!r}")
    if name.partition(":")[0] in TYPES and not Path(name).exists():
        return make_policy(parse_spec(name), f"the policy {name!r}")
    if ":" in name:
        type_name = name.partition(":")[0]
        raise UnmaskError(f"Unknown policy type {type_name!r}: {nearest(type_name, TYPES)}")
    if name.endswith(".safetensors") and Path(name).is_file():
        return _load_released(Path(name))
    try:
        folder = find_policy_folder(name)
    except UnmaskError as e:
        hint = nearest(name, TYPES)
        raise UnmaskError(f"{e} For a rule, {hint}" if hint.startswith("did you mean") else str(e)) from None
    released = None if (folder / "config.json").exists() else _only_weights(folder)
    if released is not None:
        return _load_released(released)
    policy = make_policy(read_config(folder), str(folder / "config.json"))
    weights = folder / "model.safetensors"
    if policy.weights() is not None or weights.exists():
        policy.load_weights(read_weights(weights), str(weights))
    return policy


def _only_weights(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None


def _load_released(path: Path) -> Policy:
    weights = read_weights(path)
    if not is_released(weights):
        raise UnmaskError(
            f"{path} has no config.json beside it, and its tensors are not named as in a released checkpoint "
            "('base_policy.'...): give a folder that `policy.save` wrote."
        )
    config, ours = from_released(weights, str(path))
    policy = make_policy(config, str(path))
    policy.load_weights(ours, str(path))
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
    cls = _class_of(type_name)
    if cls is TransformerPolicy:
        return TransformerPolicy(
            build(TransformerConfig, values, where=where, known=set(TransformerConfig.model_fields))
        )
    return build(cls, values, where=where, known={field.name for field in dataclasses.fields(cls)})


def defaults(type_name: str) -> dict[str, Any]:
    """The settings of a rule that need not be given."""
    cls = _class_of(type_name)
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _class_of(type_name: str) -> Any:
    module, _, class_name = TYPES[type_name].partition(":")
    return getattr(importlib.import_module(module), class_name)
