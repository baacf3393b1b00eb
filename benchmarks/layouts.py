"""Configs and tensor names in which further families are published: SDAR, LLaDA2, Fast-dLLM v2, Stable-DiffCoder,
LLaDA-MoE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Config = dict[str, Any]

# SDAR-4B-Chat: a Qwen3. Its block length (4) stands nowhere in it.
SDAR: Config = {
    "architectures": ["SDARForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "mask_token_id": 151669,
    "max_position_embeddings": 32768,
    "max_window_layers": 36,
    "model_type": "sdar",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# SDAR-8B-Chat, which only its widths tell from the 4B.
SDAR_8B: Config = {**SDAR, "hidden_size": 4096, "intermediate_size": 12288}
# SDAR-30B-A3B: a Qwen3 mixture of experts, each expert by itself.
SDAR_MOE: Config = {
    **SDAR,
    "architectures": ["SDARMoeForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sdar_moe.SDARMoeConfig",
        "AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM",
    },
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "sdar_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
# Fast_dLLM_v2_7B: a Qwen2 with logits one position ahead.
FAST_DLLM: Config = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
        "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
    },
    "bd_size": 32,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151665,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "Fast_dLLM_Qwen",
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
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
# LLaDA2.0-mini: a mixture of experts with shared ones, fused query, key and value.
LLADA2: Config = {
    "architectures": ["LLaDA2MoeModelLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "eos_token_id": 156892,
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5120,
    "mask_token_id": 156895,
    "max_position_embeddings": 32768,
    "model_type": "llada2_moe",
    "moe_intermediate_size": 512,
    "n_group": 8,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 20,
    "num_key_value_heads": 4,
    "num_shared_experts": 1,
    "pad_token_id": 156892,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 600000,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "vocab_size": 157184,
}
# Stable-DiffCoder-8B-Instruct: a Llama. Neither its mask id (5) nor its block length (4) stand in it.
STABLE_DIFFCODER: Config = {
    "architectures": ["StableDiffcoderForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_stable_diffcoder.StableDiffcoderForCausalLM"},
    "bos_token_id": 0,
    "eos_token_id": 2,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pad_token_id": 1,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 155136,
}
# LLaDA-MoE-7B-A1B, by its published code; it names itself as the dense LLaDA does.
LLADA_MOE: Config = {
    "architectures": ["LLaDAMoEModelLM"],
    "attention_bias": False,
    "auto_map": {
        "AutoConfig": "configuration_lladamoe.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM",
    },
    "clip_qkv": None,
    "dense_intermediate_size": 8192,
    "eos_token_id": 156892,
    "expert_intermediate_size": 1024,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "model_type": "llada",
    "moe_layer_freq": [1] * 16,
    "norm_topk_prob": None,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "pad_token_id": 156892,
    "qk_layernorm": True,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 50000,
    "routed_scaling_factor": 1,
    "router_aux_loss_coef": 0.01,
    "shared_expert_intermediate_size": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 157184,
}
BLOCK_CAUSAL: Mapping[str, Config] = {
    "sdar": SDAR,
    "sdar-moe": SDAR_MOE,
    "fast-dllm": FAST_DLLM,
    "llada2": LLADA2,
    "stable-diffcoder": STABLE_DIFFCODER,
}

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def qwen_tensors(config: Mapping[str, Any]) -> Shapes:
    """Of a Qwen2 (Dream, Fast-dLLM v2), a Qwen3 (SDAR, and with experts LLaDA-MoE) or a Llama (Stable-DiffCoder)."""
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    llama = config["model_type"] == "llama"
    third = not llama and ("head_dim" in config or "num_experts" in config)
    size = config.get("head_dim", width // config["num_attention_heads"])
    wide, narrow = size * config["num_attention_heads"], size * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocabulary, width)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocabulary, width)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (width,)
        yield f"{block}.post_attention_layernorm.weight", (width,)
        for name, rows in (("q_proj", wide), ("k_proj", narrow), ("v_proj", narrow)):
            yield f"{block}.self_attn.{name}.weight", (rows, width)
            if not third and not llama:
                yield f"{block}.self_attn.{name}.bias", (rows,)
        if third:
            yield f"{block}.self_attn.q_norm.weight", (size,)
            yield f"{block}.self_attn.k_norm.weight", (size,)
        yield f"{block}.self_attn.o_proj.weight", (width, wide)
        if "num_experts" not in config:
            yield from _feed_forward(f"{block}.mlp", width, config["intermediate_size"])
            continue
        yield f"{block}.mlp.gate.weight", (config["num_experts"], width)
        for expert in range(config["num_experts"]):
            inner = config.get("moe_intermediate_size") or config["expert_intermediate_size"]
            yield from _feed_forward(f"{block}.mlp.experts.{expert}", width, inner)


def llada2_tensors(config: Mapping[str, Any]) -> Shapes:
    """Of a LLaDA2."""
    width, size, experts = config["hidden_size"], config["head_dim"], config["num_experts"]
    heads, groups, narrow = (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["moe_intermediate_size"],
    )
    yield "model.word_embeddings.weight", (config["vocab_size"], width)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (width,)
        yield f"{block}.post_attention_layernorm.weight", (width,)
        yield f"{block}.attention.query_key_value.weight", ((heads + 2 * groups) * size, width)
        yield f"{block}.attention.query_layernorm.weight", (size,)
        yield f"{block}.attention.key_layernorm.weight", (size,)
        yield f"{block}.attention.dense.weight", (width, heads * size)
        if layer < config["first_k_dense_replace"]:
            yield from _feed_forward(f"{block}.mlp", width, config["intermediate_size"])
            continue
        yield f"{block}.mlp.gate.weight", (experts, width)
        yield f"{block}.mlp.gate.expert_bias", (experts,)
        yield from _feed_forward(f"{block}.mlp.shared_experts", width, narrow * config["num_shared_experts"])
        for expert in range(experts):
            yield from _feed_forward(f"{block}.mlp.experts.{expert}", width, narrow)


def _feed_forward(root: str, width: int, inner: int) -> Shapes:
    yield f"{root}.gate_proj.weight", (inner, width)
    yield f"{root}.up_proj.weight", (inner, width)
    yield f"{root}.down_proj.weight", (width, inner)
