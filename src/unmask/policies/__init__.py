"""Unmasking policies: rules and learned networks, all one kind of object."""

from unmask.policies.actions import DPLS, Actions, Bernoulli
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy, Policy, PolicySettings, Rule, StochasticPolicy, rule
from unmask.policies.confidence_threshold import ConfidenceThreshold
from unmask.policies.entropy_bound import EntropyBound
from unmask.policies.factor import Factor
from unmask.policies.fixed_schedule import FixedSchedule, average_pace
from unmask.policies.klass import KLASS
from unmask.policies.random_order import RandomOrder
from unmask.policies.ranking import largest, ranking, surest
from unmask.policies.rising_threshold import RisingThreshold
from unmask.policies.top_2_margin import MarginThreshold, MarginTopK
from unmask.policies.top_k_confidence import TopKConfidence
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.policies.wrappers import BetaScaling, MaxReveal, MinReveal, Mode, Plain, Temperature, Wrapper

__all__ = [
    "DPLS",
    "KLASS",
    "Actions",
    "Bernoulli",
    "BetaScaling",
    "ConfidenceThreshold",
    "EntropyBound",
    "Factor",
    "FixedSchedule",
    "LearnedPolicy",
    "MarginThreshold",
    "MarginTopK",
    "MaxReveal",
    "MinReveal",
    "Mode",
    "Plain",
    "Policy",
    "PolicySettings",
    "RandomOrder",
    "RisingThreshold",
    "Rule",
    "StochasticPolicy",
    "Temperature",
    "TopKConfidence",
    "TransformerConfig",
    "TransformerPolicy",
    "Wrapper",
    "average_pace",
    "largest",
    "load_policy",
    "ranking",
    "rule",
    "surest",
]
