"""SDAR and TraDo as the Qwen3 that they are, Fast-dLLM v2 as a Qwen2, Stable-DiffCoder as a Llama."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from unmask.errors import UnmaskError
from unmask.models.block_families import BLOCK_KEYS, Family
from unmask.models.experts import check_choice, check_experts
from unmask.models.loading import check_told, refused, rope_of

# Of the published configs, what names their own code rather than the architecture, or how they decode.
OWN = ("architectures", "auto_map", "model_type", "mask_token_id", "transformers_version", *BLOCK_KEYS)


def stock_config(kind: type[PreTrainedConfig], name: str, published: Mapping[str, Any]) -> PreTrainedConfig:
    """The published config in the words of the stock architecture.

    Raises:
        UnmaskError: a setting that it does not have, or one that no tensor tells is missing.
    """
    rope_of(name, published)
    experts = (
        ("num_hidden_layers", "num_experts", "num_experts_per_tok", "norm_topk_prob") if kind is Qwen3MoeConfig else ()
    )
    check_told(name, published, "num_attention_heads", "num_key_value_heads", "rms_norm_eps", *experts)
    if experts:
        check_choice(name, published["num_experts"], published["num_experts_per_tok"])
    with refused(name):
        config = kind(**{key: value for key, value in published.items() if key not in OWN})
    if getattr(config, "use_sliding_window", False):
        raise UnmaskError(
            f"config.json of {name!r} asks for a sliding window, which its family does not have: remove it."
        )
    return config


def _check_tensors(name: str, path: str, published: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    step, dense = published.get("decoder_sparse_step") or 1, published.get("mlp_only_layers") or []
    layers = [i for i in range(published["num_hidden_layers"]) if i not in dense and (i + 1) % step == 0]
    check_experts(name, path, options, layers, published["num_experts"])


SDAR = Family("SDAR", partial(stock_config, Qwen3Config), Qwen3ForCausalLM, 4, 151669)
SDAR_MOE = Family(
    "SDAR-MoE", partial(stock_config, Qwen3MoeConfig), Qwen3MoeForCausalLM, 4, 151669, check=_check_tensors
)
FAST_DLLM = Family("Fast-dLLM v2", partial(stock_config, Qwen2Config), Qwen2ForCausalLM, 32, 151665, shifted=True)
STABLE_DIFFCODER = Family("Stable-DiffCoder", partial(stock_config, LlamaConfig), LlamaForCausalLM, 4, 5)
