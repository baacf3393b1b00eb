"""Unmasking policies: rules and learned networks, all one kind of object.

Every kind of policy is here by the name of its class: `__getattr__` finds it in its module, so a rule is one file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmask.policies.actions import DPLS, Actions, Bernoulli
from unmask.policies.auto import load_policy
from unmask.policies.base import Grid, LearnedPolicy, Policy, PolicySettings, Rule, StochasticPolicy, rule
from unmask.policies.ranking import ranking, topk_positions
from unmask.policies.registry import policy_types
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.policies.wrappers import (
    BetaScaling,
    Dilated,
    MaxReveal,
    MinReveal,
    Mode,
    Plain,
    Revising,
    Temperature,
    Wrapper,
)

if TYPE_CHECKING:  # for type checkers and editors alone: a rule that is not named here works all the same
    from unmask.policies.confidence_threshold import ConfidenceThreshold as ConfidenceThreshold
    from unmask.policies.entropy_bound import EntropyBound as EntropyBound
    from unmask.policies.exclusive import Exclusive as Exclusive
    from unmask.policies.factor import Factor as Factor
    from unmask.policies.fixed_schedule import FixedSchedule as FixedSchedule
    from unmask.policies.klass import KLASS as KLASS
    from unmask.policies.origin import Origin as Origin
    from unmask.policies.random_order import RandomOrder as RandomOrder
    from unmask.policies.rising_threshold import RisingThreshold as RisingThreshold
    from unmask.policies.step_count import StepCount as StepCount
    from unmask.policies.top_2_margin import MarginThreshold as MarginThreshold
    from unmask.policies.top_2_margin import MarginTopK as MarginTopK
    from unmask.policies.top_k_confidence import TopKConfidence as TopKConfidence
    from unmask.policies.top_k_entropy import EntropyTopK as EntropyTopK

__all__ = [
    "DPLS",
    "Actions",
    "Bernoulli",
    "BetaScaling",
    "Dilated",
    "Grid",
    "LearnedPolicy",
    "MaxReveal",
    "MinReveal",
    "Mode",
    "Plain",
    "Policy",
    "PolicySettings",
    "Revising",
    "Rule",
    "StochasticPolicy",
    "Temperature",
    "TransformerConfig",
    "TransformerPolicy",
    "Wrapper",
    "load_policy",
    "policy_types",
    "ranking",
    "rule",
    "topk_positions",
]


def __getattr__(name: str) -> Any:
    """A kind of policy by the name of its class."""
    if not name.startswith("_"):
        for found in policy_types().values():
            if found.__name__ == name:
                return found
    raise AttributeError(f"module 'unmask.policies' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(found.__name__ for found in policy_types().values())})
