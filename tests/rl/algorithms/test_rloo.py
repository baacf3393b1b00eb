"""RLOO against numbers worked out by hand."""

import pytest
import torch

from tests.rl.algorithms.batches import batch_of, scored
from unmask.rl.algorithms.rloo import RLOO, RLOOSettings, leave_one_out
from unmask.rl.config import AlgorithmConfig
from unmask.rl.processes import Processes


def test_the_baseline_is_the_mean_of_the_others():
    # (1, 0, 0.5): 1 - 0.25, 0 - 0.75, 0.5 - 0.5
    reward = torch.tensor([[1.0, 0.0, 0.5], [0.3, 0.3, 0.3]])
    assert torch.allclose(leave_one_out(reward), torch.tensor([[0.75, -0.75, 0.0], [0.0, 0.0, 0.0]]))


def test_equal_rewards_have_no_advantage_at_all():
    reward = torch.full((1, 8), (31 / 32) ** 10)  # whose mean in float32 is another number
    assert leave_one_out(reward).tolist() == [[0.0] * 8]


def test_each_step_has_its_roll_outs_advantage_and_the_sum_over_steps_counts():
    batch = batch_of(torch.tensor([[1.0, 0.0], [0.5, 0.25]]), [0, 0, 1, 2, 3, 3])
    credit = RLOO(RLOOSettings()).credit(batch, Processes())
    assert credit.advantage.tolist() == [1.0, 1.0, -1.0, 0.25, -0.25, -0.25]
    assert credit.weight.tolist() == [0.25] * 6, "a mean over four roll-outs, a sum over their steps"


def test_the_loss_by_hand():
    # -(0.25 * 1 * -0.5 + 0.25 * 1 * -1 + 0.25 * -1 * -2) = -0.125
    batch = batch_of(torch.tensor([[1.0, 0.0]]), [0, 0, 1])
    credit = RLOO(RLOOSettings()).credit(batch, Processes())
    loss, _ = RLOO(RLOOSettings()).loss(scored([-0.5, -1.0, -2.0], [0.0] * 3, credit, batch))
    assert loss.item() == pytest.approx(-(0.5 * (-0.5 - 1.0 + 2.0)))


def test_it_is_on_policy():
    with pytest.raises(ValueError, match="inner_iterations = 2"):
        AlgorithmConfig.model_validate({"name": "rloo", "inner_iterations": 2})
