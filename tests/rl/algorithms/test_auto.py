"""Algorithms by name, and one of one's own that no file of the package knows."""

import pytest
import torch

from tests.rl.runs import config
from tests.rl.tasks import Short
from unmask.errors import UnmaskError
from unmask.rl.algorithms.auto import load_algorithm, names
from unmask.rl.algorithms.base import Algorithm, AlgorithmSettings, Credit
from unmask.rl.trainer import Trainer


class Reinforce(Algorithm):
    """The reward itself, without a baseline."""

    name = "reinforce"
    Settings = AlgorithmSettings

    def credit(self, batch, processes):
        advantage = batch.reward.flatten()[batch.steps.rollout]
        return Credit(advantage, torch.full_like(advantage, 1 / batch.reward.numel()), advantage != 0)

    def loss(self, scored):
        return -(scored.credit.weight * scored.credit.advantage * scored.log_prob).sum(), {}


def test_names_are_those_of_modules():
    assert names() == ["grpo", "ppo", "rloo"]
    assert [load_algorithm(name).name for name in names()] == names()


def test_one_of_ones_own_trains_by_its_dotted_path(tiny, tmp_path):
    seen = []

    def validate(policy):
        return {"reward": 0.0, "correct": 0.0, "nfe": 0.0}

    asked = config(tmp_path / "run", name="tests.rl.algorithms.test_auto.Reinforce", iterations=2)
    Trainer(asked, tiny, Short(), validate, seen.append).run()
    assert [m["updated"] for m in seen if m["stage"] == "reinforce"] == [True, True]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpro", "Unknown algorithm 'gpro': did you mean 'grpo'. One of your own is named as module.Class."),
        ("tests.rl.runs.config", "The algorithm 'tests.rl.runs.config' is no subclass of"),
        (
            "tests.rl.runs.Nothing",
            "Cannot import the algorithm 'tests.rl.runs.Nothing' .*: give module.Class, importable",
        ),
        ("tests.rl.runs.SMALL", "The algorithm 'tests.rl.runs.SMALL' is no class: give module.Class."),
    ],
)
def test_what_is_no_algorithm_is_refused(name, message):
    with pytest.raises(UnmaskError, match=message):
        load_algorithm(name)


def test_unknown_settings_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown key 'clipp' in \[algorithm\]: did you mean 'clip'"):
        config(tmp_path, clipp=0.3)
    with pytest.raises(ValueError, match=r"Unknown key 'clip' in \[algorithm\]"):
        config(tmp_path, name="rloo", clip=0.3)
