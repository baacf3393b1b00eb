"""The decode loop that everyone writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Choose = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(probabilities (b, l, v), masked (b, l), may be revealed (b, l), step) -> reveal (b, l)"""


@torch.no_grad()
def plain_loop(
    network: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    choose: Choose,
    *,
    gen_length: int,
    block_length: int,
    mask_id: int,
    pad_id: int,
    first_position: int = 0,
    max_steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One batch in lock-step: every row waits for the slowest; head and softmax run at every position of every row.

    Returns:
        (b, gen_length) tokens, and (b,) forward passes while the row had something left to reveal.
    """
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width + gen_length), mask_id)
    attention = torch.ones_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, : width - len(prompt)], attention[row, : width - len(prompt)] = pad_id, 0
        tokens[row, width - len(prompt) : width] = torch.tensor(prompt)
    positions = (attention.cumsum(1) - 1).clamp(min=0) + first_position
    region = tokens[:, width:]
    position = torch.arange(gen_length)
    nfe, step = torch.zeros(len(prompts), dtype=torch.long), 0
    for start in range(0, gen_length, block_length):
        block = (position >= start) & (position < start + block_length)
        while ((region == mask_id) & block).any() and step < (max_steps or gen_length * len(prompts)):
            logits = network(input_ids=tokens, attention_mask=attention, position_ids=positions).logits
            p = logits.float().softmax(dim=-1)[:, width:]
            logits[..., mask_id] = -torch.inf
            predicted = logits[:, width:].argmax(dim=-1)
            masked = region == mask_id
            may = masked & block
            nfe += may.any(dim=1)
            region[:] = torch.where(choose(p, masked, may, step) & may, predicted, region)
            step += 1
    return region, nfe
