"""LLaDA-MoE (7B-A1B Base and Instruct) as the Qwen3 mixture of experts that it is, with full attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from unmask.errors import UnmaskError
from unmask.models.block_families import ENDS, read_tokenizer
from unmask.models.decoder import FullAttentionDecoder, token_ids
from unmask.models.experts import check_choice, check_experts
from unmask.models.loading import generation_ids, load_network, plain_rope_of, refused

MASK_ID = 156895
# The published code has more variants than the published weights use; it never renormalises the chosen experts.
MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "qk_layernorm": (True,),
    "attention_bias": (False,),
    "clip_qkv": (None,),
    "rope_scaling": (None,),
    "partial_rotary_factor": (1, None),
    "shared_expert_intermediate_size": (None, 0),
    "moe_router_enable_expert_bias": (False, None),
}
SAME = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("num_experts", "num_experts_per_tok", "max_position_embeddings"),
)


def load_llada_moe(
    name: str, path: str, published: Mapping[str, Any], options: Mapping[str, Any], mask_id: int | None
) -> FullAttentionDecoder:
    """
    Raises:
        UnmaskError: a variant of the architecture that no published LLaDA-MoE has, or weights that cannot be read.
    """
    config = qwen3_moe_config(name, published)
    check_experts(name, path, options, range(config.num_hidden_layers), config.num_experts)
    network = load_network(name, path, Qwen3MoeForCausalLM.from_pretrained, {**options, "config": config})
    tokenizer, told = read_tokenizer(name, path, options), generation_ids(path, options)
    known = [mask_id, published.get("mask_token_id"), told.mask, *token_ids(tokenizer, ["<|mask|>"]), MASK_ID]
    end = published.get("eos_token_id")
    ends = [*([end] if end is not None else []), *told.ends, *token_ids(tokenizer, ENDS)]
    return FullAttentionDecoder(
        name,
        network,
        tokenizer,
        family="LLaDA-MoE",
        mask_id=next(found for found in known if found is not None),
        eos_ids=list(dict.fromkeys(ends)),
        shifted=False,
    )


def qwen3_moe_config(name: str, published: Mapping[str, Any]) -> Qwen3MoeConfig:
    """The published config in Qwen3's words.

    Raises:
        UnmaskError: naming the setting that is no published LLaDA-MoE's, or the one that is missing.
    """
    for key, allowed in MUST_BE.items():
        if published.get(key, allowed[0]) not in allowed:
            raise _no_such(name, key, published[key], allowed[0])
    frequencies = published.get("moe_layer_freq") or [1]
    if any(each != 1 for each in (frequencies if isinstance(frequencies, list) else [frequencies])):
        raise _no_such(name, "moe_layer_freq", frequencies, "all 1")
    try:
        values = {key: published[key] for key in SAME}
        narrow = published["expert_intermediate_size"]
    except KeyError as e:
        raise UnmaskError(f"config.json of {name!r} lacks {e.args[0]!r}: take the one published with it.") from None
    if not all(type(n) is int and n > 0 for n in (*values.values(), narrow)):
        raise UnmaskError(f"config.json of {name!r} has {values}: give whole numbers from 1.")
    check_choice(name, values["num_experts"], values["num_experts_per_tok"])
    rope = plain_rope_of(name, published)
    head_dim = published.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    with refused(name):
        return Qwen3MoeConfig(
            **{**values, "head_dim": head_dim},
            moe_intermediate_size=narrow,
            intermediate_size=published.get("dense_intermediate_size") or narrow,
            norm_topk_prob=False,
            rms_norm_eps=published.get("rms_norm_eps", 1e-5),
            rope_parameters=rope,
            tie_word_embeddings=published.get("tie_word_embeddings", False),
            pad_token_id=published.get("pad_token_id"),
            eos_token_id=published.get("eos_token_id"),
            bos_token_id=None,
            **{key: published[key] for key in ("quantization_config",) if key in published},
        )


def _no_such(name: str, key: str, value: Any, published: Any) -> UnmaskError:
    return UnmaskError(
        f"config.json of {name!r} has {key} = {value!r}, which is no LLaDA-MoE that was published ({published!r}): it "
        "cannot be read as one."
    )
