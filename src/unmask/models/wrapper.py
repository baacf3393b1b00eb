"""A dLLM around another one."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Memory


class ModelWrapper(MaskedDiffusionModel):
    """The same dLLM, changed in one thing; what is not changed goes through."""

    def __init__(self, model: MaskedDiffusionModel, family: str) -> None:
        super().__init__(
            model.name,
            model.tokenizer,
            mask_id=model.mask_id,
            pad_id=model.pad_id,
            eos_ids=model.eos_ids.tolist(),
            vocab_size=model.vocab_size,
            max_length=model.max_length,
            hidden_size=model.hidden_size,
            device=model.device,
        )
        self.family = f"{model.family}, {family}"
        self.block_length, self.revises = model.block_length, model.revises
        self.inner, self.network = model, model.network

    @property
    def embeddings(self) -> Float[Tensor, "v h"]:
        return self.inner.embeddings

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n h"]:
        return self.inner.hidden(tokens, attention, positions, memory)

    def computed(
        self, attention: Bool[Tensor, "b t"], asked: Bool[Tensor, "b t"], memory: Memory | None
    ) -> Int[Tensor, " b"]:
        return self.inner.computed(attention, asked, memory)

    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        return self.inner.head(hidden)

    def memory(self, rows: int, cache: str = "none") -> Memory | None:
        return self.inner.memory(rows)

    def compile(self) -> None:
        self.inner.compile()
