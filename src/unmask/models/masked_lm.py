"""Any stock transformers architecture with a MaskedLM head (BERT, RoBERTa, ModernBERT, EuroBERT, ...)."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel

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


class MaskedLM(MaskedDiffusionModel):
    """A masked language model used as a dLLM: unshifted logits, the usual attention mask."""

    def __init__(
        self, name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mask_id: int | None = None
    ) -> None:
        """
        Raises:
            UnmaskError: no mask id, one outside the vocabulary, or no EOS and no SEP token.
        """
        config = network.config
        mask_id = tokenizer.mask_token_id if mask_id is None else mask_id
        if mask_id is None:
            raise UnmaskError(f"The tokenizer of {name!r} has no mask token: pass mask_id.")
        if not 0 <= mask_id < config.vocab_size:
            raise UnmaskError(
                f"mask_id {mask_id} is outside the vocabulary of {name!r} (0 to {config.vocab_size - 1})."
            )
        eos_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        if eos_id is None:
            raise UnmaskError(f"The tokenizer of {name!r} has neither an EOS nor a SEP token: set tokenizer.eos_token.")
        self.first_position = config.pad_token_id + 1 if config.model_type in ROBERTA_LIKE else 0
        super().__init__(
            name,
            tokenizer,
            mask_id=mask_id,
            pad_id=config.pad_token_id if config.pad_token_id is not None else 0,
            eos_ids=[eos_id],
            max_length=config.max_position_embeddings - self.first_position,
            device=network.device,
        )
        self.network = network.eval().requires_grad_(False)
        self._takes_positions = "position_ids" in inspect.signature(network.forward).parameters
        self._selected: Tensor | None = None
        network.base_model.register_forward_hook(self._keep_selected)

    def logits(
        self, tokens: Int[Tensor, "b t"], attention: Bool[Tensor, "b t"], positions: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "n v"]:
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": attention.long()}
        if self._takes_positions:
            real = (attention.cumsum(dim=1) - 1).clamp(min=0)
            inputs["position_ids"] = real + self.first_position
        self._selected = positions
        try:
            return self.network(**inputs).logits[0]
        finally:
            self._selected = None

    def _keep_selected(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Hand only the selected positions, as one long row, to whatever head the architecture has."""
        if self._selected is not None:
            output.last_hidden_state = output.last_hidden_state[self._selected][None]
        return output
