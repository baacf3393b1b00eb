"""A policy with a speed: the network is conditioned on it, on an axis that calibration sets; others have none."""

import pytest
import torch

from unmask.errors import UnmaskError
from unmask.observation import Needs, Observation
from unmask.policies import ConfidenceThreshold, load_policy
from unmask.policies.speed_axis import along
from unmask.policies.transformer import TransformerConfig, TransformerPolicy, speed_features
from unmask.testing import check_policy


def conditioned(**settings):
    torch.manual_seed(0)
    policy = TransformerPolicy(TransformerConfig(use_speed=True, use_entropy=True, **settings))
    torch.nn.init.normal_(policy.transformer_blocks[0].ada_conditioning.weight, std=0.6)
    torch.nn.init.normal_(policy.output_proj.weight, std=0.2)
    return policy


def seen(speed, rows=2, length=4):
    masked = torch.ones(rows, length, dtype=torch.bool)
    confidence = torch.linspace(0.1, 0.9, length).expand(rows, -1)[..., None]
    entropy = torch.linspace(2.0, 0.1, length).expand(rows, -1)
    noise = torch.full((rows, length), 0.5)
    return Observation(confidence, masked, masked, torch.zeros(rows), noise, entropy=entropy, speed=speed)


def test_it_has_350081_parameters():
    """METHOD: 331,265 of the paper's, a speed's two layers (16 x 128 + 128, 128 x 128 + 128), a weight per entropy."""
    assert sum(p.numel() for p in conditioned().parameters()) == 331_265 + 18_688 + 128 == 350_081


@pytest.mark.parametrize("actions", ["bernoulli", "dpls"])
def test_it_keeps_what_decoding_relies_on(actions):
    check_policy(conditioned(actions=actions, speed_axis=((0.0, 0.0), (0.4, 0.7), (1.0, 1.0))), batches=4)


def test_logits_follow_the_speed_of_each_row():
    policy = conditioned()
    assert policy.needs == Needs(1, "region", entropy=True, speed=True)
    logits = policy.logits(seen(torch.tensor([0.0, 1.0])))
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert torch.equal(logits[0], policy.logits(seen(torch.tensor([0.0, 0.3])))[0])
    with pytest.raises(UnmaskError, match="This policy decodes at a speed: let the observation have one for each row"):
        policy.logits(seen(None))


def test_speed_features_turn_slowly():
    found = speed_features(torch.tensor([0.0, 1.0]))
    assert found[0].tolist() == [1.0] * 8 + [0.0] * 8
    assert found[1, [1, 3, 7, 9, 11, 15]].tolist() == pytest.approx([2**-0.5, 0, -1, 2**-0.5, 1, 0], abs=1e-6)


def test_an_axis_is_linear_between_its_pairs():
    speeds = torch.tensor([0.0, 0.2, 0.4, 0.7, 1.0])
    found = along(((0.0, 0.1), (0.4, 0.5), (1.0, 0.8)), speeds)
    assert found.tolist() == pytest.approx([0.1, 0.3, 0.5, 0.65, 0.8])
    assert along((), speeds) is speeds


def test_the_axis_is_saved_and_changes_what_a_speed_means(tmp_path):
    plain, bent = conditioned(), conditioned(speed_axis=((0.0, 0.0), (0.5, 0.9), (1.0, 1.0)))
    at = torch.tensor([0.5, 0.5])
    assert torch.equal(bent.logits(seen(at)), plain.logits(seen(torch.tensor([0.9, 0.9]))))
    bent.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert again.settings == bent.settings
    assert torch.equal(again.logits(seen(at)), bent.logits(seen(at)))


def test_who_needs_no_speed_does_not_see_it():
    given = seen(torch.tensor([0.3, 0.3]))
    assert given.only(ConfidenceThreshold(0.9).needs).speed is None
    assert given.only(conditioned().needs).speed is not None
    assert Needs().union(Needs(speed=True)).speed
