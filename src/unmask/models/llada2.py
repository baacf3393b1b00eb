"""LLaDA2.0 and 2.1 (mini, flash) as the GLM-4 mixture of experts that they are, block-causal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, core_model_loading
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

from unmask.errors import UnmaskError
from unmask.models.block_families import Family
from unmask.models.experts import check_experts
from unmask.models.loading import plain_rope_of, refused

# From transformers 5.20; engines may pin an older one, which is told when a LLaDA2 is loaded.
Split: Any = getattr(core_model_loading, "Split", None)

# The published code has more variants than the published weights use.
MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "use_qk_norm": (True,),
    "use_bias": (False,),
    "use_qkv_bias": (False,),
    "norm_topk_prob": (True,),
    "hidden_act": ("silu",),
    "score_function": ("sigmoid",),
    "rope_scaling": (None,),
}


class LLaDA2ForCausalLM(Glm4MoeForCausalLM):
    """A stock network whose tensors are read under their published names."""


if Split is not None:
    register_checkpoint_conversion_mapping(
        LLaDA2ForCausalLM.__name__,
        [
            WeightRenaming(r"model\.word_embeddings\.", "model.embed_tokens."),
            WeightRenaming(r"\.attention\.dense\.", ".self_attn.o_proj."),
            WeightRenaming(r"\.attention\.query_layernorm\.", ".self_attn.q_norm."),
            WeightRenaming(r"\.attention\.key_layernorm\.", ".self_attn.k_norm."),
            WeightRenaming(r"\.mlp\.gate\.expert_bias", ".mlp.gate.e_score_correction_bias"),
            WeightConverter(
                ".attention.query_key_value.weight",
                [".self_attn.q_proj.weight", ".self_attn.k_proj.weight", ".self_attn.v_proj.weight"],
                operations=[Split(dim=0)],
            ),
            WeightConverter(
                ["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
                "mlp.experts.gate_up_proj",
                operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
            ),
            WeightConverter(
                "mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", operations=[MergeModulelist(dim=0)]
            ),
        ],
        overwrite=True,
    )


def glm_config(name: str, published: Mapping[str, Any]) -> Glm4MoeConfig:
    """The published config in GLM-4's words.

    Raises:
        UnmaskError: naming the setting that is no published LLaDA2's, or the one that is missing.
    """
    if Split is None:
        raise UnmaskError(f"{name!r} is a LLaDA2, which needs transformers 5.20 or newer: install one.")
    for key, allowed in MUST_BE.items():
        if published.get(key, allowed[0]) not in allowed:
            raise UnmaskError(
                f"config.json of {name!r} has {key} = {published[key]!r}, which is no LLaDA2 that was published "
                f"({allowed[0]!r}): it cannot be read as one."
            )
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "num_experts_per_tok", "n_group", "topk_group", "moe_intermediate_size"),
        *("first_k_dense_replace", "routed_scaling_factor", "rms_norm_eps", "max_position_embeddings"),
    )
    rope = {"partial_rotary_factor": 1.0, **plain_rope_of(name, published, "partial_rotary_factor")}
    _check_experts(name, published)
    try:
        with refused(name):
            return _made(published, same, rope)
    except KeyError as e:
        raise UnmaskError(f"config.json of {name!r} lacks {e.args[0]!r}: take the one published with it.") from None


def _made(published: Mapping[str, Any], same: Sequence[str], rope: dict[str, Any]) -> Glm4MoeConfig:
    return Glm4MoeConfig(
        **{key: published[key] for key in same},
        n_routed_experts=published["num_experts"],
        n_shared_experts=published["num_shared_experts"],
        use_qk_norm=True,
        norm_topk_prob=True,
        num_mtp_layers=0,
        rope_parameters=rope,
        tie_word_embeddings=published.get("tie_word_embeddings", False),
        pad_token_id=published.get("pad_token_id"),
        eos_token_id=published.get("eos_token_id"),
        bos_token_id=None,
        **{key: published[key] for key in ("quantization_config",) if key in published},
    )


def _check_experts(name: str, published: Mapping[str, Any]) -> None:
    """
    Raises:
        UnmaskError: numbers of experts and groups that do not fit each other.
    """
    keys = ("num_experts", "n_group", "topk_group", "num_experts_per_tok")
    numbers = [published.get(key) for key in keys]
    if not all(type(n) is int and n > 0 for n in numbers if n is not None):
        raise UnmaskError(
            f"config.json of {name!r} has {dict(zip(keys, numbers, strict=True))}: give whole numbers from 1."
        )
    experts, groups, best, chosen = (n or 1 for n in numbers)
    if None not in numbers and (experts % groups or best > groups or chosen > best * experts // groups):
        raise UnmaskError(
            f"config.json of {name!r} has {dict(zip(keys, numbers, strict=True))}, which do not fit each other: "
            "take the one published with it."
        )


def _check_tensors(name: str, path: str, published: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    layers = range(published["first_k_dense_replace"], published["num_hidden_layers"])
    check_experts(name, path, options, layers, published["num_experts"])


LLADA2 = Family("LLaDA2", glm_config, LLaDA2ForCausalLM, 32, 156895, check=_check_tensors)
