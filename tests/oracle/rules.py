"""Each deterministic rule as its paper reads, one row at a time.

What agrees to four decimals is tied and goes from left to right, as in `unmask`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.oracle.loop import Choose

RULES: list[dict[str, Any]] = [
    {"type": "top_k_confidence", "k": 1},
    {"type": "top_k_confidence", "k": 4},
    {"type": "confidence_threshold", "threshold": 0.9},
    {"type": "factor", "factor": 1.0},
    {"type": "margin_top_k", "k": 2},
    {"type": "margin_threshold", "threshold": 0.8},
    {"type": "entropy_bound", "gamma": 0.1},
    {"type": "klass", "threshold": 0.6, "kl": 0.015, "history": 2},
    {"type": "rising_threshold", "start": 0.5, "end": 0.95},
    {"type": "fixed_schedule", "counts": [1, 2, 3, 4, 4, 4]},
]


@dataclass
class Row:
    """What a rule sees of one row at one step: numbers by position, and the positions it may reveal.

    Attributes:
        kept: what the rule keeps from step to step.
    """

    p: Tensor
    confidence: list[float]
    margin: list[float]
    candidates: list[int]
    revealed: int
    step: int
    kept: list[Tensor] = field(default_factory=list)

    def falling(self, score: list[float]) -> list[int]:
        """Candidates by falling score."""
        return sorted(self.candidates, key=lambda i: (-round(score[i], 4), i))

    def above(self, score: list[float], threshold: Callable[[int], float]) -> list[int]:
        """Candidates above a threshold, or else the first of all."""
        return [i for i in self.candidates if score[i] > threshold(i)] or self.falling(score)[:1]


def top_k_confidence(row: Row, k: int) -> list[int]:
    return row.falling(row.confidence)[:k]


def confidence_threshold(row: Row, threshold: float) -> list[int]:
    return row.above(row.confidence, lambda i: threshold)


def margin_top_k(row: Row, k: int) -> list[int]:
    return row.falling(row.margin)[:k]


def margin_threshold(row: Row, threshold: float) -> list[int]:
    return row.above(row.margin, lambda i: threshold)


def rising_threshold(row: Row, start: float, end: float) -> list[int]:
    last = len(row.confidence) - 1
    return row.above(row.confidence, lambda i: start + (end - start) * i / last)


def factor(row: Row, factor: float) -> list[int]:
    order, n = row.falling(row.confidence), 0
    while n < len(order) and (n + 2) * (1 - row.confidence[order[n]]) < factor:
        n += 1
    return order[: max(n, 1)]


def entropy_bound(row: Row, gamma: float) -> list[int]:
    entropy = torch.special.entr(row.p.double()).sum(-1).tolist()
    order, n, total = row.falling([-e for e in entropy]), 0, 0.0
    while n < len(order) and total <= gamma:  # ascending: the largest is the newest
        total += entropy[order[n]]
        n += 1
    return order[: max(n, 1)]


def klass(row: Row, threshold: float, kl: float, history: int) -> list[int]:
    row.kept.append(row.p.double())
    logs = [p.clamp(min=1e-38).log() for p in row.kept]
    changes = [(p * (now - before)).sum(-1) for p, now, before in zip(row.kept[1:], logs[1:], logs, strict=False)]
    recent = changes[-history:]
    if len(recent) < history:
        return row.falling(row.confidence)[:1]
    stable = [i for i in row.candidates if all(change[i] < kl for change in recent)]
    return [i for i in stable if row.confidence[i] > threshold] or row.falling(row.confidence)[:1]


def fixed_schedule(row: Row, counts: list[int]) -> list[int]:
    due = sum(counts[: row.step + 1]) + max(0, row.step - len(counts) + 1) * counts[-1]
    return row.falling(row.confidence)[: max(1, due - row.revealed)]


PLAIN: dict[str, Callable[..., list[int]]] = {
    rule.__name__: rule
    for rule in (
        top_k_confidence,
        confidence_threshold,
        margin_top_k,
        margin_threshold,
        rising_threshold,
        factor,
        entropy_bound,
        klass,
        fixed_schedule,
    )
}


def plain_rule(settings: dict[str, Any], mask_id: int) -> Choose:
    """A deterministic rule for a batch of one, from the settings that name `unmask`'s."""
    values = dict(settings)
    rule, kept = PLAIN[values.pop("type")], list[Tensor]()

    def choose(p: Tensor, masked: Tensor, may: Tensor, step: int) -> Tensor:
        top = p[0].index_fill(-1, torch.tensor(mask_id), 0).topk(2, dim=-1).values
        confidence, margin = top[:, 0].tolist(), (top[:, 0] - top[:, 1]).tolist()
        candidates, revealed = may[0].nonzero()[:, 0].tolist(), int((~masked[0]).sum())
        reveal = torch.zeros_like(may)
        reveal[0, rule(Row(p[0], confidence, margin, candidates, revealed, step, kept), **values)] = True
        return reveal

    return choose
