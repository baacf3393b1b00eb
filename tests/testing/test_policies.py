"""`check_policy`: what keeps the contract passes, and each way to break it is named."""

import pytest

from unmask.errors import UnmaskError
from unmask.observation import Needs
from unmask.policies import ConfidenceThreshold, Policy, Rule, topk_positions
from unmask.testing import check_policy


class Good(Policy):
    type_name = "good"

    def select(self, observation):
        return topk_positions(observation.confidence[..., 0], observation.selectable, 1, exact=True)

    def config(self):
        return {}


class WrongShape(Good):
    def select(self, observation):
        return observation.confidence > 0.5


class WholeBatch(Good):
    def select(self, observation):
        sure = (observation.confidence[..., 0] > 0.5) & observation.selectable
        return sure if sure.any() else super().select(observation)


class Stateful(Good):
    calls = 0

    def select(self, observation):
        self.calls += 1
        return topk_positions(observation.confidence[..., 0], observation.selectable, 1 + self.calls % 2, exact=True)


class Writes(Good):
    def select(self, observation):
        observation.confidence.mul_(0.5)
        return super().select(observation)


class SecretlyRandom(Good):
    def select(self, observation):
        return topk_positions(observation.noise, observation.selectable, 1, exact=True)


class Stalls(Good):
    def select(self, observation):
        return (observation.confidence[..., 0] > 0.9) & observation.selectable


class Opaque(Good):
    def config(self):
        return {"network": object()}


class Revises(Good):
    post_steps = 4

    @property
    def needs(self):
        return Needs(differs=True)

    def revise(self, observation):
        assert (observation.confidence[~observation.selectable & ~observation.differs] == 0).all()
        return observation.differs & (observation.confidence[..., 0] > 0.5)


class RevisesMasks(Revises):
    def revise(self, observation):
        return observation.confidence[..., 0] > 0.5


class RevisesTogether(Revises):
    def revise(self, observation):
        return observation.differs & observation.differs.all(dim=0)


class RevisesBadly(Revises):
    def revise(self, observation):
        return observation.differs.float()


class Blind(Good):
    post_steps = 4


class HidesASetting(ConfidenceThreshold):
    def config(self):
        return {"threshold": 0.9}


def test_a_good_policy_passes():
    check_policy(Good())
    check_policy(Revises())


class NeedsEverything(Good):
    @property
    def needs(self):
        return Needs(top_k=5, positions="region", entropy=True, kl_history=3, hidden_states=True)

    def select(self, observation):
        assert observation.confidence.shape[-1] == 5
        assert observation.kl.shape[-1] == 3
        assert observation.hidden_states.shape[-1] == 24
        return topk_positions(observation.entropy, observation.selectable, 1, exact=True)


def test_a_policy_is_shown_what_it_needs_and_no_more():
    check_policy(NeedsEverything(), hidden_size=24)

    class Greedy(Good):
        def select(self, observation):
            assert observation.confidence.shape[-1] == 1
            assert observation.entropy is None
            assert observation.kl is None
            assert observation.hidden_states is None
            assert (observation.confidence[~observation.selectable] == 0).all()
            return super().select(observation)

    check_policy(Greedy())


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (RevisesMasks(), "RevisesMasks must revise revealed positions only: keep to differs"),
        (RevisesTogether(), "RevisesTogether must decide each row by itself"),
        (RevisesBadly(), "RevisesBadly must return a boolean tensor of the shape of observation.masked from revise"),
        (Blind(), "Blind has post_steps and revises nothing: let its needs have differs, or post_steps be 0"),
        (WrongShape(), "WrongShape must return a boolean tensor of the shape of observation.masked"),
        (WholeBatch(), "WholeBatch must decide each row by itself"),
        (Stateful(), "Stateful must decide the same when it sees the same: keep no state"),
        (Writes(), "Writes must not write into observation.confidence"),
        (SecretlyRandom(), "SecretlyRandom uses observation.noise: let its property stochastic be True"),
        (Stalls(), "Stalls must reveal something in every row that can"),
        (Opaque(), "Opaque must have a config of plain values"),
        (HidesASetting(0.1), "HidesASetting must come back the same from its config"),
    ],
)
def test_each_broken_promise_is_named(policy, message):
    with pytest.raises(UnmaskError, match=message):
        check_policy(policy)


class Undecorated(Rule):
    type_name = "undecorated"

    def select(self, observation):
        return observation.selectable


class Nameless(Policy):
    def select(self, observation):
        return observation.selectable

    def config(self):
        return {}


def test_what_a_class_lacks_is_said():
    with pytest.raises(UnmaskError, match="The policy Undecorated must be decorated with @unmask.policies.rule"):
        check_policy(Undecorated())
    with pytest.raises(UnmaskError, match="The policy Nameless must have a type name: add type_name: ClassVar.str. ="):
        check_policy(Nameless())
