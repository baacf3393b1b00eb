"""The MaskedLM adapter on several stock architectures at tiny size: padding, head, ids, errors."""

import shutil

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EuroBertConfig,
    EuroBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)

from unmask.decoding.decode import decode
from unmask.decoding.generate import generate
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.models.masked_lm import MaskedLM
from unmask.policies import ConfidenceThreshold
from unmask.pretrain import build_tokenizer
from unmask.tasks.auto import load_task
from unmask.testing import check_model

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHARED = {"pad_token_id": 0, "max_position_embeddings": 64}
MODERN = {"bos_token_id": None, "cls_token_id": None, "sep_token_id": None, "eos_token_id": 1}
ARCHITECTURES = {
    "bert": (BertConfig, BertForMaskedLM, {}),
    "roberta": (RobertaConfig, RobertaForMaskedLM, {}),
    "roberta-prelayernorm": (RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM, {}),
    "modernbert": (ModernBertConfig, ModernBertForMaskedLM, MODERN),
    "eurobert": (EuroBertConfig, EuroBertForMaskedLM, {"num_key_value_heads": 1, "mask_token_id": 4}),
}


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request):
    torch.manual_seed(0)
    tokenizer = build_tokenizer([load_task("house")])
    config, network, extra = ARCHITECTURES[request.param]
    built = network(config(vocab_size=len(tokenizer), **SHAPE, **SHARED, **extra))
    return MaskedLM(request.param, built, tokenizer)


def rows(model, width):
    prompt = torch.tensor([[10, 11, 12, 13]])
    region = torch.full((1, 6), model.mask_id)
    pad = torch.full((1, width), model.pad_id)
    tokens = torch.cat([pad, prompt, region], dim=1)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[:, :width] = False
    return tokens, attention


def flat(positions):
    return positions.flatten().nonzero()[:, 0]


def test_left_padding_changes_nothing(model):
    logits = []
    for width in (0, 3, 9):
        tokens, attention = rows(model, width)
        logits.append(model.logits(tokens, attention, flat(attention & (tokens == model.mask_id))))
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
    assert torch.allclose(logits[0], logits[2], atol=1e-5)


def test_a_batch_of_mixed_lengths_decodes_as_each_prompt_alone(model):
    prompts = [[10 + i] * (1 + 2 * i) for i in range(8)]
    options = {"gen_length": 8, "block_length": 4}
    together = decode(model, ConfidenceThreshold(0.03), prompts, batch_size=8, **options)
    for i, prompt in enumerate(prompts):
        alone = decode(model, ConfidenceThreshold(0.03), [prompt], **options)
        assert torch.equal(together.tokens[i], alone.tokens[0])
        assert torch.equal(together.revealed_at[i], alone.revealed_at[0])


def test_every_architecture_keeps_the_contract(model):
    check_model(model)
    # Local attention sees other keys in each layer: what is kept would be wrong.
    assert model.caches == (() if model.name == "modernbert" else ("prefix", "dual", "adaptive"))


@pytest.mark.parametrize("kind", ["esm", "mobilebert"])
def test_a_network_that_does_not_go_by_positions_alone_has_no_cache(kind):
    """ESM goes by the order of its tokens, MobileBERT joins neighbours: found by trying."""
    from transformers import EsmConfig, EsmForMaskedLM, MobileBertConfig, MobileBertForMaskedLM

    tokenizer = build_tokenizer([load_task("house")])
    size = {"vocab_size": len(tokenizer), "mask_token_id": 4, "position_embedding_type": "rotary", **SHAPE, **SHARED}
    shape = {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32}
    network = EsmForMaskedLM(EsmConfig(**size)) if kind == "esm" else MobileBertForMaskedLM(
        MobileBertConfig(vocab_size=len(tokenizer), **shape, **SHAPE, **SHARED)
    )  # fmt: skip
    model = MaskedLM(kind, network, tokenizer)
    assert model.caches == ()
    with pytest.raises(UnmaskError, match="cache is 'dual', and .* can be decoded with none: leave it out"):
        decode(model, ConfidenceThreshold(0.5), [[5, 6]], gen_length=4, cache="dual")


def test_selected_positions_get_the_logits_of_a_whole_pass(model):
    tokens, attention = rows(model, 0)
    tokens = tokens.repeat(3, 1)
    tokens[1, 5], tokens[2, 0] = 20, 14
    attention = attention.repeat(3, 1)
    positions = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    whole = model.network(input_ids=tokens, attention_mask=attention.long()).logits
    assert torch.allclose(model.logits(tokens, attention, flat(positions)), whole[positions], atol=1e-5)
    assert model.network(input_ids=tokens).logits.shape == whole.shape, "the network itself stays as it was"


def test_ids_come_from_the_tokenizer(model):
    assert model.mask_id == model.tokenizer.mask_token_id
    assert model.eos_ids.tolist() == [model.tokenizer.eos_token_id]
    assert model.banned_ids.tolist() == [model.mask_id]
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())


def test_text_ends_at_the_first_eos_and_shows_masks():
    tokenizer = build_tokenizer([load_task("house")])
    config = RobertaPreLayerNormConfig(vocab_size=len(tokenizer), **SHAPE, **SHARED)
    model = MaskedLM("m", RobertaPreLayerNormForMaskedLM(config), tokenizer)
    ids = tokenizer("go red porch.", add_special_tokens=False)["input_ids"]
    assert model.text([*ids, tokenizer.eos_token_id, *ids]) == "go red porch."
    assert model.text([ids[0], model.mask_id, tokenizer.pad_token_id]) == "go [MASK]"


def test_wrong_models_are_refused(tmp_path, tiny_folder):
    with pytest.raises(UnmaskError, match="mask_id 4000 is outside the vocabulary"):
        load_model(tiny_folder, mask_id=4000)
    with pytest.raises(UnmaskError, match="Cannot load the dLLM .*give a folder with config.json"):
        load_model(tmp_path)
    with pytest.raises(UnmaskError, match="Unknown dtype 'float33'"):
        load_model(tiny_folder, dtype="float33")
    tokenizer = build_tokenizer([load_task("house")])
    tokenizer.mask_token = None
    network = RobertaPreLayerNormForMaskedLM(RobertaPreLayerNormConfig(vocab_size=60, **SHAPE, **SHARED))
    with pytest.raises(UnmaskError, match="has no mask token: pass mask_id"):
        MaskedLM("m", network, tokenizer)


def test_damaged_models_are_refused(tmp_path, tiny_folder):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UnmaskError, match="Cannot load the dLLM .*broken"):
        load_model(broken)
    weights.unlink()
    with pytest.raises(UnmaskError, match="Cannot load the dLLM .*broken"):
        load_model(broken)


def test_a_device_map_is_passed_on(tiny_folder):
    plain = load_model(tiny_folder)
    spread = load_model(tiny_folder, device_map={"roberta_prelayernorm": "cpu", "lm_head": "cpu"})
    tokens = torch.tensor([[5, 6, 7, plain.mask_id]])
    attention, positions = torch.ones(1, 4, dtype=torch.bool), torch.tensor([3])
    assert torch.equal(plain.logits(tokens, attention, positions), spread.logits(tokens, attention, positions))


def test_bfloat16_loads_and_decodes(tiny_folder):
    model = load_model(tiny_folder, dtype="bfloat16")
    out = generate(model, ConfidenceThreshold(0.5), ["hall: red?", "attic: blue gold?"], gen_length=8)
    assert out.complete.all()
