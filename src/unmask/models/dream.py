"""Dream 7B and DiffuCoder 7B as the Qwen2 that they are, with full attention and logits one position ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from unmask.errors import UnmaskError
from unmask.models.decoder import FullAttentionDecoder, token_ids
from unmask.models.loading import check_told, generation_ids, hub_options, load_network, refused, rope_of

# Of the published config, what names its own code rather than the architecture.
OWN = ("architectures", "auto_map", "model_type", "mask_token_id", "transformers_version")


def load_dream(
    name: str, path: str, published: Mapping[str, Any], options: Mapping[str, Any], mask_id: int | None
) -> FullAttentionDecoder:
    """
    Raises:
        UnmaskError: weights or a tokenizer that cannot be read, no mask id.
    """
    config = qwen2_config(name, published)
    network = load_network(name, path, Qwen2ForCausalLM.from_pretrained, {**options, "config": config})
    with refused(name):
        tokenizer = Qwen2Tokenizer.from_pretrained(path, **hub_options(options))
    if not tokenizer("a")["input_ids"]:  # it makes an empty one where it finds no files
        raise UnmaskError(f"The folder of {name!r} lacks vocab.json and merges.txt: download all of its files.")
    told = generation_ids(path, options)
    known = (published.get("mask_token_id"), told.mask, tokenizer.mask_token_id)
    mask_id = next((found for found in known if found is not None), None) if mask_id is None else mask_id
    if mask_id is None:
        raise UnmaskError(f"Neither config nor tokenizer of {name!r} tell the mask id: pass mask_id (--mask-id).")
    end = published.get("eos_token_id")
    ends = [*([end] if end is not None else []), *told.ends]
    ends += token_ids(tokenizer, ["<|endoftext|>", "<|im_end|>", "<|dlm_pad|>"])  # the last is DiffuCoder's
    return FullAttentionDecoder(
        name, network, tokenizer, family="Dream", mask_id=mask_id, eos_ids=list(dict.fromkeys(ends)), shifted=True
    )


def qwen2_config(name: str, published: Mapping[str, Any]) -> Qwen2Config:
    """The published config in Qwen2's words.

    Raises:
        UnmaskError: a setting that is no Qwen2's, or one that no tensor tells is missing.
    """
    rope_of(name, published)
    check_told(name, published, "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    with refused(name):
        config = Qwen2Config(**{key: value for key, value in published.items() if key not in OWN})
    if config.use_sliding_window:
        raise UnmaskError(f"config.json of {name!r} asks for a sliding window, which Dream does not have: remove it.")
    return config
