"""Roll-outs: the decode loop with a recorder. Steps of all rows are packed, so that no row pays for a longer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.decode import decode
from unmask.decoding.results import Decoded
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.tasks.base import Example, Task
from unmask.types import Needs, Step


@dataclass(frozen=True)
class Trajectories:
    """All steps of r roll-outs, packed (s steps, region length l, k confidences)."""

    confidence: Float[Tensor, "s l k"]
    masked: Bool[Tensor, "s l"]
    selectable: Bool[Tensor, "s l"]
    step_fraction: Float[Tensor, " s"]
    action: Bool[Tensor, "s l"]
    rollout: Int[Tensor, " s"]

    def take(self, index: Tensor) -> Trajectories:
        """The steps named by indices or by a boolean mask."""
        return Trajectories(*(tensor[index] for tensor in vars(self).values()))

    def __len__(self) -> int:
        return len(self.rollout)


class Recorder:
    """A decode callback that keeps what a learned policy saw and did."""

    def __init__(self, top_k: int) -> None:
        self.steps: list[tuple[Tensor, ...]] = []
        self.top_k = top_k

    def __call__(self, step: Step) -> None:
        seen = step.observation
        self.steps.append(
            (
                seen.confidence[..., : self.top_k],
                seen.masked,
                seen.selectable,
                seen.step_fraction,
                step.action,
                step.before.row,
                step.before.step,
            )
        )

    def trajectories(self) -> Trajectories:
        """All steps, by step and then by roll-out: an order that does not hang on which rows were live together."""
        *recorded, step = (torch.cat(parts) for parts in zip(*self.steps, strict=True))
        packed = Trajectories(*recorded)
        return packed.take((step * (packed.rollout.max() + 1) + packed.rollout).argsort())


def roll_out(
    model: MaskedDiffusionModel,
    policy: Policy,
    task: Task,
    examples: Sequence[Example],
    *,
    gen_length: int,
    block_length: int,
    batch_size: int,
    seed: int,
    top_k: int,
) -> tuple[Trajectories, Decoded, Bool[Tensor, " r"]]:
    """Decode the examples (repeat one to get a group) and record every step.

    Returns:
        The packed steps, the decoded rows, and which of them the task's verifier accepts; a row that still holds a
        mask when its budget is spent is wrong.
    """
    recorder = Recorder(top_k)
    decoded = decode(
        model,
        policy,
        [model.encode(example.prompt) for example in examples],
        gen_length=gen_length,
        block_length=block_length,
        batch_size=batch_size,
        seed=seed,
        stop_at_eos=False,  # as the paper counts
        callback=recorder,
        also_observe=Needs(top_k=top_k, positions="region"),
    )
    texts = [model.text(row) for row in decoded.tokens.tolist()]
    verified = [task.verify(example, text) for example, text in zip(examples, texts, strict=True)]
    correct = torch.tensor(verified, device=model.device) & decoded.complete
    return recorder.trajectories(), decoded, correct
