"""What a run starts with: its policy, and the policies that show it something."""

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
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
    with pytest.raises(UnmaskError, match=r"architecture than the policy asked for \(blocks = 1, not 2\): leave out"):
        starting_policy(policy_config(init=str(tmp_path / "p"), blocks=2), tiny)
    with pytest.raises(UnmaskError, match="is a confidence_threshold policy, which has no weights to train"):
        starting_policy(policy_config(init="confidence_threshold"), tiny)


def test_settings_that_nobody_gave_are_as_they_are_found(tiny, tmp_path):
    TransformerPolicy(TransformerConfig(width=32)).save(tmp_path / "p")
    for table in ({}, {"type": "transformer"}, {"width": 32}, {"type": "transformer", "width": 32}):
        assert starting_policy(policy_config(init=str(tmp_path / "p"), **table), tiny).settings.width == 32
    with pytest.raises(UnmaskError, match=r"\(width = 32, not 64\)"):
        starting_policy(policy_config(init=str(tmp_path / "p"), width=64), tiny)
