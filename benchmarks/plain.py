"""The decode loop that everyone writes, and each deterministic rule as its paper reads, one row at a time.

The reference that `benchmarks/decoding.py` and the tests hold `unmask` against: it shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    place = torch.arange(gen_length)
    nfe, step = torch.zeros(len(prompts), dtype=torch.long), 0
    for start in range(0, gen_length, block_length):
        block = (place >= start) & (place < start + block_length)
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


def plain_rule(settings: dict[str, Any], mask_id: int) -> Choose:
    """A deterministic rule for a batch of one, from the settings that name `unmask`'s.

    What agrees to four decimals is tied and goes from left to right, as in `unmask`.
    """
    name = settings["type"]
    last: list[Tensor] = []
    changes: list[Tensor] = []

    def choose(p: Tensor, masked: Tensor, may: Tensor, step: int) -> Tensor:
        p, masked, may = p[0], masked[0], may[0]
        top = p.index_fill(-1, torch.tensor(mask_id), 0).topk(2, dim=-1).values
        confidence, margin = top[:, 0].tolist(), (top[:, 0] - top[:, 1]).tolist()
        candidates = may.nonzero()[:, 0].tolist()
        by_confidence = sorted(candidates, key=lambda i: (-round(confidence[i], 4), i))
        by_margin = sorted(candidates, key=lambda i: (-round(margin[i], 4), i))
        chosen: list[int] = []
        if name == "top_k_confidence":
            chosen = by_confidence[: settings["k"]]
        elif name == "confidence_threshold":
            chosen = [i for i in candidates if confidence[i] > settings["threshold"]] or by_confidence[:1]
        elif name == "margin_top_k":
            chosen = by_margin[: settings["k"]]
        elif name == "margin_threshold":
            chosen = [i for i in candidates if margin[i] > settings["threshold"]] or by_margin[:1]
        elif name == "rising_threshold":
            a, b, n = settings["start"], settings["end"], len(confidence) - 1
            chosen = [i for i in candidates if confidence[i] > a + (b - a) * i / n] or by_confidence[:1]
        elif name == "factor":
            n = 0
            while n < len(candidates) and (n + 2) * (1 - confidence[by_confidence[n]]) < settings["factor"]:
                n += 1
            chosen = by_confidence[: max(n, 1)]
        elif name == "entropy_bound":
            entropy = torch.special.entr(p.double()).sum(-1).tolist()
            order = sorted(candidates, key=lambda i: (round(entropy[i], 4), i))
            n, total = 0, 0.0
            while n < len(order) and total <= settings["gamma"]:  # ascending: the largest is the newest
                total += entropy[order[n]]
                n += 1
            chosen = order[: max(n, 1)]
        elif name == "klass":
            p = p.double()
            if last:
                changes.append((p * (p.clamp(min=1e-38).log() - last[0].clamp(min=1e-38).log())).sum(-1))
            last[:] = [p]
            recent = changes[-settings["history"] :]
            stable = [all(c[i] < settings["kl"] for c in recent) for i in range(len(p))]
            ready = [i for i in candidates if stable[i] and confidence[i] > settings["threshold"]]
            chosen = (ready if len(recent) == settings["history"] else []) or by_confidence[:1]
        elif name == "fixed_schedule":
            due = (
                sum(settings["counts"][: step + 1])
                + max(0, step - len(settings["counts"]) + 1) * settings["counts"][-1]
            )
            chosen = by_confidence[: max(1, due - int((~masked).sum()))]
        else:
            raise ValueError(f"no plain form of {name}")
        reveal = torch.zeros_like(may)
        reveal[chosen] = True
        return reveal[None]

    return choose
