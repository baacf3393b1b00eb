"""Classifier-free guidance, as LLaDA's released code has it (``cfg_scale``; arXiv 2502.09992, appendix)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.memory import Memory
from unmask.models.wrapper import ModelWrapper


class Guided(ModelWrapper):
    """A dLLM whose logits are moved away from those it gives where the prompt is masked.

    With z the logits of a row and u those of the same row with a masked prompt: u + (scale + 1) (z - u). Each pass runs
    the dLLM on both.

    Args:
        scale: above 0.
        gen_length: positions of the region, which stay as they are.
    """

    def __init__(self, model: MaskedDiffusionModel, scale: float, gen_length: int) -> None:
        """
        Raises:
            UnmaskError: a dLLM that keeps something from pass to pass.
        """
        if model.memory(1) is not None:
            raise UnmaskError(
                f"cfg_scale runs the dLLM twice a pass, and {model.name!r} ({model.family}) keeps something from pass "
                "to pass: leave one out."
            )
        super().__init__(model, "guided")
        self.hidden_size = None  # what the head reads are two hidden states
        self._scale, self._gen_length = scale, gen_length

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        attention: Bool[Tensor, "b t"],
        positions: Int[Tensor, " n"],
        memory: Memory | None = None,
    ) -> Float[Tensor, "n w"]:
        in_prompt = attention & (
            torch.arange(tokens.shape[1], device=tokens.device) < tokens.shape[1] - self._gen_length
        )
        both = torch.cat([tokens, tokens.masked_fill(in_prompt, self.mask_id)])
        where = torch.cat([positions, positions + tokens.numel()])
        return torch.cat(self.inner.hidden(both, attention.repeat(2, 1), where).chunk(2), dim=1)

    def computed(
        self, attention: Bool[Tensor, "b t"], asked: Bool[Tensor, "b t"], memory: Memory | None
    ) -> Int[Tensor, " b"]:
        return 2 * self.inner.computed(attention, asked, memory)

    def head(self, hidden: Float[Tensor, "n w"]) -> Float[Tensor, "n v"]:
        given, without = (self.inner.head(part) for part in hidden.chunk(2, dim=1))
        return given.sub_(without).mul_(self._scale + 1).add_(without)
