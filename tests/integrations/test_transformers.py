"""`model.generate(custom_generate=...)` with an exported folder: tokens of `unmask.generate`, a network as it was."""

import json

import pytest
import torch
from benchmarks.layouts import SDAR
from benchmarks.published import DREAM, LLADA, tiny, write
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GenerationMixin,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    pipeline,
)

import unmask
from tests.models import test_remote
from unmask.cli.main import main
from unmask.errors import UnmaskError
from unmask.integrations.transformers import dllm_of, generate, left_as_found, policy_of

novel = test_remote.folder  # a fixture
TEXTS = ["how many clips", "go red porch, blue hall", "one"]
POLICY = "entropy_bound:gamma=1"


@pytest.fixture
def exported(tmp_path):
    def folder(policy=POLICY, *flags):
        main(["export", policy, str(tmp_path / "out"), "--engine", "transformers", *flags])
        (tmp_path / "out").rename(tmp_path / "moved")
        return {"custom_generate": str(tmp_path / "moved"), "trust_remote_code": True}

    return folder


def padded(prompts, pad=0):
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    seen = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(seen)}


def published(tmp_path, config):
    write(tmp_path / "dllm", tiny({**config, "torch_dtype": "float32"}), TEXTS)
    return unmask.load_model(tmp_path / "dllm")


def snapshot(network):
    """All that is to be as it was."""
    holders = [network.config, *network.modules()]
    return [dict(vars(holder)) for holder in holders], [p.requires_grad for p in network.parameters()]


@pytest.mark.parametrize("config", [LLADA, DREAM, SDAR], ids=["llada", "dream", "sdar"])
def test_a_network_that_unmask_loaded(tmp_path, exported, config):
    """Ids, shift and blocks are found in its folder."""
    dllm = published(tmp_path, config)
    prompts = [dllm.encode(text) for text in TEXTS]
    want = unmask.generate(dllm, unmask.load_policy(POLICY), prompts, gen_length=16)
    out = dllm.network.generate(**padded(prompts), **exported(), max_new_tokens=16)
    assert torch.equal(out[:, -16:], want.tokens)
    assert torch.equal(out[:, :-16], padded(prompts)["input_ids"])


def test_weights_that_plain_transformers_loaded(tmp_path, exported):
    """A LLaDA that was saved as the Llama that it is, loaded by people who do not know this library."""
    dllm = published(tmp_path, LLADA)
    prompts = [dllm.encode(text) for text in TEXTS]
    want = unmask.generate(dllm, unmask.load_policy(POLICY), prompts, gen_length=16, block_length=8)
    del dllm.network.config.is_causal
    llama = LlamaForCausalLM(dllm.network.config)
    llama.load_state_dict(dllm.network.state_dict())
    llama.save_pretrained(tmp_path / "llama")
    dllm.tokenizer.save_pretrained(tmp_path / "llama")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    network.model.layers[0].train()
    network.model.embed_tokens.requires_grad_(False)
    inputs, custom = padded(prompts), exported()
    logits = network(**inputs).logits
    before = snapshot(network)
    out = network.generate(**inputs, **custom, max_new_tokens=16, block_length=8, return_dict_in_generate=True)
    assert torch.equal(out.sequences[:, -16:], want.tokens)
    assert snapshot(network) == before
    with pytest.raises(UnmaskError, match="does not divide"):
        network.generate(**inputs, **custom, max_new_tokens=16, block_length=7)
    assert snapshot(network) == before
    assert torch.equal(network(**inputs).logits, logits), "causal, as it was"
    ended = network.generate(**inputs, **custom, max_new_tokens=16, block_length=8, eos_ids=[int(want.tokens[0, 2])])
    assert (ended[0, -13:] == want.tokens[0, 2]).all()
    blocks = network.generate(**inputs, **custom, max_new_tokens=16, causal_block=4, shifted=True)
    assert not torch.equal(blocks[:, -16:], want.tokens)


def test_a_learned_policy_is_inside(exported):
    dllm = unmask.load_model("house-block-causal")
    prompts = [dllm.encode(text) for text in ("hall: red blue gold green?", "hall: red?")]
    custom = exported("house-block-causal", "--speed", "0.5", "--seed", "3")
    policy = unmask.load_policy("house-block-causal")
    for asked, speed in (({}, 0.5), ({"speed": 1.0}, 1.0)):
        want = unmask.generate(dllm, policy, prompts, gen_length=20, speed=speed, seed=3)
        out = dllm.network.generate(**padded(prompts), **custom, max_new_tokens=20, **asked)
        assert torch.equal(out[:, -20:], want.tokens)
    want = unmask.generate(dllm, unmask.load_policy(POLICY), prompts, gen_length=20)
    out = dllm.network.generate(**padded(prompts), **custom, max_new_tokens=20, policy=POLICY, speed=None)
    assert torch.equal(out[:, -20:], want.tokens), "another policy, by the caller"


def test_transformers_pipeline(exported):
    dllm = unmask.load_model("house-block-causal")
    pipe = pipeline("text-generation", model=dllm.network, tokenizer=dllm.tokenizer)
    custom = exported()
    ask = {"text_inputs": "hall: red blue gold green?", "max_new_tokens": 16, **custom}
    told = pipe(**ask, do_sample=False)[0]["generated_text"]
    want = unmask.generate(dllm, unmask.load_policy(POLICY), ["hall: red blue gold green?"], gen_length=16)
    assert told.startswith("hall: red blue gold green?")
    assert told.removeprefix("hall: red blue gold green?").split() == want.texts[0].split()
    drawn = {pipe(**ask, do_sample=True, temperature=3.0, seed=seed)[0]["generated_text"] for seed in range(3)}
    assert len(drawn) == 3


def test_a_masked_language_model_has_no_generate_of_its_own(tiny, exported):
    prompts = [tiny.encode("hall: red blue"), tiny.encode("hall:")]
    custom = GenerationMixin.load_custom_generate(tiny.network, exported()["custom_generate"], trust_remote_code=True)
    before = snapshot(tiny.network)
    out = custom(tiny.network, **padded(prompts, tiny.pad_id), tokenizer=tiny.tokenizer, max_new_tokens=8)
    want = unmask.generate(tiny, unmask.load_policy(POLICY), prompts, gen_length=8)
    assert torch.equal(out[:, -8:], want.tokens)
    assert snapshot(tiny.network) == before


@pytest.mark.parametrize("kind", ["novel", "Dream"])
def test_code_published_with_a_model(novel, kind, exported):
    """A family that only its own code knows; Dream's own code gives logits one position ahead."""
    config = json.loads((novel / "config.json").read_text())
    (novel / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    network = AutoModelForMaskedLM.from_pretrained(novel, trust_remote_code=True)
    network.train()
    before = snapshot(network)
    custom = GenerationMixin.load_custom_generate(network, exported()["custom_generate"], trust_remote_code=True)
    dllm = unmask.load_model(novel, trust_remote_code=True)
    prompts = [dllm.encode("some text"), dllm.encode("text")]
    want = unmask.generate(dllm, unmask.load_policy(POLICY), prompts, gen_length=8).tokens
    out = custom(network, **padded(prompts), tokenizer=dllm.tokenizer, max_new_tokens=8)
    assert torch.equal(out[:, -8:], want)
    assert snapshot(network) == before
    other = custom(network, **padded(prompts), tokenizer=dllm.tokenizer, max_new_tokens=8, shifted=kind == "novel")
    assert not torch.equal(other[:, -8:], want)
    tokens = torch.tensor([[5, 6, 7, 370]])
    own = dllm.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor([0, 3]))
    place = [0, 2] if kind == "Dream" else [0, 3]
    assert torch.allclose(own, dllm.network(tokens).logits[0, place])


def test_code_that_needs_a_mask_between_blocks_is_refused(novel):
    config = json.loads((novel / "config.json").read_text())
    network = AutoModelForMaskedLM.from_pretrained(novel, trust_remote_code=True)
    for change, told in (({"model_type": "sdar"}, "it is a 'sdar'"), ({"block_size": 4}, "has 'block_size'")):
        (novel / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UnmaskError, match=f"causally between blocks .*{told}"):
            dllm_of(network)
        assert dllm_of(network, full_attention=True).mask_id == 370


def test_bad_use_is_refused(tmp_path):
    dllm = unmask.load_model("house-block-causal")
    ids = torch.tensor([[5, 6]])
    cases = [
        ({"input_ids": None}, "Give input_ids"),
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask has shape \(1, 3\)"),
        ({"num_beams": 4}, "num_beams"),
        ({"speed": 0.5}, "has no speed to choose"),
        ({"mask_id": 500}, "outside the vocabulary"),
    ]
    for change, told in cases:
        with left_as_found(dllm.network), pytest.raises(UnmaskError, match=told):
            generate(dllm.network, POLICY, **{"input_ids": ids, **change})
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=124, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0))
    with pytest.raises(UnmaskError, match="is a 'gpt2', which no dLLM known here is"):
        generate(gpt, POLICY, ids, tokenizer=dllm.tokenizer, mask_id=3)
    with pytest.raises(UnmaskError, match="'GPT2LMHeadModel' has no tokenizer that can be read: pass tokenizer"):
        generate(gpt, POLICY, ids)


def test_a_damaged_export_is_told():
    config = {"type": "transformer"}
    with pytest.raises(UnmaskError, match="weights of the exported policy are damaged"):
        policy_of(config, "AAAA")
    with pytest.raises(UnmaskError, match="unknown|Unknown"):
        policy_of({"type": "transfomer"})
