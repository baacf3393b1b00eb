"""What all algorithms share."""

import pytest
import torch

from tests.rl.algorithms.batches import batch_of
from unmask.rl.algorithms.base import Credit, has_signal, step_weights, weights_of_steps
from unmask.rl.processes import Processes


def test_a_group_has_signal_where_its_rewards_differ():
    assert has_signal(torch.tensor([[1.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2]])).tolist() == [True, False]


def test_a_step_weighs_less_in_a_longer_roll_out():
    # roll-out 0 has one step, roll-out 1 three, roll-out 2 two
    rollout = torch.tensor([0, 1, 1, 2, 1, 2])
    weights = step_weights(rollout, 3)
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 9, 1 / 9, 1 / 6, 1 / 9, 1 / 6])
    assert weights.sum().item() == pytest.approx(1.0)
    assert step_weights(rollout, 3, "step").tolist() == pytest.approx([1 / 6] * 6)
    assert step_weights(rollout, 3, "step", steps=12).tolist() == pytest.approx([1 / 12] * 6)


def test_in_several_processes_a_step_weighs_as_in_one(monkeypatch):
    processes, batch = Processes(), batch_of(torch.tensor([[1.0, 0.0]]), [0, 0, 1])
    monkeypatch.setattr(processes, "total", lambda *values: [2 * value for value in values])  # two that are alike
    assert weights_of_steps(batch, processes, "rollout").tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4])
    assert weights_of_steps(batch, processes, "step").tolist() == pytest.approx([1 / 6] * 3)


def test_credit_of_some_steps():
    credit = Credit(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]), torch.tensor([True, False]))
    one = credit.take(torch.tensor([1]))
    assert (one.advantage.tolist(), one.kept.tolist(), one.target, one.value) == ([2.0], [False], None, None)
