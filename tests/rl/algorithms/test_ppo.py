"""PPO against numbers worked out by hand, and its value head."""

import math

import pytest
import torch

from tests.rl.algorithms.batches import batch_of, scored
from tests.rl.runs import checkpoint, trainer
from tests.rl.tasks import Easy
from unmask.rl.algorithms.base import Credit
from unmask.rl.algorithms.ppo import PPO, PPOSettings, generalised_advantages
from unmask.rl.processes import Processes

REWARD = torch.tensor([1.0, 0.25])
# roll-out 0 has three steps, roll-out 1 one; in no order
VALUE, ROLLOUT, STEP = torch.tensor([0.5, 0.2, 0.1, 0.6]), torch.tensor([0, 0, 1, 0]), torch.tensor([1, 0, 0, 2])


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        # differences: 0.5 - 0.2 = 0.3; 0.6 - 0.5 = 0.1; 1 - 0.6 = 0.4; and 0.25 - 0.1 = 0.15
        (0.0, [0.1, 0.3, 0.15, 0.4]),
        (1.0, [0.5, 0.8, 0.15, 0.4]),
        (0.5, [0.1 + 0.5 * 0.4, 0.3 + 0.5 * (0.1 + 0.5 * 0.4), 0.15, 0.4]),
    ],
)
def test_advantages_by_hand(gae_lambda, expected):
    found = generalised_advantages(REWARD, VALUE, ROLLOUT, STEP, gae_lambda)
    assert found.tolist() == pytest.approx(expected)


def test_roll_outs_of_different_lengths_in_any_order():
    # values by roll-out: (0.25, 0.5, 0.75, 1), (0.5), (0, 0.25); rewards 1, 0, 0.5; lambda 0.5
    # first: 0 at the last step, then 0.25 + 0.5 * 0, 0.25 + 0.5 * 0.25, 0.25 + 0.5 * 0.375
    reward = torch.tensor([1.0, 0.0, 0.5])
    value = torch.tensor([0.25, 0.5, 0.75, 1.0, 0.5, 0.0, 0.25])
    rollout, step = torch.tensor([0, 0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 2, 3, 0, 0, 1])
    expected = torch.tensor([0.4375, 0.375, 0.25, 0.0, -0.5, 0.25 + 0.5 * 0.25, 0.25])
    for order in (torch.arange(7), torch.tensor([6, 3, 0, 4, 2, 5, 1]), torch.arange(7).flip(0)):
        found = generalised_advantages(reward, value[order], rollout[order], step[order], 0.5)
        assert found.tolist() == pytest.approx(expected[order].tolist())


def test_credit_is_normalised_over_the_batch_and_aims_the_value_head_at_the_return():
    ppo = PPO(PPOSettings(gae_lambda=1.0))
    batch = batch_of(torch.tensor([[1.0, 0.25]]), ROLLOUT.tolist(), STEP.tolist())
    credit = ppo.credit(batch, Processes())
    assert credit.target.tolist() == pytest.approx([1.0, 1.0, 0.25, 1.0], abs=1e-6), "the return, at lambda 1"
    assert credit.advantage.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert credit.advantage.square().mean().item() == pytest.approx(1.0, abs=1e-4)
    assert credit.weight.tolist() == [0.25] * 4
    assert credit.kept.all()


def test_the_loss_by_hand():
    ppo = PPO(PPOSettings(clip=0.2, value_weight=0.5))
    with torch.no_grad():
        for parameter in ppo.value.parameters():
            parameter.zero_()
        ppo.value.layers[-1].bias.fill_(0.5)  # it says 0.5 of every state
    batch = batch_of(torch.tensor([[1.0, 0.0]]), [0, 1])
    credit = Credit(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]), torch.ones(2) > 0, torch.tensor([1.0, 0.0]))
    # ratios 2 and 1: min(2, 1.2) = 1.2 and -1; errors 0.25 each
    loss, logged = ppo.loss(scored([math.log(2.0), 0.0], [0.0, 0.0], credit, batch))
    assert loss.item() == pytest.approx(-(0.5 * 1.2 - 0.5 * 1.0) + 0.5 * 0.25)
    assert logged["value_error"].tolist() == pytest.approx([0.25, 0.25])
    assert logged["clip_share"].tolist() == [True, False]


def test_the_value_head_learns_however_small_the_policys_learning_rate(tiny, tmp_path):
    seen = []
    changes = {"name": "ppo", "iterations": 12, "lr": 5e-5, "warmup": 0, "clone_rule": "none"}
    changes |= {"reward": "correctness", "force_progress": True}  # every roll-out earns 1
    trainer(tiny, tmp_path / "run", Easy(), log=seen.append, **changes).run()
    errors = [m["value_error"] for m in seen if m["stage"] == "ppo"]
    assert sum(errors[-3:]) < 0.8 * sum(errors[:3]), "at the policy's own it rises"


def test_the_value_head_is_kept(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", name="ppo", clone_rule="none")
    run.run()
    again = trainer(tiny, tmp_path / "run", name="ppo", clone_rule="none")
    torch.nn.init.zeros_(again.algorithm.value.layers[0].weight)
    assert again.keeper.resume(again.optimiser, allow_changes=False)
    for name, value in run.algorithm.value.state_dict().items():
        assert torch.equal(value, again.algorithm.value.state_dict()[name])
    assert (checkpoint(tmp_path / "run") / "algorithm.safetensors").exists()


def test_the_value_head_has_a_learning_rate_of_its_own(tiny, tmp_path):
    run = trainer(tiny, tmp_path / "run", name="ppo", lr=1e-4, value_lr=2e-3)
    policy, value = run.optimiser.optimizer.param_groups
    assert (policy["share"], value["share"]) == (1.0, pytest.approx(20.0))
    assert {id(p) for p in value["params"]} == {id(p) for p in run.algorithm.value.parameters()}
    assert {id(p) for p in policy["params"]} == {id(p) for p in run.policy.parameters()}
