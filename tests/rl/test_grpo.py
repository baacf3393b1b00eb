"""GRPO's mathematics against numbers worked out by hand."""

import pytest
import torch

from unmask.rl.grpo import clip_share, clipped_loss, group_advantages, has_signal, step_weights
from unmask.rl.rewards import multiplicative


def test_multiplicative_reward():
    correct = torch.tensor([True, True, True, False, True])
    nfe = torch.tensor([1, 17, 32, 1, 40])
    # (32 - nfe + 1) / 32: 1, 0.5, 1/32, -, 1/32
    assert multiplicative(correct, nfe, 32, 1.0).tolist() == pytest.approx([1.0, 0.5, 0.03125, 0.0, 0.03125])
    assert multiplicative(correct, nfe, 32, 3.0).tolist() == pytest.approx([1.0, 0.125, 0.03125**3, 0.0, 0.03125**3])
    assert multiplicative(correct, nfe, 32, 0.0).tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_advantages_are_not_divided_by_the_deviation():
    reward = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2]])
    expected = torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(group_advantages(reward), expected)
    assert has_signal(reward).tolist() == [True, False]


def test_a_step_weighs_less_in_a_longer_roll_out():
    # roll-out 0 has one step, roll-out 1 three, roll-out 2 two
    weights = step_weights(torch.tensor([0, 1, 1, 2, 1, 2]), 3)
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 9, 1 / 9, 1 / 6, 1 / 9, 1 / 6])
    assert weights.sum().item() == pytest.approx(1.0)


def test_clipped_loss_by_hand():
    # ratios 1, 2, 2, 0.25, 0.25 with clip 0.5:
    #   A +1, ratio 1    -> min(1, 1)           = 1
    #   A +1, ratio 2    -> min(2, 1.5)         = 1.5   (clipped)
    #   A -1, ratio 2    -> min(-2, -1.5)       = -2
    #   A +1, ratio 0.25 -> min(0.25, 0.5)      = 0.25
    #   A -1, ratio 0.25 -> min(-0.25, -0.5)    = -0.5  (clipped)
    ratio = torch.tensor([1.0, 2.0, 2.0, 0.25, 0.25])
    advantage = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    weight = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])
    loss = clipped_loss(ratio.log(), torch.zeros(5), advantage, weight, 0.5)
    assert loss.item() == pytest.approx(-(0.1 * 1 + 0.2 * 1.5 - 0.3 * 2 + 0.2 * 0.25 - 0.2 * 0.5))
    assert clip_share(ratio.log(), torch.zeros(5), advantage, 0.5) == pytest.approx(2 / 5)


def test_clipped_steps_carry_no_gradient():
    log_prob = torch.tensor([2.0, -2.0, 2.0], requires_grad=True)
    clipped_loss(log_prob, torch.zeros(3), torch.tensor([1.0, -1.0, -1.0]), torch.ones(3), 0.5).backward()
    assert log_prob.grad[:2].tolist() == [0.0, 0.0]
    assert log_prob.grad[2].item() == pytest.approx(torch.tensor(2.0).exp().item())
