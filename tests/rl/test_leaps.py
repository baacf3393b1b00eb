"""Leaps and bold steps: what they reveal, what they cost, and that they find what chance does not."""

import pytest
import torch

from tests.rl.runs import collected, trainer
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.observation import Observation
from unmask.policies.base import LearnedPolicy
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.rl.collect import Collector
from unmask.rl.leaps import Bold
from unmask.rl.prompts import Prompt
from unmask.rl.rewards import load_reward
from unmask.tasks.auto import load_task
from unmask.testing import ExactModel


def of_shuffles(leaps=0, bold=0, actions="bernoulli", group=4, seed=3):
    task = load_task("lists:operation=shuffle,items=5")
    model = ExactModel(task)
    torch.manual_seed(0)
    policy = TransformerPolicy(TransformerConfig(actions=actions)).eval()
    config = DecodeConfig(stop_at_eos=False)
    collector = Collector(
        model, task, config, load_reward("multiplicative", 1.0), policy, policy, [], group, leaps=leaps, bold=bold
    )
    prompts = [Prompt(one, model.encode(one.prompt)) for one in task.examples("train", 6)]
    return collector.collect(list(enumerate(prompts)), seed=seed)


@pytest.mark.parametrize("actions", ["bernoulli", "dpls"])
def test_a_leap_is_a_roll_out_cut_short_that_costs_no_pass(actions):
    plain, found = of_shuffles(actions=actions), of_shuffles(leaps=2, actions=actions)
    assert (found.passes, found.passes_run) == (plain.passes, plain.passes_run)
    assert torch.equal(found.batch.reward[:, :4], plain.batch.reward)
    assert found.batch.reward.shape == (6, 6)
    steps = found.batch.steps
    for prompt in range(6):
        own = [steps.take(steps.rollout == 6 * prompt + i) for i in range(4)]
        for leap in (steps.take(steps.rollout == 6 * prompt + i) for i in (4, 5)):
            last = leap.picks[-1]
            assert torch.equal(last > 0, leap.observation.selectable[-1]), "its last step reveals all"
            if actions == "dpls":
                assert sorted(last[last > 0].tolist()) == list(range(1, int((last > 0).sum()) + 1))
            source = [one for one in own if len(one) >= len(leap)]
            assert any(
                torch.equal(one.observation.masked[: len(leap)], leap.observation.masked)
                and torch.equal(one.picks[: len(leap) - 1], leap.picks[:-1])
                for one in source
            ), "before that it is one of the policy's own"


def test_only_what_earns_more_than_its_group_is_learnt_from_as_the_policys_own():
    found = of_shuffles(leaps=2, bold=1, seed=2)
    reward, expert = found.batch.reward, found.batch.expert.view(6, 7)
    assert not expert[:, :4].any()
    assert torch.equal(~expert[:, 4:], (reward > reward.mean(dim=1, keepdim=True))[:, 4:])
    assert expert.any()
    assert not expert[:, 4:].all()


def test_what_a_leap_answers_is_what_the_pass_predicted():
    """An exact dLLM writes its likeliest item everywhere at once, which is no shuffle; only the last one is right."""
    found = of_shuffles(leaps=4, group=8)
    steps, reward = found.batch.steps, found.batch.reward
    for prompt in range(6):
        for member in range(8, 12):
            leap = steps.take(steps.rollout == 12 * prompt + member)
            left = int(leap.observation.selectable[-1].sum())
            assert (reward[prompt, member] > 0) == (left == 1), "items left exclude each other"


def test_a_bold_step_reveals_any_number_of_the_largest_logits():
    class Falling(LearnedPolicy):
        type_name = "falling"
        Config = TransformerConfig

        def __init__(self):
            torch.nn.Module.__init__(self)
            self.settings = TransformerConfig()

        @property
        def actions(self):
            return TransformerPolicy(self.settings).actions

        def logits(self, observation):
            return torch.arange(8.0).flip(0).expand(observation.masked.shape).contiguous()

    rows = 4000
    seen = Observation(
        confidence=torch.full((rows, 8, 1), 0.5),
        masked=torch.ones(rows, 8, dtype=torch.bool),
        selectable=torch.ones(rows, 8, dtype=torch.bool),
        step_fraction=torch.zeros(rows),
        noise=torch.rand(rows, 8, generator=torch.Generator().manual_seed(0)),
    )
    logits = Bold(Falling()).logits(seen)
    bold = logits.abs().amax(dim=1) > 20
    assert 0.46 < bold.float().mean() < 0.54
    count = (logits[bold] > 0).sum(dim=1)
    assert count.bincount().tolist()[0] == 0
    assert count.bincount()[1:].min() > 0.8 * len(count) / 8, "each number is as likely"
    first = (logits[bold] > 0).long().cumprod(dim=1).sum(dim=1)
    assert torch.equal(first, count), "the largest logits"


def test_leaps_are_for_full_diffusion(tiny, tmp_path):
    with pytest.raises(UnmaskError, match="algorithm.leaps is 1, and a leap reveals the likeliest tokens of the whole"):
        trainer(tiny, tmp_path / "a", leaps=1, block_length=4)


def test_a_run_with_leaps_and_bold_steps_trains(tiny, tmp_path):
    run, batch = collected(tiny, tmp_path / "run", leaps=1, bold=1)
    assert batch.reward.shape == (4, 4 + 2)
    run.run()
