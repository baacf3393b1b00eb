"""Residual Context Diffusion (arXiv 2601.22954): what a step computed at masked positions feeds the next one."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.models.base import MaskedDiffusionModel


class ResidualContext(MaskedDiffusionModel):
    """A dLLM whose masked positions carry their last distribution p into the next step.

    With E the input embeddings, the embedding of a masked position becomes (1 - a) E[mask] + a sum_v p(v) E[v], where
    a = H(p) / log V is p's entropy, normalised: the less is known, the more of the mixture goes in.
    """

    carries = True

    def __init__(self, model: MaskedDiffusionModel) -> None:
        """
        Raises:
            UnmaskError: a family that does not take input embeddings.
        """
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
        self.family = f"{model.family}, residual context"
        self._model, self.network = model, model.network
        self._mask = model.embeddings[model.mask_id]

    @property
    def embeddings(self) -> Float[Tensor, "v h"]:
        return self._model.embeddings

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        carried: Float[Tensor, "b l c"] | None = None,
    ) -> Float[Tensor, "n h"]:
        return self._model.hidden(tokens, attention, positions, carried)

    def head(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        return self._model.head(hidden)

    def carry(self, probabilities: Float[Tensor, "n v"]) -> Float[Tensor, "n c"]:
        weight = torch.special.entr(probabilities).sum(dim=-1, keepdim=True) / math.log(self.vocab_size)
        mixture = probabilities.to(self.embeddings.dtype) @ self.embeddings
        return weight * (mixture - self._mask)

    def compile(self) -> None:
        self._model.compile()
