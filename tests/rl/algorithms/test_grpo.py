"""GRPO's mathematics against numbers worked out by hand."""

import math

import pytest
import torch

from tests.rl.algorithms.batches import batch_of, scored
from unmask.rl.algorithms.base import Credit
from unmask.rl.algorithms.grpo import (
    GRPO,
    GRPOSettings,
    clipped_loss,
    group_advantages,
    is_clipped,
    root_mean_square,
    with_experts,
)
from unmask.rl.processes import Processes


def test_advantages_are_not_divided_by_the_deviation():
    reward = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2]])
    expected = torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(group_advantages(reward), expected)


def test_a_group_without_signal_has_no_advantage_at_all():
    reward = torch.full((1, 8), (31 / 32) ** 10)  # whose mean in float32 is another number
    for scaling in ("none", "group"):
        assert group_advantages(reward, scaling).tolist() == [[0.0] * 8]


def test_advantages_divided_by_the_deviation():
    # deviation of (1, 0, 0.5, 0.5) with n - 1: sqrt(0.5 / 3) = 0.40825
    reward = torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2]])
    found = group_advantages(reward, "group")
    assert found[0].tolist() == pytest.approx([0.5 / 0.40825, -0.5 / 0.40825, 0, 0], rel=1e-4)
    assert found[1].tolist() == [0.0] * 4


def test_one_divisor_for_the_batch():
    assert root_mean_square(9.0 + 16.0, 4) == 2.5
    assert root_mean_square(0.0, 4) == 1.0


@pytest.mark.parametrize("log_ratio", [-1e4, -100.0, 88.8, 100.0, 1e4])
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_the_loss_is_finite_at_any_ratio(log_ratio, advantage):
    log_prob = torch.tensor([log_ratio], requires_grad=True)
    loss = clipped_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), 0.2)
    loss.backward()
    assert loss.isfinite()
    assert log_prob.grad.isfinite().all()
    if advantage > 0 and log_ratio > 0:
        assert (loss.item(), log_prob.grad.item()) == (pytest.approx(-1.2), 0.0)


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
    assert is_clipped(ratio, advantage, 0.5).tolist() == [False, True, False, False, True]


def test_clipped_steps_carry_no_gradient():
    log_prob = torch.tensor([2.0, -2.0, 2.0], requires_grad=True)
    clipped_loss(log_prob, torch.zeros(3), torch.tensor([1.0, -1.0, -1.0]), torch.ones(3), 0.5).backward()
    assert log_prob.grad[:2].tolist() == [0.0, 0.0]
    assert log_prob.grad[2].item() == pytest.approx(torch.tensor(2.0).exp().item())


def test_an_experts_step_has_the_likelihood_of_the_mixture():
    # G = 8, one expert: pi = 0.5 -> 8/9 * 0.5 + 1/9 = 5/9; two experts: 8/10 * 0.5 + 1/10 = 0.5
    log_prob, expert = torch.tensor([math.log(0.5), math.log(0.5), -50.0]), torch.tensor([True, False, True])
    one = with_experts(log_prob, expert, 8, 1).exp()
    assert one.tolist() == pytest.approx([5 / 9, 0.5, 1 / 9])
    two = with_experts(log_prob, expert, 8, 2).exp()
    assert two.tolist() == pytest.approx([0.5, 0.5, 0.1])
    assert with_experts(log_prob, expert, 8, 0) is log_prob


def test_an_impossible_experts_step_still_teaches():
    log_prob = torch.tensor([-3.0], requires_grad=True)
    expert = torch.tensor([True])
    new = with_experts(log_prob, expert, 8, 1)
    clipped_loss(new, new.detach(), torch.tensor([0.5]), torch.ones(1), 0.5).backward()
    share = 8 * math.exp(-3) / (8 * math.exp(-3) + 1)
    assert log_prob.grad.item() == pytest.approx(-0.5 * share, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "advantage", "weight"),
    [
        # reward minus its group's mean: 0.5, -0.5, 0, 0; their root mean square: sqrt(0.5 / 4) = 0.353553
        ({}, [1.414214, 1.414214, -1.414214, 0.0, 0.0], [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4]),
        ({"scale_advantages": "none", "normalisation": "step"}, [0.5, 0.5, -0.5, 0.0, 0.0], [1 / 5] * 5),
        # the deviation of (1, 0) with n - 1 is 0.707107
        ({"scale_advantages": "group"}, [0.707107, 0.707107, -0.707107, 0.0, 0.0], [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4]),
    ],
)
def test_credit_by_hand(settings, advantage, weight):
    # roll-out 0 has two steps, the others one; the second group has no signal
    batch = batch_of(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), [0, 0, 1, 2, 3])
    credit = GRPO(GRPOSettings(**settings)).credit(batch, Processes())
    assert credit.advantage.tolist() == pytest.approx(advantage, rel=1e-5)
    assert credit.weight.tolist() == pytest.approx(weight)
    assert credit.kept.tolist() == [True, True, True, False, False]


def test_the_loss_by_hand():
    # ratios 2, 1: -(0.5 * min(2, 1.5) - 0.25 * 1) = -0.5
    batch = batch_of(torch.tensor([[1.0, 0.0]]), [0, 1])
    credit = Credit(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.25]), torch.ones(2) > 0)
    loss, logged = GRPO(GRPOSettings(clip=0.5)).loss(scored([math.log(2.0), 0.0], [0.0, 0.0], credit, batch))
    assert loss.item() == pytest.approx(-0.5)
    assert logged["clip_share"].tolist() == [True, False]
