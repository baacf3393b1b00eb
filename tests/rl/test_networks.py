"""Another network is one file: what it needs, its settings, its logits. Training knows no more of it."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from tests.rl.runs import config, told, trainer
from unmask.observation import Needs
from unmask.policies import auto, load_policy, registry
from unmask.policies.actions import Bernoulli
from unmask.policies.base import LearnedPolicy, PolicySettings


class SmallConfig(PolicySettings):
    width: int = 8


class Small(LearnedPolicy):
    """Confidence, entropy and step of each position in, one logit out; no position looks at another."""

    type_name: ClassVar[str] = "small"
    Config: ClassVar[type[PolicySettings]] = SmallConfig

    def __init__(self, settings=None):
        nn.Module.__init__(self)
        self.settings = settings or SmallConfig()
        width = self.settings.width
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 1))

    @property
    def needs(self):
        return Needs(entropy=True, positions="region")

    @property
    def actions(self):
        return Bernoulli()

    def logits(self, observation):
        step = observation.step_fraction[:, None].expand_as(observation.entropy)
        return self.layers(torch.stack([observation.confidence[..., 0], observation.entropy, step], dim=-1))[..., 0]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    types = {**registry.policy_types(), "small": Small}
    for module in (registry, auto):
        monkeypatch.setattr(module, "policy_types", lambda: types)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_it_is_cloned_into_trained_saved_and_resumed(tiny, tmp_path, algorithm):
    network = {"type": "small", "width": 4}
    run = trainer(tiny, tmp_path / "run", name=algorithm, iterations=2, policy=network)
    best = run.run()
    assert isinstance(best, Small)
    assert best.settings.width == 4
    lines = told(tmp_path / "run")
    assert [line["updated"] for line in lines if line["stage"] == algorithm] == [True, True]
    assert lines[0]["stage"] == "clone"
    start, end = load_policy(tmp_path / "run" / "start"), run.policy
    assert not torch.equal(start.layers[0].weight, end.layers[0].weight)
    again = trainer(tiny, tmp_path / "run", name=algorithm, iterations=2, policy=network)
    assert again.keeper.resume(again.optimiser, allow_changes=False)
    assert all(torch.equal(a, b) for a, b in zip(end.parameters(), again.policy.parameters(), strict=True))


def test_its_settings_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown key 'wdth' in \[policy\]: did you mean 'width'\?"):
        config(tmp_path, policy={"type": "small", "wdth": 3})
    with pytest.raises(ValueError, match=r"Unknown key 'reads' in \[policy\]"):
        config(tmp_path, policy={"type": "small", "reads": "hidden_states"})
