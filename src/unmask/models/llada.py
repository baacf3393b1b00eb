"""LLaDA (8B Base and Instruct, 1.5) as the Llama that it is, with full attention."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding, apply_rotary_pos_emb

from unmask.errors import UnmaskError
from unmask.models.decoder import FullAttentionDecoder, token_ids
from unmask.models.loading import Names, generation_ids, hub_options, load_network, plain_rope_of, refused

NAMES = Names(
    {
        "model.transformer.wte.": "model.embed_tokens.",
        "model.transformer.ln_f.": "model.norm.",
        "model.transformer.ff_out.": "lm_head.",
        "model.transformer.blocks.{}.attn_norm.": "model.layers.{}.input_layernorm.",
        "model.transformer.blocks.{}.q_proj.": "model.layers.{}.self_attn.q_proj.",
        "model.transformer.blocks.{}.k_proj.": "model.layers.{}.self_attn.k_proj.",
        "model.transformer.blocks.{}.v_proj.": "model.layers.{}.self_attn.v_proj.",
        "model.transformer.blocks.{}.attn_out.": "model.layers.{}.self_attn.o_proj.",
        "model.transformer.blocks.{}.ff_norm.": "model.layers.{}.post_attention_layernorm.",
        "model.transformer.blocks.{}.ff_proj.": "model.layers.{}.mlp.gate_proj.",
        "model.transformer.blocks.{}.up_proj.": "model.layers.{}.mlp.up_proj.",
        "model.transformer.blocks.{}.ff_out.": "model.layers.{}.mlp.down_proj.",
    }
)
# The published code has more variants than the published weights use; a Llama is none of the others.
MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "rope": (True,),
    "block_group_size": (1,),
    "alibi": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
}


def load_llada(
    name: str, path: str, published: Mapping[str, Any], options: Mapping[str, Any], mask_id: int | None
) -> FullAttentionDecoder:
    """
    Raises:
        UnmaskError: a variant of the architecture that no published LLaDA has, or weights that cannot be read.
    """
    config = llama_config(name, published)
    network = load_network(name, path, LlamaForCausalLM.from_pretrained, {**options, "config": config}, NAMES)
    if published.get("rope_full_precision", True):
        rotate_in_float32(network)
    with refused(name):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **hub_options(options))
    told = generation_ids(path, options)
    ends = [published["eos_token_id"], *told.ends, *token_ids(tokenizer, ["<|eot_id|>"])]
    known = [published.get("mask_token_id"), told.mask, *token_ids(tokenizer, ["<|mdm_mask|>"])]
    mask_id = next((found for found in known if found is not None), None) if mask_id is None else mask_id
    if mask_id is None:
        raise UnmaskError(f"Neither config nor tokenizer of {name!r} tell the mask id: pass mask_id (--mask-id).")
    return FullAttentionDecoder(
        name, network, tokenizer, family="LLaDA", mask_id=mask_id, eos_ids=list(dict.fromkeys(ends)), shifted=False
    )


def rotate_in_float32(network: PreTrainedModel) -> None:
    """Turn queries and keys by float32 angles in float32, as the published code does (`rope_full_precision`).

    In bfloat16 they are then rounded once, as there; a stock Llama rounds the angles first.
    """
    forward = inspect.unwrap(LlamaAttention.forward)
    rotated = FunctionType(
        forward.__code__,
        {**forward.__globals__, "apply_rotary_pos_emb": _rotated},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    for module in network.modules():
        place = "_old_forward" if hasattr(module, "_old_forward") else "forward"  # accelerate's hooks call the old one
        if isinstance(module, LlamaAttention):
            setattr(module, place, MethodType(rotated, module))
        elif isinstance(module, LlamaRotaryEmbedding):
            setattr(module, place, _Angles(getattr(module, place)))


class _Angles:
    """Cosines and sines in float32, whatever the dtype of the hidden states."""

    def __init__(self, angles: Any) -> None:
        self._angles = angles

    def __call__(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._angles(x.new_empty(0, dtype=torch.float32), position_ids)
        return cos, sin


def _rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    turned, other = apply_rotary_pos_emb(query.float(), key.float(), cos, sin, **options)
    return turned.to(query.dtype), other.to(key.dtype)


def llama_config(name: str, published: Mapping[str, Any]) -> LlamaConfig:
    """The published config in Llama's words.

    Raises:
        UnmaskError: naming the setting that a Llama does not have, or the one that is missing.
    """
    for key, allowed in MUST_BE.items():
        if published.get(key, allowed[0]) not in allowed:
            raise UnmaskError(
                f"config.json of {name!r} has {key} = {published[key]!r}, which is no LLaDA that was published "
                f"({allowed[0]!r}): load it with trust_remote_code."
            )
    try:
        heads = published["n_heads"]
        return LlamaConfig(
            vocab_size=published.get("embedding_size") or published["vocab_size"],
            hidden_size=published["d_model"],
            intermediate_size=published.get("mlp_hidden_size") or published["mlp_ratio"] * published["d_model"],
            num_hidden_layers=published["n_layers"],
            num_attention_heads=heads,
            num_key_value_heads=published.get("n_kv_heads") or (1 if published.get("multi_query_attention") else heads),
            max_position_embeddings=published["max_sequence_length"],
            rms_norm_eps=published.get("rms_norm_eps", 1e-5),
            rope_parameters=plain_rope_of(name, published),
            tie_word_embeddings=published.get("weight_tying", True),
            pad_token_id=published.get("pad_token_id"),
            bos_token_id=None,
            eos_token_id=published["eos_token_id"],
            attention_bias=False,
            **{key: published[key] for key in ("quantization_config",) if key in published},
        )
    except KeyError as e:
        raise UnmaskError(f"config.json of {name!r} lacks {e.args[0]!r}: take the one published with it.") from None
