"""Rewards against numbers worked out by hand, and a user's own."""

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.rl.rewards import Outcome, additive, correctness, load_reward, multiplicative
from unmask.tasks.base import Example

CORRECT = torch.tensor([True, True, True, False, True])
NFE = torch.tensor([1, 17, 32, 1, 40])


def outcome(n=2):
    examples = [
        Example(f"prompt {i}", f"answer {i}", {"level": 3, "nfe": "hidden"} if i == 0 else {}) for i in range(n)
    ]
    texts = [f"answer {i}" for i in range(n)]
    return Outcome(examples, texts, torch.tensor([True, False] * n)[:n], torch.arange(1, n + 1), 32)


def test_multiplicative():
    # (32 - nfe + 1) / 32: 1, 0.5, 1/32, -, 1/32
    assert multiplicative(CORRECT, NFE, 32, 1.0).tolist() == pytest.approx([1.0, 0.5, 0.03125, 0.0, 0.03125])
    assert multiplicative(CORRECT, NFE, 32, 3.0).tolist() == pytest.approx([1.0, 0.125, 0.03125**3, 0.0, 0.03125**3])
    assert multiplicative(CORRECT, NFE, 32, 0.0).tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_additive_pays_for_speed_without_an_answer():
    assert additive(CORRECT, NFE, 32, 1.0).tolist() == pytest.approx([0.96875, 0.46875, 0.0, -0.03125, -0.25])


def test_correctness_ignores_speed():
    assert correctness(CORRECT, NFE, 32, 9.0).tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_rewards_by_name():
    assert load_reward("multiplicative", 1.0)(outcome()).tolist() == [1.0, 0.0]
    assert load_reward("additive", 1.0)(outcome()).tolist() == pytest.approx([0.96875, -0.0625])
    with pytest.raises(UnmaskError, match="did you mean 'additive'.*dotted path"):
        load_reward("aditive", 1.0)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        """
import numpy as np
import torch
def short(completions, prompts, answer, nfe, gen_length, **columns):
    assert set(columns) == {"correct", "level", "speed", "equivalents"}
    assert columns["level"] == [3, None]
    return [1.0 / n + (text == gold) for text, gold, n in zip(completions, answer, nfe)]
def of_numpy(completions, **columns): return [np.float32(0.5), np.int64(2)]
def an_array(completions, **columns): return np.array([0.5, 2.0])
def a_tensor(completions, **columns): return torch.tensor([0.5, 2.0])
def too_few(completions, **columns): return [1.0]
def no_number(completions, **columns): return [0.5, float("nan")]
def nothing(completions, **columns): return None
def looks_up(completions, **columns): return columns["levl"]
def signature(texts): return [1.0]
LIMIT = 3
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])


@pytest.mark.parametrize("name", ["of_numpy", "an_array", "a_tensor"])
def test_rewards_may_be_numbers_of_numpy_or_tensors(own, name):
    assert load_reward(f"my_rewards.{name}", 1.0)(outcome()).tolist() == [0.5, 2.0]


def test_a_reward_of_your_own(own):
    assert load_reward("my_rewards.short", 1.0)(outcome()).tolist() == [2.0, 1.5]
    assert load_reward("my_rewards:short", 1.0)(outcome()).tolist() == [2.0, 1.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "gave 1 values for 2 completions: return a list with one number each"),
        ("no_number", "gave nan for completion 1 .*: return a finite number for each"),
        ("nothing", "gave a NoneType for 2 completions"),
        ("looks_up", "The reward 'my_rewards.looks_up' failed .KeyError: 'levl'.: mend it."),
        (
            "signature",
            r"'my_rewards.signature' failed .TypeError: signature\(\) got an unexpected keyword .*: mend it.",
        ),
    ],
)
def test_bad_values_of_your_own_are_refused(own, name, message):
    with pytest.raises(UnmaskError, match=message):
        load_reward(f"my_rewards.{name}", 1.0)(outcome())


def test_a_reward_that_cannot_be_found(own, tmp_path):
    (tmp_path / "my_broken_rewards.py").write_text("x = Grid")
    with pytest.raises(
        UnmaskError, match=r"'my_broken_rewards.f' \(NameError: name 'Grid' is not .*\): mend its module"
    ):
        load_reward("my_broken_rewards.f", 1.0)
    with pytest.raises(UnmaskError, match="Cannot import the reward 'my_rewards.shrt'"):
        load_reward("my_rewards.shrt", 1.0)
    with pytest.raises(UnmaskError, match="is no function"):
        load_reward("my_rewards.LIMIT", 1.0)
