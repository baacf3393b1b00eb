"""From a published folder to a block-causal dLLM: what all families share, and what the files of each do not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)
from transformers.utils.hub import cached_file

from unmask.errors import UnmaskError
from unmask.models.block_causal import BlockCausalDecoder
from unmask.models.decoder import token_ids
from unmask.models.loading import generation_ids, hub_options, load_network, refused

BLOCK_KEYS = ("block_size", "block_length", "bd_size")
ENDS = ("<|endoftext|>", "<|im_end|>", "<|role_end|>")
MASKS = ("<|MASK|>", "<|mask|>", "|<MASK>|", "<[MASK_TOKEN]>")
Published = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """One of them.

    Attributes:
        name: as it is called.
        stock: a dLLM's name and its published config -> the config in the words of the architecture that it is.
        network: class of that architecture.
        block_length: as published.
        mask_id: as published.
        shifted: as in `BlockCausalDecoder`.
        check: called with name, path, published config and options before the weights are read.
    """

    name: str
    stock: Callable[[str, Published], PreTrainedConfig]
    network: type[PreTrainedModel]
    block_length: int
    mask_id: int
    shifted: bool = False
    check: Callable[[str, str, Published, Mapping[str, Any]], None] | None = None


def load_block_causal(
    family: Family,
    name: str,
    path: str,
    published: Published,
    options: Mapping[str, Any],
    mask_id: int | None,
    causal_block: int | None,
) -> BlockCausalDecoder:
    """
    Raises:
        UnmaskError: weights or a tokenizer that cannot be read; a block length or an id that cannot be.
    """
    config = family.stock(name, published)
    if family.check is not None:
        family.check(name, path, published, options)
    network = load_network(name, path, family.network.from_pretrained, {**options, "config": config})
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
