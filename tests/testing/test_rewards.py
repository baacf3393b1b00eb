"""`check_reward`: the known rewards pass, and each way to break the contract is named."""

import random

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.rl.rewards import REWARDS, load_reward
from unmask.tasks.base import Example
from unmask.testing import check_reward


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_known_rewards_pass(name, alpha):
    check_reward(load_reward(name, alpha))


def good(outcome):
    return outcome.correct / outcome.nfe


def test_a_reward_is_given_its_examples_and_texts():
    def short(outcome):
        assert outcome.gen_length == 8
        lengths = [len(text) / e.columns["longest"] for e, text in zip(outcome.examples, outcome.texts, strict=True)]
        return outcome.correct.float() - torch.tensor(lengths)

    examples = [Example(f"{i}?", f"{i}", {"longest": 9}) for i in range(4)]
    check_reward(short, examples=examples, texts=["a", "bb", "ccc", ""], gen_length=8)


def test_a_reward_of_ones_own_by_its_path_passes(tmp_path, monkeypatch):
    code = "def reward(completions, correct, nfe, **_): return [c / n for c, n in zip(correct, nfe)]"
    (tmp_path / "my_checked_reward.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    check_reward(load_reward("my_checked_reward.reward", 1.0))


def a_list(outcome):
    return [1.0] * len(outcome.texts)


def one_number(outcome):
    return good(outcome).mean()


def whole_numbers(outcome):
    return outcome.correct.long()


def divides(outcome):
    return good(outcome) / (outcome.nfe - outcome.nfe)


def draws(outcome):
    return good(outcome) + random.random()


def writes(outcome):
    outcome.nfe.clamp_(max=3)
    return good(outcome)


def relative(outcome):
    return good(outcome) - good(outcome).mean()


def by_place(outcome):
    return good(outcome) + torch.arange(len(outcome.texts))


def slow(outcome):
    return outcome.correct * outcome.nfe.float()


def slow_if_wrong(outcome):
    return torch.where(outcome.correct, good(outcome), outcome.nfe / outcome.gen_length)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (a_list, r"must give a float tensor of shape \(10,\), one number per episode, not list"),
        (one_number, r"must give a float tensor of shape \(10,\), one number per episode, not \(\)"),
        (whole_numbers, r"must give a float tensor of shape \(10,\)"),
        (divides, "gives rewards that are not finite: look for divisions by 0"),
        (draws, "must give the same for the same episodes: draw no numbers and keep no state"),
        (writes, "must not write into outcome.correct or outcome.nfe"),
        (relative, "must judge each episode by itself: it got another reward in another batch"),
        (by_place, "must judge each episode by itself"),
        (slow, "pays more for more forward passes where the answer is right: let it fall with NFE"),
        (slow_if_wrong, "pays more for more forward passes where the answer is wrong: let it fall with NFE"),
    ],
)
def test_each_broken_promise_is_named(reward, message):
    check_reward(good)
    with pytest.raises(UnmaskError, match=f"^The reward '{reward.__name__}' {message}"):
        check_reward(reward)
