"""LLaDA and Dream in the layout in which they are published, at tiny size: read, computed, refused."""

import json
import shutil
import sys

import pytest
import torch
from benchmarks.layouts import BLOCK_CAUSAL, LLADA_MOE, STABLE_DIFFCODER
from benchmarks.published import DREAM, LLADA, random_weights, tiny, write
from safetensors.torch import load_file, save_file
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import hub

from tests.models.plain import plain_logits
from unmask.decoding.decode import decode
from unmask.decoding.generate import generate
from unmask.errors import UnmaskError
from unmask.models.auto import STOCK, kind_of, load_model, size_of
from unmask.models.config import ModelConfig
from unmask.policies import ConfidenceThreshold
from unmask.testing import check_model

TEXTS = ["Natalia sold clips to 48 of her friends. How many clips did she sell altogether?", "go red porch, blue hall."]
PUBLISHED = {
    "llada": LLADA,
    "llada-moe": {**LLADA_MOE, "torch_dtype": "float32"},
    "dream": {**DREAM, "torch_dtype": "float32"},
}
SCALE = 0.3


@pytest.fixture(scope="session", params=sorted(PUBLISHED))
def published(request, tmp_path_factory):
    """(config, folder) of a tiny one, in several shards."""
    config = tiny(PUBLISHED[request.param])
    folder = tmp_path_factory.mktemp(request.param) / "published"
    write(folder, config, TEXTS, shard=30_000, scale=SCALE)
    return config, folder


@pytest.fixture
def copy(published, tmp_path):
    config, folder = published
    shutil.copytree(folder, tmp_path / "copy")
    return config, tmp_path / "copy"


def test_logits_are_those_of_a_plain_computation(published):
    config, folder = published
    model = load_model(folder)
    weights = random_weights(config, torch.float32, 0, SCALE)
    tokens = torch.tensor([[5, 9, 40, 7, model.mask_id, 12, model.mask_id, model.mask_id]])
    everywhere = torch.arange(8)
    found = model.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), everywhere)
    wanted = plain_logits(weights, config, tokens[0])
    if config["model_type"] == "Dream":  # the logits that predict token i stand at i - 1, those of the first at 0
        wanted = torch.cat([wanted[:1], wanted[:-1]])
    assert found.shape == wanted.shape
    assert torch.allclose(found.double(), wanted, atol=1e-4, rtol=1e-4)
    assert wanted.std() > 0.5, "weights so small would hide a mistake"


def test_left_padding_is_exact(published):
    model = load_model(published[1])
    row = torch.tensor([5, 9, 40, 7, model.mask_id, 12, model.mask_id])
    alone = model.logits(row[None], torch.ones(1, 7, dtype=torch.bool), torch.arange(7))
    for pad in (1, 4, 11):
        tokens = torch.full((2, 7 + pad), model.pad_id)
        tokens[0, pad:], tokens[1] = row, 33
        attention = torch.ones_like(tokens, dtype=torch.bool)
        attention[0, :pad] = False
        assert torch.allclose(model.logits(tokens, attention, torch.arange(pad, 7 + pad)), alone, atol=1e-5)


def test_a_batch_of_8_mixed_prompts_is_decoded_as_one_by_one(published):
    model = load_model(published[1])
    prompts = [[5 + i] * (1 + 3 * i) for i in range(8)]
    options = {"gen_length": 16, "block_length": 8}
    together = decode(model, ConfidenceThreshold(0.5), prompts, batch_size=8, **options)
    for i, prompt in enumerate(prompts):
        alone = decode(model, ConfidenceThreshold(0.5), [prompt], **options)
        assert torch.equal(together.tokens[i], alone.tokens[0])
        assert torch.equal(together.revealed_at[i], alone.revealed_at[0])
    assert len(set(map(tuple, together.tokens.tolist()))) > 4, "rows that all came out alike would show nothing"


def test_the_contract_is_kept(published):
    check_model(load_model(published[1]))


def test_ids_and_sizes_come_from_the_published_files(published):
    config, folder = published
    model = load_model(folder)
    end_of_turn = "<|eot_id|>" if "d_model" in config else "<|im_end|>"
    families = {"LLaDAModelLM": "LLaDA", "LLaDAMoEModelLM": "LLaDA-MoE", "DreamModel": "Dream"}
    assert model.family == families[config["architectures"][0]]
    assert model.mask_id == config["mask_token_id"]
    assert model.eos_ids.tolist() == [config["eos_token_id"], model.tokenizer.convert_tokens_to_ids(end_of_turn)]
    assert model.max_length == config.get("max_sequence_length", config.get("max_position_embeddings"))
    size = size_of(folder)
    assert size is not None
    assert (size.parameters, size.hidden_size, size.positions) == (
        sum(p.numel() for p in model.network.parameters()),
        model.hidden_size,
        model.max_length,
    )
    assert f"mask id {config['mask_token_id']}" in model.summary()
    assert load_model(folder, mask_id=7).mask_id == 7


def test_chats_go_through_the_published_template(published):
    config, folder = published
    model = load_model(folder)
    tokens = model.encode([{"role": "user", "content": "How many?"}], prefix="It is")
    text = model.tokenizer.decode(tokens)
    wanted = {
        "llada": "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is",
        "Dream": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\nIt is",
    }
    assert text == wanted["llada" if "d_model" in config else "Dream"]
    parts = [{"role": "user", "content": [{"type": "text", "text": "How "}, "many?"]}]
    assert model.encode(parts, prefix="It is") == tokens
    for content in (7, None, [{"type": "image_url", "image_url": {}}]):
        with pytest.raises(UnmaskError, match=r"content of message 0 of a chat is .*: give a text, or parts of text"):
            model.encode([{"role": "user", "content": content}])
    chat = [{"role": "user", "content": "How many?"}]
    out = generate(model, ConfidenceThreshold(0.5), [chat, "How many?", [5, 6, 7]], gen_length=4)
    assert len(out.texts) == 3


def test_saved_in_bfloat16_loads_in_bfloat16(published, tmp_path):
    config, _ = published
    write(tmp_path / "half", {**config, "torch_dtype": "bfloat16"}, TEXTS, dtype=torch.bfloat16)
    model = load_model(tmp_path / "half")
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(tmp_path / "half", dtype="float32").network.parameters()} == {torch.float32}
    assert generate(model, ConfidenceThreshold(0.5), ["How many?"], gen_length=8).complete.all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations_agree(published, attention):
    model = load_model(published[1], attn_implementation=attention)
    assert model.network.config._attn_implementation == attention
    check_model(model, batches=1)


def test_a_device_map_is_passed_on(published):
    plain = load_model(published[1])
    spread = load_model(published[1], device_map={"model": "cpu", "lm_head": "cpu"})
    tokens = torch.tensor([[5, 6, 7, plain.mask_id]])
    attention, positions = torch.ones(1, 4, dtype=torch.bool), torch.tensor([3])
    assert torch.equal(plain.logits(tokens, attention, positions), spread.logits(tokens, attention, positions))


def shards(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def change(folder, name, edit):
    """Rewrite the shard that holds a tensor."""
    file = folder / shards(folder)[name]
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_a_mutated_name_is_named(copy):
    _, folder = copy
    name = next(n for n in shards(folder) if n.endswith("1.q_proj.weight") or n.endswith("1.self_attn.q_proj.weight"))
    other = name.replace("q_proj", "query")

    def rename(weights):
        weights[other] = weights.pop(name)

    change(folder, name, rename)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][other] = index["weight_map"].pop(name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnmaskError, match=f"lack '{name}' .*it has '.*query.weight', which has no place") as e:
        load_model(folder)
    assert str(e.value).count("\n") == 0


def test_a_missing_shard_is_named(copy):
    _, folder = copy
    file = sorted(set(shards(folder).values()))[1]
    (folder / file).unlink()
    with pytest.raises(UnmaskError, match=f"Cannot load the dLLM .*{file}"):
        load_model(folder)


def test_a_wrong_shape_is_named(copy):
    _, folder = copy
    name = next(n for n in shards(folder) if n.endswith(("0.attn_out.weight", "0.self_attn.o_proj.weight")))

    def cut(weights):
        weights[name] = weights[name][:20].clone()

    change(folder, name, cut)
    with pytest.raises(UnmaskError, match=rf"'{name}' .* has the shape \(20, 32\), .* asks for \(32, 32\)"):
        load_model(folder)


def test_a_cut_shard_is_refused(copy):
    _, folder = copy
    file = folder / sorted(set(shards(folder).values()))[0]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UnmaskError, match="Cannot load the dLLM"):
        load_model(folder)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_variants_that_were_never_published_are_refused(tmp_path):
    write(tmp_path / "m", tiny(LLADA), TEXTS)
    edit_config(tmp_path / "m", alibi=True)
    with pytest.raises(UnmaskError, match="has alibi = True, which is no LLaDA that was published"):
        load_model(tmp_path / "m")
    edit_config(tmp_path / "m", alibi=False, d_model=None)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["d_model"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnmaskError, match="lacks 'd_model': take the one published with it"):
        load_model(tmp_path / "m")


def test_a_mask_id_that_no_file_tells_is_asked_for(copy):
    config, folder = copy
    published, settings = ((folder / file) for file in ("config.json", "tokenizer_config.json"))
    for path in (published, settings, folder / "tokenizer.json"):
        if path.exists():
            path.write_text(path.read_text().replace("<|mdm_mask|>", "<|other|>").replace("<|mask|>", "<|other|>"))
    published.write_text(json.dumps({k: v for k, v in config.items() if k != "mask_token_id"}))
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "mask_token"}))
    told = "Neither config nor tokenizer of .* tell the mask id: pass mask_id"
    if "num_experts" in config:  # the family has one of its own
        told = "mask_id 156895 is outside the vocabulary"
    with pytest.raises(UnmaskError, match=told):
        load_model(folder)
    assert load_model(folder, mask_id=370).mask_id == 370


def test_unknown_families_are_refused_without_running_their_code(copy):
    _, folder = copy
    edit_config(folder, model_type="novel", architectures=["Novel"], auto_map={"AutoModel": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnmaskError, match="is a 'novel', .*pass trust_remote_code"):
        load_model(folder)
    edit_config(folder, auto_map=None)
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnmaskError, match="is a 'novel', .*load one of these"):
        load_model(folder)


def test_quantised_loading_says_what_is_missing(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UnmaskError, match="quantization torchao-int8 needs torchao: pip install torchao"):
        ModelConfig(model=str(published[1]), quantization="torchao-int8").load()


def test_options_of_the_hub_reach_config_weights_and_tokenizer(published, monkeypatch):
    """A revision that config alone heeded would mix two versions of a dLLM."""
    asked, plain = [], hub.cached_files

    def noted(path_or_repo_id, filenames, **options):
        asked.append((tuple(filenames), options.get("revision")))
        return plain(path_or_repo_id, filenames, **{**options, "revision": None})

    for module in list(sys.modules.values()):
        if getattr(module, "cached_files", None) is plain:
            monkeypatch.setattr(module, "cached_files", noted)
    load_model(published[1], revision="v2")
    assert {"config.json", "tokenizer_config.json"} <= {file for files, _ in asked for file in files}
    assert {revision for _, revision in asked} == {"v2"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own
def test_a_compiled_dllm_keeps_the_contract(published):
    check_model(load_model(published[1], compile=True))


def test_llada_turns_queries_and_keys_in_float32(tmp_path, monkeypatch):
    """Once rounded to bfloat16, as by the published code; a stock Llama rounds the angles, too."""
    config = tiny(LLADA)
    write(tmp_path / "half", {**config, "torch_dtype": "bfloat16"}, TEXTS, dtype=torch.bfloat16)
    model = load_model(tmp_path / "half", attn_implementation="sdpa")
    layer, seen = model.network.model.layers[0], []
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module, query, key, value, *args, **options):
        seen.append((query, key))
        return attend(module, query, key, value, *args, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", spy)
    tokens = torch.tensor([[5, 9, 40, 7, model.mask_id]])
    model.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(5))
    hidden = layer.input_layernorm(model.embeddings[tokens])
    dim = layer.self_attn.head_dim
    angle = torch.arange(5)[:, None] * config["rope_theta"] ** -(torch.arange(0, dim, 2) / dim)
    cos, sin = (torch.cat([f(angle), f(angle)], dim=-1) for f in (torch.cos, torch.sin))
    for project, found in zip((layer.self_attn.q_proj, layer.self_attn.k_proj), seen[0], strict=True):
        plain = project(hidden).view(1, 5, -1, dim).transpose(1, 2).float()
        half = torch.cat([-plain[..., dim // 2 :], plain[..., : dim // 2]], dim=-1)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, (plain * cos + half * sin).to(torch.bfloat16))


@pytest.mark.parametrize(("ends", "wanted"), [(7, [7]), ([7, 8], [7, 8]), (True, []), ("x", []), (None, [])])
def test_ids_of_the_generation_config_count(copy, ends, wanted):
    _, folder = copy
    before = load_model(folder).eos_ids.tolist()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "pad_token_id": 3}))
    after = load_model(folder).eos_ids.tolist()
    assert set(after) == {*before, *wanted}
    assert after[0] == before[0]
    (folder / "generation_config.json").write_text("{")
    assert load_model(folder).eos_ids.tolist() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_qkv": 8.0}, "has clip_qkv = 8.0, which is no LLaDA-MoE that was published"),
        ({"moe_layer_freq": [1, 0]}, r"has moe_layer_freq = \[1, 0\], which is no LLaDA-MoE"),
        ({"shared_expert_intermediate_size": 64}, "has shared_expert_intermediate_size = 64, which is no LLaDA-MoE"),
        ({"num_experts_per_tok": 9}, "chooses 9 of 8 experts"),
        ({"num_experts": "8"}, "give whole numbers from 1"),
        ({"num_experts": 9}, "lack 'model.layers.0.mlp.experts.8.down_proj.weight'"),
        ({"num_experts": None}, "give whole numbers from 1"),
    ],
)
def test_mixtures_of_experts_that_no_published_one_is_are_refused(tmp_path, changes, message):
    write(tmp_path / "m", tiny(LLADA_MOE), TEXTS)
    edit_config(tmp_path / "m", **changes)
    with pytest.raises(UnmaskError, match=message):
        load_model(tmp_path / "m")
    config = {k: v for k, v in tiny(LLADA_MOE).items() if k != "num_experts"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnmaskError, match="lacks 'num_experts': take the one published with it"):
        load_model(tmp_path / "m")


ALL = {"llada": LLADA, "llada-moe": LLADA_MOE, "dream": DREAM, **BLOCK_CAUSAL}


@pytest.mark.parametrize("family", sorted(ALL))
def test_the_base_of_the_turns_is_read_from_either_place_and_never_made_up(tmp_path, family):
    """A config saved by transformers 5 has it in rope_parameters; a stock default would give wrong logits silently."""
    config = tiny(ALL[family])
    base, stock = config.pop("rope_theta"), STOCK[kind_of(config)]
    for told in ({"rope_theta": base}, {"rope_parameters": {"rope_type": "default", "rope_theta": base}}):
        assert stock("m", {**config, **told}).rope_parameters["rope_theta"] == base
    write(tmp_path / "m", {**config, "rope_parameters": {"rope_theta": base, "rope_type": "default"}}, TEXTS)
    assert load_model(tmp_path / "m").network.config.rope_parameters["rope_theta"] == base
    edit_config(tmp_path / "m", rope_parameters=None)
    with pytest.raises(UnmaskError, match="lacks 'rope_theta': take the one published with it"):
        load_model(tmp_path / "m")
    edit_config(tmp_path / "m", rope_theta="10000")
    with pytest.raises(UnmaskError, match="has rope_theta = '10000': take the one published with it"):
        load_model(tmp_path / "m")
    if family in ("llada", "llada-moe", "llada2"):
        edit_config(tmp_path / "m", rope_theta=None, rope_parameters={"rope_theta": base, "rope_type": "yarn"})
        with pytest.raises(UnmaskError, match="has rope_type = 'yarn', which its family was not published with"):
            load_model(tmp_path / "m")
        edit_config(tmp_path / "m", rope_parameters={"rope_theta": base, "factor": 4.0})
        with pytest.raises(
            UnmaskError, match="has factor = 4.0 in rope_parameters, which its family was not published"
        ):
            load_model(tmp_path / "m")
    else:
        del config["num_attention_heads"]
        with pytest.raises(UnmaskError, match="lacks 'num_attention_heads': take the one published with it"):
            stock("m", {**config, "rope_theta": base})


@pytest.mark.parametrize(
    "names",
    [
        {"model_type": "lladamoe", "architectures": ["LLaDAModelLM"]},
        {"model_type": "llada_moe", "architectures": None},
        {"model_type": "llada", "architectures": ["LLaDAMoEModel"]},
        {"model_type": "llada", "architectures": ["LLaDAMoeModelLM"]},
    ],
)
def test_llada_moe_is_known_by_each_name_it_goes_by(tmp_path, names):
    write(tmp_path / "m", tiny(LLADA_MOE), TEXTS)
    edit_config(tmp_path / "m", **names)
    assert load_model(tmp_path / "m").family == "LLaDA-MoE"


def test_a_plain_llama_is_no_dllm(tmp_path):
    """Stable-DiffCoder's config names its own class; another Llama is causal."""
    write(tmp_path / "m", tiny(STABLE_DIFFCODER), TEXTS)
    assert load_model(tmp_path / "m").family == "Stable-DiffCoder"
    edit_config(tmp_path / "m", architectures=["LlamaForCausalLM"])
    with pytest.raises(UnmaskError, match="is a 'llama', which is neither a LLaDA"):
        load_model(tmp_path / "m")


def test_a_broken_tokenizer_is_refused_in_a_sentence(tmp_path):
    """The library raises a bare Exception for it."""
    write(tmp_path / "m", tiny({**DREAM, "torch_dtype": "float32"}), TEXTS)
    (tmp_path / "m" / "merges.txt").write_text("#version: 0.2\n\n")
    with pytest.raises(UnmaskError, match=r"Cannot load the dLLM .* \(Error while initializing BPE"):
        load_model(tmp_path / "m")
