"""Batches made by hand."""

import torch

from unmask.observation import Observation
from unmask.rl.algorithms.base import Batch, Scored
from unmask.rl.rollout import Steps


def batch_of(reward, rollout, step=None, length=4):
    """Steps of these roll-outs; `step` of each, 0 by default."""
    s = len(rollout)
    masked = torch.ones(s, length, dtype=torch.bool)
    when = torch.tensor(step or [0] * s) / length
    confidence = torch.linspace(0.1, 0.9, s * length).view(s, length, 1)
    seen = Observation(confidence, masked, masked, when, torch.zeros(s, length))
    steps = Steps(seen, torch.ones(s, length, dtype=torch.int16), torch.tensor(rollout))
    part = torch.zeros(len(reward), dtype=torch.long)
    return Batch(steps, reward, torch.zeros(reward.numel(), dtype=torch.bool), part)


def scored(log_prob, old, credit, batch):
    own = torch.ones(len(log_prob), dtype=torch.bool)
    return Scored(torch.tensor(log_prob), torch.tensor(old), credit, own, batch.steps.observation)
