"""`check_model`: what keeps the contract passes, and each way to break it is named."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from tests.conftest import make_tiny
from unmask.errors import UnmaskError
from unmask.models.masked_lm import MaskedLM
from unmask.pretrain import build_tokenizer
from unmask.tasks.auto import load_task
from unmask.testing import check_model


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
    model.revises = True
    with pytest.raises(UnmaskError, match="revises and has no blocks of its own, within which tokens may change"):
        check_model(model)
    model = make_tiny()
    model.eos_ids = torch.tensor([model.vocab_size])
    with pytest.raises(UnmaskError, match="has eos_ids .* outside its vocabulary"):
        check_model(model)
