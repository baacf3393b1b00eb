"""A fixed schedule: given counts, step by step. The control that parts what a learned policy sees from its pace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, MinLen
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.observation import Observation
from unmask.policies.base import Rule, rule
from unmask.policies.ranking import topk_positions


@rule
class FixedSchedule(Rule):
    """Reveal the most confident selectable positions, at step s as many as make counts[0] + ... + counts[s] in all.

    What a short block holds back is made up for in the next steps; each step reveals at least one position, and a step
    past the end as many as the last.

    Args:
        counts: positions a step, each at least 1.
    """

    type_name: ClassVar[str] = "fixed_schedule"
    label: ClassVar[str] = "fixed schedule"
    counts: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        masked, length = observation.masked, observation.masked.shape[1]
        step = (observation.step_fraction * length).round().long()
        last = len(self.counts) - 1
        due = torch.tensor(self.counts, device=masked.device).cumsum(0)
        target = due[step.clamp(max=last)] + (step - last).clamp(min=0) * self.counts[-1]
        k = (target - (length - masked.sum(dim=1))).clamp(min=1)
        return topk_positions(observation.confidence[..., 0], observation.selectable, k)


def average_pace(revealed_at: Int[Tensor, "n l"], nfe: Int[Tensor, " n"]) -> Sequence[int]:
    """The counts of the schedule that takes a policy's mean number of steps and reveals, on average, as it did.

    Each row's share of revealed positions is read as a curve over its own time, step / NFE; the curves are averaged and
    cut into round(mean NFE) steps.

    Args:
        revealed_at: as `unmask.generate` gives it, complete rows only.
        nfe: steps of each row.
    """
    length = revealed_at.shape[1]
    steps = max(1, min(length, round(nfe.float().mean().item())))
    # A position revealed at step s of n adds its share evenly over ((s, s + 1] / n).
    time = torch.arange(1, steps + 1) / steps
    start = revealed_at.cpu() / nfe.cpu()[:, None]
    shares = ((time[:, None, None] - start) * nfe.cpu()[:, None]).clamp(0, 1).mean(dim=(1, 2))
    counts, done = [], 0
    for i, share in enumerate(shares.tolist()):
        left = steps - 1 - i  # steps after this one, a position each at least
        target = length if left == 0 else min(max(round(share * length), done + 1), length - left)
        counts.append(target - done)
        done = target
    return counts
