"""Optimiser steps: the gradient does not depend on how steps are chunked."""

import pytest
import torch

from tests.rl.test_trainer import collected
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.algorithms.base import Credit, Expert, weights_of_steps


@pytest.mark.parametrize("variant", [{}, {"kl_weight": 0.5, "normalisation": "step"}, {"experts": (Expert(),)}])
def test_the_gradient_does_not_depend_on_the_chunking(tiny, tmp_path, variant):
    gradients = []
    for size in (7, 1000):
        changes = {"update_batch_size": size, "inner_iterations": 1, "max_grad_norm": 1e9, **variant}
        run, batch = collected(tiny, tmp_path / str(size), **changes)
        torch.manual_seed(1)
        run.optimiser.reference = TransformerPolicy() if variant.get("kl_weight") else None
        advantage = torch.randn(len(batch.expert), generator=torch.Generator().manual_seed(0))[batch.steps.rollout]
        weight = weights_of_steps(batch, run.team, variant.get("normalisation", "rollout"))
        run.optimiser.learn(batch, Credit(advantage, weight, advantage != 0), lr=1e-4)
        gradients.append(torch.cat([p.grad.flatten() for p in run.policy.parameters()]))
    assert gradients[0].norm() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)
