"""LLaDA2.1's decode loop as released with it: masks are filled, and revealed tokens corrected, block by block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def editing_loop(
    logits: Callable[[Tensor], Tensor],
    prompt: Sequence[int],
    *,
    gen_length: int,
    block_length: int,
    mask_id: int,
    eos_ids: Collection[int],
    threshold: float = 0.95,
    editing_threshold: float = 0.9,
    max_post_steps: int = 16,
    early_stop: bool = True,
) -> tuple[list[int], int, int]:
    """One prompt, everything computed anew by each pass.

    Two things are not as released, as `unmask` has them: masks behind the region stay, and a mask is never written.

    Args:
        logits: of the tokens (t,) up to the end of a block: (t, v).

    Returns:
        The region, cut behind its first EOS; forward passes; tokens that were corrected.
    """
    n, end = len(prompt), len(prompt) + gen_length
    x = torch.full((-(-end // block_length) * block_length,), mask_id)
    x[:n] = torch.tensor(prompt)
    nfe = edited = 0
    for start in range(n // block_length * block_length, end, block_length):
        stop = start + block_length
        position = torch.arange(start, stop)
        editable = (position >= n) & (position < end)
        post_steps = 0
        while True:
            block = x[start:stop]
            masked = (block == mask_id) & editable
            if not masked.any():
                post_steps += 1
            if post_steps > max_post_steps:
                break
            z = logits(x[:stop])[start:].float()
            p = z.softmax(dim=-1)
            z[:, mask_id] = -torch.inf
            token = z.argmax(dim=-1)
            sure = p.gather(1, token[:, None])[:, 0]
            nfe += 1
            fill = masked & (sure > threshold)
            if masked.any() and not fill.any():
                fill[torch.where(masked, sure, -1).argmax()] = True
            edit = editable & ~masked & (sure > editing_threshold) & (token != block)
            x[start:stop] = torch.where(fill | edit, token, block)
            edited += int(edit.sum())
            if not masked.any() and not edit.any():
                break
        if early_stop and set(x[n:stop].tolist()) & set(eos_ids):
            break
    region = x[n:end].tolist()
    first = next((i for i, token in enumerate(region) if token in eos_ids), gen_length)
    return region[: first + 1], nfe, edited
