"""SDAR and TraDo as the Qwen3 that they are, and Fast-dLLM v2 as the Qwen2 that it is, block-causal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.utils.hub import cached_file

from unmask.errors import UnmaskError
from unmask.models.block_causal import BlockCausalDecoder
from unmask.models.decoder import token_ids
from unmask.models.loading import generation_ids, hub_options, load_network, refused

# Of the published configs, what names their own code rather than the architecture, or how they decode.
OWN = ("architectures", "auto_map", "model_type", "mask_token_id", "transformers_version")
BLOCK_KEYS = ("block_size", "block_length", "bd_size")
ENDS = ("<|endoftext|>", "<|im_end|>", "<|role_end|>")
MASKS = ("<|MASK|>", "<|mask|>", "|<MASK>|")


@dataclass(frozen=True)
class Family:
    """What the published files of a family do not tell.

    Attributes:
        name: as it is called.
        config: class of the stock config.
        network: class of the stock network.
        block_length: as published.
        mask_id: as published.
        shifted: as in `BlockCausalDecoder`.
    """

    name: str
    config: type[PreTrainedConfig]
    network: type[PreTrainedModel]
    block_length: int
    mask_id: int
    shifted: bool = False


QWEN = {
    "sdar": Family("SDAR", Qwen3Config, Qwen3ForCausalLM, 4, 151669),
    "sdar_moe": Family("SDAR-MoE", Qwen3MoeConfig, Qwen3MoeForCausalLM, 4, 151669),
    "Fast_dLLM_Qwen": Family("Fast-dLLM v2", Qwen2Config, Qwen2ForCausalLM, 32, 151665, shifted=True),
}


def load_qwen(
    name: str,
    path: str,
    published: Mapping[str, Any],
    options: Mapping[str, Any],
    mask_id: int | None,
    causal_block: int | None = None,
) -> BlockCausalDecoder:
    """
    Raises:
        UnmaskError: weights or a tokenizer that cannot be read, a block length or a mask id that cannot be.
    """
    family, config = QWEN[published["model_type"]], qwen_config(name, published)
    network = load_network(name, path, family.network.from_pretrained, {**options, "config": config})
    return decoder(name, path, published, options, network, family, mask_id, causal_block)


def qwen_config(name: str, published: Mapping[str, Any]) -> PreTrainedConfig:
    """The published config in Qwen's words.

    Raises:
        UnmaskError: a setting that is no Qwen's.
    """
    with refused(name):
        own = {key: value for key, value in published.items() if key not in (*OWN, *BLOCK_KEYS)}
        config = QWEN[published["model_type"]].config(**own)
    if getattr(config, "use_sliding_window", False):
        raise UnmaskError(
            f"config.json of {name!r} asks for a sliding window, which its family does not have: remove it."
        )
    return config


def decoder(
    name: str,
    path: str,
    published: Mapping[str, Any],
    options: Mapping[str, Any],
    network: PreTrainedModel,
    family: Family,
    mask_id: int | None,
    causal_block: int | None,
) -> BlockCausalDecoder:
    """The network with the ids and the blocks that its files tell, or else those of its family."""
    tokenizer = read_tokenizer(name, path, options)
    told = generation_ids(path, options)
    known: list[int | None] = [mask_id, published.get("mask_token_id"), told.mask, tokenizer.mask_token_id]
    known += [*token_ids(tokenizer, MASKS), family.mask_id]
    ends = [*_ids(published.get("eos_token_id")), *told.ends, *token_ids(tokenizer, ENDS)]
    mask = next(found for found in known if found is not None)
    for what, i in (("mask", mask), *(("EOS", end) for end in ends)):
        if type(i) is not int:
            raise UnmaskError(f"The {what} id of {name!r} is {i!r}: give a whole number (config.json, or mask_id).")
    if mask in ends:
        raise UnmaskError(
            f"The mask id of {name!r} is {mask}, which ends a text, too: correct config.json, or pass mask_id."
        )
    if tokenizer.eos_token_id is not None:
        ends.append(tokenizer.eos_token_id)
    return BlockCausalDecoder(
        name,
        network,
        tokenizer,
        family=family.name,
        mask_id=mask,
        eos_ids=list(dict.fromkeys(ends)),
        block_length=blocks_of(name, published, family, causal_block),
        shifted=family.shifted,
    )


def blocks_of(name: str, published: Mapping[str, Any], family: Family, causal_block: int | None) -> int:
    """Block length that the user asks for, that the config tells, or else the family's.

    Raises:
        UnmaskError: it is no number from 1.
    """
    known = (causal_block, *(published.get(key) for key in BLOCK_KEYS), family.block_length)
    length = next(found for found in known if found is not None)
    if type(length) is not int or length < 1:
        raise UnmaskError(f"The block length of {name!r} is {length!r}: give a whole number from 1 (causal_block).")
    return length


def read_tokenizer(name: str, path: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """By tokenizer.json where there is one, or else as Qwen publishes it: vocab.json and merges.txt.

    Raises:
        UnmaskError: there is neither.
    """
    with refused(name):
        whole = cached_file(path, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **hub_options(options))
        kind = Qwen2Tokenizer if whole is None else PreTrainedTokenizerFast
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(path, **hub_options(options))
    if not tokenizer("a")["input_ids"] and not Path(path, "tokenizer.json").exists():
        raise UnmaskError(f"The folder of {name!r} lacks its tokenizer: download all of its files.")
    return tokenizer


def _ids(value: Any) -> Sequence[int]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
