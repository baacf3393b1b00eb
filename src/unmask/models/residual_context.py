"""Residual Context Diffusion (arXiv 2601.22954): what a step computed at masked positions feeds the next one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Memory, Reader, spread
from unmask.models.wrapper import ModelWrapper
from unmask.observation import Positions


@dataclass(frozen=True)
class ResidualMemory(Memory):
    """What the last pass adds to the input embeddings of masked positions.

    Attributes:
        embeddings: the dLLM's input embeddings.
        mask_id: of its mask token.
        residual: zero where the last pass read nothing; None before the first pass.
    """

    positions: ClassVar[Positions] = "masked"  # the next pass needs all of them
    embeddings: Float[Tensor, "v h"]
    mask_id: int
    residual: Float[Tensor, "b l h"] | None = None

    def take(self, rows: Tensor) -> ResidualMemory:
        return self if self.residual is None else replace(self, residual=self.residual[rows])

    def join(self, n: int) -> ResidualMemory:
        known = self.residual
        if known is None:
            return self
        return replace(self, residual=torch.cat([known, known.new_zeros(n, *known.shape[1:])]))

    def inputs(self, tokens: Int[Tensor, "b t"]) -> dict[str, Tensor]:
        if self.residual is None:
            return super().inputs(tokens)
        length = self.residual.shape[1]
        at_mask = (tokens[:, -length:] == self.mask_id)[..., None]
        embedded = torch.nn.functional.embedding(tokens, self.embeddings)
        embedded[:, -length:] += (self.residual * at_mask).to(embedded.dtype)
        return {"inputs_embeds": embedded}

    def reader(self, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], shape: tuple[int, int]) -> Reader:
        def read(logits: Tensor, p: Tensor, before: int) -> Tensor:
            weight = torch.special.entr(p).sum(dim=-1, keepdim=True) / math.log(p.shape[-1])
            mixture = p.to(self.embeddings.dtype) @ self.embeddings
            return weight * (mixture - self.embeddings[self.mask_id])

        return Reader(read, lambda residual: replace(self, residual=spread(residual, shape, rows, columns)))


class ResidualContext(ModelWrapper):
    """A dLLM whose masked positions feed their last distribution p into the next pass.

    With E the input embeddings, the embedding of a masked position becomes (1 - a) E[mask] + a sum_v p(v) E[v], where
    a = H(p) / log V is p's entropy, normalised: the less is known, the more of the mixture goes in.
    """

    def __init__(self, model: MaskedDiffusionModel) -> None:
        """
        Raises:
            UnmaskError: a family that does not take input embeddings, or a block-causal one.
        """
        if model.block_length is not None:
            raise UnmaskError(
                f"residual_context is for dLLMs that attend in full, and {model.name!r} is not one: leave it out."
            )
        super().__init__(model, "residual context")
        self._embeddings = model.embeddings

    def memory(self, rows: int, cache: str = "none") -> ResidualMemory:
        return ResidualMemory(self._embeddings, self.mask_id)
