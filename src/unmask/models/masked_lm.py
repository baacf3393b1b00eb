"""Any stock transformers architecture with a MaskedLM head (BERT, RoBERTa, ModernBERT, EuroBERT, ...)."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Memory, inputs_of
from unmask.models.stale_cache import STALE, StaleCache, can_be_cached, is_kept_well

# These count positions from pad_token_id + 1.
ROBERTA_LIKE = {
    "camembert",
    "data2vec-text",
    "ibert",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


def first_position(config: PretrainedConfig) -> int:
    """The number of a text's first position: RoBERTa's kind counts from behind the padding's."""
    return config.pad_token_id + 1 if config.model_type in ROBERTA_LIKE else 0


class MaskedLM(MaskedDiffusionModel):
    """A masked language model used as a dLLM: unshifted logits, the usual attention mask."""

    family = "masked language model"

    network: PreTrainedModel

    def __init__(
        self, name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mask_id: int | None = None
    ) -> None:
        """
        Raises:
            UnmaskError: no mask id.
        """
        config = network.config
        mask_id = tokenizer.mask_token_id if mask_id is None else mask_id
        if mask_id is None:
            raise UnmaskError(f"The tokenizer of {name!r} has no mask token: pass mask_id.")
        eos_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        self.first_position = first_position(config)
        super().__init__(
            name,
            tokenizer,
            mask_id=mask_id,
            pad_id=config.pad_token_id if config.pad_token_id is not None else 0,
            eos_ids=[] if eos_id is None else [eos_id],
            vocab_size=config.vocab_size,
            max_length=config.max_position_embeddings - self.first_position,
            hidden_size=config.hidden_size,
            device=network.device,
        )
        self.network = network.eval().requires_grad_(False)
        self._body = network.base_model
        self._takes_positions = "position_ids" in inspect.signature(network.forward).parameters
        self._given: Tensor | None = None
        self._one_token = torch.zeros(1, 1, dtype=torch.long, device=network.device)
        self._body_forward = self._body.forward
        self._body.forward = self._forward
        self.caches = STALE if self._takes_positions and can_be_cached(network) and is_kept_well(self) else ()

    @property
    def embeddings(self) -> Float[Tensor, "v h"]:
        return cast(Tensor, self.network.get_input_embeddings().weight)

    def compile(self) -> None:
        self._body_forward = torch.compile(self._body_forward, dynamic=True)
        self.caches = ()

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        inputs: dict[str, Any] = {**inputs_of(tokens, memory), "attention_mask": attention.long()}
        if self._takes_positions:
            real = (attention.cumsum(dim=1) - 1).clamp(min=0)
            inputs["position_ids"] = real + self.first_position
        last = self._body(**inputs).last_hidden_state.flatten(0, 1)
        return last[positions.to(last.device)].to(self.device)  # its layers may lie on several devices

    def memory(self, rows: int, cache: str = "none") -> StaleCache | None:
        return None if cache == "none" else StaleCache.begin(cache, rows, self.device)

    def advance(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None,
    ) -> tuple[Float[Tensor, "n h"], Memory | None]:
        if not isinstance(memory, StaleCache):
            return super().advance(tokens, attention, positions, memory)

        def run(ids: Tensor, place: Tensor, mask: Tensor) -> Tensor:
            at = place + self.first_position
            out: Tensor = self._body(input_ids=ids, attention_mask=mask, position_ids=at).last_hidden_state
            return out

        last, moved = memory.passed(self.network, tokens, attention, run)
        return last.flatten(0, 1)[positions], moved

    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        self._given = hidden[None]
        try:
            return self.network(input_ids=self._one_token).logits[0]
        finally:
            self._given = None

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """The body; while `head` runs, hand it the given hidden states, so that any architecture's head can run alone.

        Stock architectures name and build their heads differently; all call them on the body's last hidden state.
        """
        if self._given is not None:
            return BaseModelOutput(last_hidden_state=self._given)
        return self._body_forward(*args, **kwargs)
