"""A dLLM of a family that this library does not know, by the code published with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.decoder import token_ids
from unmask.models.loading import hub_options, load_network, refused
from unmask.models.memory import Memory

AUTO_CLASSES = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")


BLOCK_CAUSAL = ("trado", "llada2", "bd3lm")  # beside those that are read without their code
BLOCK_KEYS = ("block_size", "block_length", "bd_size", "canvas_length")
SHIFTED = ("Dream",)  # model types whose code gives logits one position ahead


class RemoteModel(MaskedDiffusionModel):
    """The published class behind a seam that asks nothing of it but ``network(input_ids).logits``.

    Rows of different lengths go through separate passes, without padding: published code often forgets to hide it. All
    logits are computed, and hidden states are not shown to policies.

    Args:
        shifted: as in `unmask.models.decoder.StockDecoder`.
    """

    family = "remote code"

    network: PreTrainedModel

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mask_id: int,
        eos_ids: Sequence[int],
        pad_id: int,
        max_length: int | None,
        shifted: bool = False,
    ) -> None:
        device = network.device
        with torch.no_grad():
            vocab_size = network(input_ids=torch.tensor([[mask_id, mask_id]], device=device)).logits.shape[-1]
        super().__init__(
            name,
            tokenizer,
            mask_id=mask_id,
            pad_id=pad_id,
            eos_ids=eos_ids,
            vocab_size=vocab_size,
            max_length=max_length,
            hidden_size=None,
            device=device,
        )
        self.network = network.eval().requires_grad_(False)
        self.shifted = shifted

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        """The logits themselves."""
        width = tokens.shape[1]
        found: Tensor | None = None
        starts = (~attention).sum(dim=1)
        row, column = positions // width, positions % width
        for start in starts.unique().tolist():
            rows = (starts == start).nonzero()[:, 0]
            logits = self.network(input_ids=tokens[rows, start:]).logits.to(self.device)
            here = (starts[row] == start).nonzero()[:, 0]
            place = column[here] - start
            picked = logits[torch.searchsorted(rows, row[here]), place - int(self.shifted) * (place > 0)]
            found = picked.new_empty(len(positions), picked.shape[-1]) if found is None else found
            found[here] = picked
        assert found is not None
        return found

    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        return hidden.clone()


def load_remote(
    name: str,
    path: str,
    published: Mapping[str, Any],
    options: Mapping[str, Any],
    mask_id: int | None,
    full_attention: bool = False,
) -> RemoteModel:
    """
    Args:
        full_attention: a family that is known to need a mask between blocks is run without one.

    Raises:
        UnmaskError: the code cannot be run, neither config nor tokenizer tell the mask id, or the family is known to
            need a mask between blocks.
    """
    if not full_attention:
        check_attention(name, published)
    auto = next((cls for cls in AUTO_CLASSES if cls in published["auto_map"]), None)
    if auto is None:
        raise UnmaskError(f"The code of {name!r} has none of {', '.join(AUTO_CLASSES)}: it is no language model.")
    loader = getattr(transformers, auto).from_pretrained
    network = load_network(name, path, loader, {**options, "trust_remote_code": True})
    with refused(name):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True, **hub_options(options))
    mask_id = published.get("mask_token_id", tokenizer.mask_token_id) if mask_id is None else mask_id
    if mask_id is None:
        raise UnmaskError(f"Neither config nor tokenizer of {name!r} tell the mask id: pass mask_id (--mask-id).")
    ends = [published.get("eos_token_id"), tokenizer.eos_token_id, *token_ids(tokenizer, ["<|eot_id|>", "<|im_end|>"])]
    eos_ids = list(dict.fromkeys(end for end in ends if isinstance(end, int)))
    return RemoteModel(
        name,
        network,
        tokenizer,
        mask_id=mask_id,
        eos_ids=eos_ids,
        pad_id=published.get("pad_token_id") or 0,
        max_length=published.get("max_position_embeddings"),
        shifted=published.get("model_type") in SHIFTED,
    )


def check_attention(name: str, published: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """
    Args:
        also: further kinds that need a mask between blocks.

    Raises:
        UnmaskError: the family is known to need one, and its code makes none.
    """
    kind = str(published.get("model_type"))
    sign = next((key for key in BLOCK_KEYS if key in published), None)
    known = kind.lower() in BLOCK_CAUSAL or kind in also
    if known or sign is not None:
        why = f"it is a {kind!r}" if known else f"its config.json has {sign!r}"
        raise UnmaskError(
            f"{name!r} attends in full within a block and causally between blocks ({why}). Its code does so only when "
            "told by a mask, which is not given here: its answers would be wrong. Use a dLLM with full attention, "
            "or pass full_attention (--full-attention) if this one was trained with it."
        )
