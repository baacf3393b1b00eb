"""The public conformance checks: what keeps the contract passes, and each way to break it is named."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from tests.conftest import make_tiny
from unmask.errors import UnmaskError
from unmask.models.masked_lm import MaskedLM
from unmask.observation import Needs
from unmask.policies import ConfidenceThreshold, Policy, topk_positions
from unmask.pretrain import build_tokenizer
from unmask.tasks.auto import load_task
from unmask.testing import check_model, check_policy


class Good(Policy):
    type_name = "good"

    def select(self, observation):
        return topk_positions(observation.confidence[..., 0], observation.selectable, 1, tie_decimals=None)

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
        return topk_positions(
            observation.confidence[..., 0], observation.selectable, 1 + self.calls % 2, tie_decimals=None
        )


class Writes(Good):
    def select(self, observation):
        observation.confidence.mul_(0.5)
        return super().select(observation)


class SecretlyRandom(Good):
    def select(self, observation):
        return topk_positions(observation.noise, observation.selectable, 1, tie_decimals=None)


class Stalls(Good):
    def select(self, observation):
        return (observation.confidence[..., 0] > 0.9) & observation.selectable


class Opaque(Good):
    def config(self):
        return {"network": object()}


class HidesASetting(ConfidenceThreshold):
    def config(self):
        return {"threshold": 0.9}


def test_a_good_policy_passes():
    check_policy(Good())


class NeedsEverything(Good):
    @property
    def needs(self):
        return Needs(top_k=5, positions="region", entropy=True, kl_history=3, hidden_states=True)

    def select(self, observation):
        assert observation.confidence.shape[-1] == 5
        assert observation.kl.shape[-1] == 3
        assert observation.hidden_states.shape[-1] == 24
        return topk_positions(observation.entropy, observation.selectable, 1, tie_decimals=None)


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
        (WrongShape(), "WrongShape must return a boolean tensor of the shape of observation.masked"),
        (WholeBatch(), "WholeBatch must decide each row by itself"),
        (Stateful(), "Stateful must decide the same when it sees the same: keep no state"),
        (Writes(), "Writes must not write into observation.confidence"),
        (SecretlyRandom(), "SecretlyRandom uses observation.noise: let its property draws be True"),
        (Stalls(), "Stalls must reveal something in every row that can"),
        (Opaque(), "Opaque must have a config of plain values"),
        (HidesASetting(0.1), "HidesASetting must come back the same from its config"),
    ],
)
def test_each_broken_promise_is_named(policy, message):
    with pytest.raises(UnmaskError, match=message):
        check_policy(policy)


def test_good_models_pass():
    check_model(make_tiny())


def test_bfloat16_models_pass():
    model = make_tiny()
    model.network.to(torch.bfloat16)
    check_model(model)


class Adapter(MaskedLM):
    """The tiny dLLM, broken in one way."""

    def __init__(self):
        tiny = make_tiny()
        super().__init__("broken", tiny.network, tiny.tokenizer)


class IgnoresPadding(Adapter):
    def hidden(self, tokens, attention, positions):
        return super().hidden(tokens, torch.ones_like(attention), positions)


class Unordered(Adapter):
    def hidden(self, tokens, attention, positions):
        return super().hidden(tokens, attention, positions).flip(0)


class PromptBlind(Adapter):
    def hidden(self, tokens, attention, positions):
        return super().hidden(torch.where(tokens == self.mask_id, tokens, 7), attention, positions)


class OwnsItsLogits(Adapter):
    def head(self, hidden):
        if getattr(self, "kept", None) is None or self.kept[0] is not hidden:
            self.kept = hidden, super().head(hidden)
        return self.kept[1]


class NotANumber(Adapter):
    def head(self, hidden):
        return super().head(hidden) / 0


class WrongVocabulary(Adapter):
    def head(self, hidden):
        return super().head(hidden)[:, 1:]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (IgnoresPadding, "gives a row other logits beside longer prompts: hide the padding"),
        (Unordered, "gives a row other logits beside longer prompts"),
        (PromptBlind, "does not see"),
        (OwnsItsLogits, "must give a fresh tensor from head"),
        (NotANumber, "logits that are not finite"),
        (WrongVocabulary, r"must give \(n, \d+\) logits from head"),
    ],
)
def test_each_broken_adapter_is_named(adapter, message):
    with pytest.raises(UnmaskError, match=message):
        check_model(adapter())


def test_a_causal_network_and_wrong_ids_are_named():
    tokenizer = build_tokenizer([load_task("house")])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), is_decoder=True, pad_token_id=0, initializer_range=0.5, **shape)
    with pytest.raises(UnmaskError, match="does not see the tokens after a position: give it full attention"):
        check_model(MaskedLM("causal", BertForMaskedLM(config), tokenizer))
    model = make_tiny()
    model.banned_ids = torch.tensor([5])
    with pytest.raises(UnmaskError, match="must have its mask id among banned_ids"):
        check_model(model)
    model = make_tiny()
    model.eos_ids = torch.tensor([model.vocab_size])
    with pytest.raises(UnmaskError, match="has eos_ids .* outside its vocabulary"):
        check_model(model)
