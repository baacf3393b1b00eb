"""What a run starts with: its policy, and the policies that show it something."""

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.config import PolicyConfig
from unmask.rl.start import starting_policy


def policy_config(**table):
    return PolicyConfig.model_validate(table)


def test_training_goes_on_from_a_policy(tiny, tmp_path):
    torch.manual_seed(5)
    start = TransformerPolicy()
    start.save(tmp_path / "p")
    policy = starting_policy(policy_config(init=str(tmp_path / "p")), tiny)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), policy.parameters(), strict=True))
    with pytest.raises(UnmaskError, match="has another architecture than the policy asked for"):
        starting_policy(policy_config(init=str(tmp_path / "p"), blocks=2), tiny)
    with pytest.raises(UnmaskError, match="is a confidence_threshold policy, which has no weights to train"):
        starting_policy(policy_config(init="confidence_threshold"), tiny)
