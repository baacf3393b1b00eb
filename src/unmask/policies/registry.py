"""Type name -> class of every kind of policy; a class is imported when it is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.policies.base import Policy

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
    "plain": "unmask.policies.wrappers:Plain",
    "random_order": "unmask.policies.random_order:RandomOrder",
    "rising_threshold": "unmask.policies.rising_threshold:RisingThreshold",
    "temperature": "unmask.policies.wrappers:Temperature",
    "top_k_confidence": "unmask.policies.top_k_confidence:TopKConfidence",
    "transformer": "unmask.policies.transformer:TransformerPolicy",
}


def class_of(type_name: str, where: str = "the policy's settings") -> type[Policy]:
    """The class of a kind of policy.

    Raises:
        UnmaskError: an unknown type, with the nearest one.
    """
    if type_name not in TYPES:
        raise UnmaskError(f"Unknown policy type {type_name!r} in {where}: {nearest(str(type_name), TYPES)}")
    module, _, class_name = TYPES[type_name].partition(":")
    found: type[Policy] = getattr(importlib.import_module(module), class_name)
    return found


def make_policy(settings: Mapping[str, Any], where: str) -> Policy:
    """Build a policy from its config; a learned one comes with fresh weights.

    Raises:
        UnmaskError: an unknown type, an unknown setting, a bad value.
    """
    values = dict(settings)
    return class_of(values.pop("type", None), where).from_config(values, where)
