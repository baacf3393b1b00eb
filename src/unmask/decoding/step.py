"""One step of decoding, pure: observe (one dLLM forward pass), then transition. Training and evaluation share it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.blocks import selectable
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.types import DecodingState, Needs, Observation, uniform

CHUNK_ELEMENTS = 2**26  # logits turned to float32 at a time: 256 MiB


def observe(
    model: MaskedDiffusionModel,
    state: DecodingState,
    needs: Needs,
    block_length: int,
    suppress_eos: bool = False,
) -> tuple[Observation, Int[Tensor, "b l"]]:
    """Ask the dLLM once what it would write, and how sure it is, at the positions the policy needs.

    Args:
        suppress_eos: a position whose likeliest token is EOS gets confidence 0 while an earlier masked position
            predicts something else (LLaDA's `confidence_eos_eot_inf`; ours lets go of the EOS tail once the text
            before it stands, instead of revealing it one position a step).

    Returns:
        The observation, and the token each position would take (0 where nobody asked).

    Raises:
        UnmaskError: the dLLM's logits hold NaN.
    """
    may = selectable(state.masked, block_length)
    wanted = torch.ones_like(may) if needs.positions == "region" else may
    prompt = torch.zeros_like(state.attention[:, : -state.gen_length])
    logits = model.logits(state.tokens, state.attention, torch.cat([prompt, wanted], dim=1))
    found_confidence, found_token = confidences(logits, needs.top_k, model.banned_ids)
    if bool(found_confidence.isnan().any()):
        raise UnmaskError("The dLLM returned NaN logits: load it with dtype float32 or bfloat16, or check its weights.")

    b, length = state.masked.shape
    confidence = found_confidence.new_zeros(b, length, needs.top_k)
    confidence[wanted] = found_confidence
    predicted = state.tokens.new_zeros(b, length)
    predicted[wanted] = found_token
    if suppress_eos:
        confidence = _suppress_eos(confidence, predicted, may, model.eos_ids)
    observation = Observation(
        confidence=confidence,
        masked=state.masked,
        selectable=may,
        step_fraction=state.step.to(torch.float32) / length,
        noise=uniform(state.key, state.step, length),
    )
    return observation, predicted


def transition(state: DecodingState, predicted: Int[Tensor, "b l"], action: Bool[Tensor, "b l"]) -> DecodingState:
    """Write the dLLM's tokens at the revealed positions; everything else stays."""
    region = torch.where(action, predicted, state.tokens[:, -state.gen_length :])
    return replace(
        state,
        tokens=torch.cat([state.tokens[:, : -state.gen_length], region], dim=1),
        masked=state.masked & ~action,
        step=state.step + 1,
    )


def confidences(
    logits: Float[Tensor, "n v"], top_k: int, banned: Int[Tensor, " m"]
) -> tuple[Float[Tensor, "n k"], Int[Tensor, " n"]]:
    """The top-k probabilities (float32, plain softmax) and the likeliest token, without a softmax over everything.

    exp(logit - logsumexp) at the k largest logits, in chunks of rows. Banned ids count in the normaliser, but are
    never chosen.
    """
    rows = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    values, tokens = [], []
    for chunk in logits.split(rows):
        part = chunk.float()
        log_z = part.logsumexp(dim=-1, keepdim=True)
        best, index = part.index_fill(-1, banned, -torch.inf).topk(top_k, dim=-1)
        values.append((best - log_z).exp())
        tokens.append(index[:, 0])
    return torch.cat(values), torch.cat(tokens)


def _suppress_eos(confidence: Tensor, predicted: Tensor, may: Tensor, eos_ids: Tensor) -> Tensor:
    eos = torch.isin(predicted, eos_ids) & may
    text_before = (may & ~eos).cumsum(dim=1) > 0
    return confidence.masked_fill((eos & text_before)[..., None], 0.0)
