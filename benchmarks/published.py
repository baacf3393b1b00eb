"""Random weights in the layout in which dLLMs are published: files, tensor names, configs.

    python benchmarks/published.py llada-8b folder --layers 4     # the real widths, fewer layers
    python benchmarks/published.py dream-7b folder --layers 4     # or sdar, llada2, fast-dllm

Tests write tiny ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.layouts import BLOCK_CAUSAL, LLADA_MOE, llada2_tensors, qwen_tensors

Config = dict[str, Any]

# config.json as published with LLaDA-8B-Instruct, and with Dream-v0-Instruct-7B (DiffuCoder's is the same).
LLADA: Config = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
DREAM: Config = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_dream.DreamConfig",
        "AutoModel": "modeling_dream.DreamModel",
    },
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LLADA_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
QWEN_CHAT = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>' + '\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def tensors_of(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that a config's published weights hold."""
    if "d_model" in config:
        width, inner = config["d_model"], config["mlp_hidden_size"]
        narrow = width // config["n_heads"] * config["n_kv_heads"]
        root = "model.transformer"
        yield f"{root}.wte.weight", (config["embedding_size"], width)
        yield f"{root}.ln_f.weight", (width,)
        if not config["weight_tying"]:
            yield f"{root}.ff_out.weight", (config["embedding_size"], width)
        for layer in range(config["n_layers"]):
            block = f"{root}.blocks.{layer}"
            yield f"{block}.attn_norm.weight", (width,)
            yield f"{block}.ff_norm.weight", (width,)
            yield f"{block}.q_proj.weight", (width, width)
            yield f"{block}.k_proj.weight", (narrow, width)
            yield f"{block}.v_proj.weight", (narrow, width)
            yield f"{block}.attn_out.weight", (width, width)
            yield f"{block}.ff_proj.weight", (inner, width)
            yield f"{block}.up_proj.weight", (inner, width)
            yield f"{block}.ff_out.weight", (width, inner)
        return
    yield from (llada2_tensors if config["model_type"] == "llada2_moe" else qwen_tensors)(config)


def random_weights(config: Mapping[str, Any], dtype: torch.dtype, seed: int, scale: float) -> dict[str, torch.Tensor]:
    """Normal weights; norms near one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in tensors_of(config):
        drawn = torch.empty(shape, dtype=dtype).normal_(0, scale, generator=generator)
        found[name] = drawn + 1 if len(shape) == 1 and name.endswith("weight") else drawn
    return found


def write(
    folder: Path,
    config: Config,
    texts: list[str],
    *,
    dtype: torch.dtype = torch.float32,
    shard: int | str = "5GB",
    seed: int = 0,
    scale: float = 0.02,
) -> None:
    """A published folder: config.json, sharded safetensors with their index, tokenizer and chat template.

    Args:
        texts: what the tokenizer learns its merges from.
        shard: size of a file at most, in bytes or as "5GB".
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(config, dtype, seed, scale)
    plan = split_torch_state_dict_into_shards(weights, max_shard_size=shard)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_tokenizer(folder, config, texts)


def _write_tokenizer(folder: Path, config: Config, texts: list[str]) -> None:
    llada = "d_model" in config
    names = (
        {"<|startoftext|>": "bos_token", "<|endoftext|>": "eos_token"}
        if llada
        else {"<|endoftext|>": "eos_token", "<|mask|>": "mask_token"}
    )
    others = (
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|mdm_mask|>"]
        if llada
        else ["<|im_start|>", "<|im_end|>"]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    mask = config.get("mask_token_id", max(config["eos_token_id"], config["vocab_size"] - 30))
    size = min(config["eos_token_id"], mask)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    at = {"<|endoftext|>": config["eos_token_id"], "<|mdm_mask|>": mask, "<|mask|>": mask}
    learnt = json.loads(tokenizer.to_str())
    vocabulary = learnt["model"]["vocab"]
    # As published: ids without a gap, special tokens behind the vocabulary.
    vocabulary |= {f"<|unused_{i}|>": i for i in range(len(vocabulary), size)}
    free = iter(i for i in range(size, 10**9) if i not in at.values())
    ids = {name: at.get(name) or next(free) for name in (*names, *others)}
    ids |= {f"<|extra_{i}|>": i for i in range(size, max(ids.values())) if i not in ids.values()}
    added = {
        str(i): {
            "content": name,
            "special": True,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
        for name, i in sorted(ids.items(), key=lambda item: item[1])
    }
    settings: Config = {
        "added_tokens_decoder": added,
        **{role: name for name, role in names.items()},
        "pad_token": "<|endoftext|>",
        "chat_template": LLADA_CHAT if llada else QWEN_CHAT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        "tokenizer_class": "PreTrainedTokenizerFast" if llada else "DreamTokenizer",
    }
    if llada:
        learnt["added_tokens"] = [{"id": int(i), **token} for i, token in added.items()]
        (folder / "tokenizer.json").write_text(json.dumps(learnt))
    else:
        settings["auto_map"] = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        merges = "\n".join(" ".join(pair) for pair in learnt["model"]["merges"])
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def tiny(config: Config, vocabulary: int = 400, layers: int = 2) -> Config:
    """The same config with small numbers; the last two ids end a text and mask it."""
    ends = {"eos_token_id": vocabulary - 40, "pad_token_id": vocabulary - 40, "mask_token_id": vocabulary - 30}
    if "d_model" in config:
        sizes = {"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "n_layers": layers, "mlp_hidden_size": 64}
        return {**config, **sizes, **ends, "embedding_size": vocabulary, "vocab_size": vocabulary}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    if "head_dim" in config:
        sizes["head_dim"] = 16
    if "num_experts" in config:
        sizes |= {"num_experts": 8, "num_experts_per_tok": 3}
        inner = "moe_intermediate_size" if "moe_intermediate_size" in config else "expert_intermediate_size"
        sizes |= {inner: 24, **({"n_group": 4, "topk_group": 2} if "n_group" in config else {})}
        sizes |= {"num_key_value_heads": 4} if inner == "expert_intermediate_size" else {}  # LLaDA-MoE groups none
    return {**config, **sizes, **ends, "num_hidden_layers": layers, "vocab_size": vocabulary}


def main() -> None:
    """Write one at its real width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {"llada-8b": LLADA, "dream-7b": DREAM, "llada-moe": LLADA_MOE, **BLOCK_CAUSAL}
    parser.add_argument("shape", choices=known)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="instead of all")
    parser.add_argument("--shard", default="5GB")
    args = parser.parse_args()
    config = dict(known[args.shape])
    if args.layers:
        config["n_layers" if args.shape == "llada-8b" else "num_hidden_layers"] = args.layers
    write(args.folder, config, ["what is twelve times seven?"], dtype=torch.bfloat16, shard=args.shard)


if __name__ == "__main__":
    main()
