"""Stock decoder architectures (Llama, Qwen2, Qwen3): what most dLLMs are, but for the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Memory, inputs_of
from unmask.models.stale_cache import STALE, StaleCache, can_be_cached


class StockDecoder(MaskedDiffusionModel):
    """A causal architecture of transformers; each kind gives it a mask of its own.

    Args:
        shifted: the logits that predict the token at a position stand one position before it (Dream, Fast-dLLM v2). The
            first token of a row has no position before it and keeps its own.
    """

    network: PreTrainedModel

    def __init__(
        self,
        name: str,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        family: str,
        mask_id: int,
        eos_ids: Sequence[int],
        shifted: bool,
    ) -> None:
        config = network.config
        super().__init__(
            name,
            tokenizer,
            mask_id=mask_id,
            pad_id=config.pad_token_id if config.pad_token_id is not None else eos_ids[0],
            eos_ids=eos_ids,
            vocab_size=config.vocab_size,
            max_length=config.max_position_embeddings,
            hidden_size=config.hidden_size,
            device=network.device,
        )
        self.family = family
        self.network = network.eval().requires_grad_(False)
        self.shifted = shifted

    @property
    def embeddings(self) -> Float[Tensor, "v h"]:
        return cast(Tensor, self.network.get_input_embeddings().weight)

    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        head = self.network.get_output_embeddings()
        return head(hidden.to(head.weight.device)).to(self.device)

    def compile(self) -> None:
        self.network.base_model.compile(dynamic=True)


class FullAttentionDecoder(StockDecoder):
    """The architecture without its causal mask: LLaDA, Dream, DiffuCoder. Its config and layers are told so."""

    def __init__(
        self, name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **settings: Any
    ) -> None:
        super().__init__(name, network, tokenizer, **settings)
        network.config.is_causal = False  # transformers then builds masks for full attention
        for module in network.modules():
            if hasattr(module, "is_causal"):
                setattr(module, "is_causal", False)  # noqa: B010 - torch types attributes of modules as tensors
        self.caches = STALE if can_be_cached(network) else ()

    def compile(self) -> None:
        super().compile()
        self.caches = ()

    def memory(self, rows: int, cache: str = "none") -> StaleCache | None:
        return None if cache == "none" else StaleCache.begin(cache, rows, self.device, self.shifted)

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        last = self.network.base_model(
            **inputs_of(tokens, memory),
            attention_mask=attention.long(),
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return self._at(last, attention, positions)

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
            out: Tensor = self.network.base_model(
                input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False
            ).last_hidden_state
            return out

        last, moved = memory.passed(self.network, tokens, attention, run)
        return self._at(last, attention, positions), moved

    def _at(
        self, last: Float[Tensor, "b t h"], attention: Bool[Tensor, "b t"], positions: Int[Tensor, " n"]
    ) -> Float[Tensor, "n h"]:
        """Hidden states that predict the tokens at these positions."""
        if self.shifted:
            positions = positions - (attention.cumsum(dim=1).flatten()[positions] > 1).long()
        return last.flatten(0, 1)[positions.to(last.device)].to(self.device)  # its layers may lie on several devices


def token_ids(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> list[int]:
    """Ids of those of the tokens that the tokenizer has, each once."""
    vocabulary = tokenizer.get_vocab()
    return list(dict.fromkeys(vocabulary[name] for name in names if name in vocabulary))
