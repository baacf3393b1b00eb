"""Unmasking policies: rules and learned networks, all one kind of object."""

from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.policies.confidence_threshold import ConfidenceThreshold
from unmask.policies.random_order import RandomOrder
from unmask.policies.top_k_confidence import TopKConfidence
from unmask.policies.transformer import TransformerConfig, TransformerPolicy

__all__ = [
    "ConfidenceThreshold",
    "Policy",
    "RandomOrder",
    "TopKConfidence",
    "TransformerConfig",
    "TransformerPolicy",
    "load_policy",
]
