"""Roll-outs: the decode loop with a recorder. Steps of all rows are packed, so that no row pays for a longer one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.decode import decode
from unmask.decoding.results import Decoded
from unmask.decoding.step import one_of_each
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.rl.rewards import Outcome
from unmask.tasks.base import Example, Task
from unmask.types import Needs, Observation, Step

Features = Callable[[Observation], Tensor]


@dataclass(frozen=True)
class Trajectories:
    """All steps of r roll-outs, packed (s steps, region length l, k features a position).

    Attributes:
        features: what the policy reads of each position, confidences as a rule.
        picks: what was revealed, and in which order (`unmask.policies.actions`).
        rollout: the roll-out of each step, from 0.
    """

    features: Float[Tensor, "s l k"]
    masked: Bool[Tensor, "s l"]
    selectable: Bool[Tensor, "s l"]
    step_fraction: Float[Tensor, " s"]
    picks: Int[Tensor, "s l"]
    rollout: Int[Tensor, " s"]

    def take(self, index: Tensor) -> Trajectories:
        """The steps named by indices or by a boolean mask."""
        return Trajectories(*(tensor[index] for tensor in vars(self).values()))

    def distinct(self) -> tuple[Trajectories, Int[Tensor, " s"]]:
        """One step of each set that a policy cannot tell apart, and which of them each step is.

        The roll-outs of a group start alike and part one by one: a sure policy's share most of their steps.
        """
        look = torch.cat([self.features.flatten(1), self.masked.float(), self.step_fraction[:, None]], dim=1)
        rows, of = one_of_each(look, torch.zeros_like(self.rollout, dtype=torch.bool))
        return self.take(rows), of

    def join(self, other: Trajectories) -> Trajectories:
        """These steps, then those of other roll-outs, which are numbered as they stand."""
        return Trajectories(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))

    def numbered(self, places: Int[Tensor, " r"]) -> Trajectories:
        """Roll-out i under the number places[i]."""
        return replace(self, rollout=places[self.rollout])

    def __len__(self) -> int:
        return len(self.rollout)


class Recorder:
    """A decode callback that keeps what a learned policy would read, and what was done."""

    def __init__(self, features: Features) -> None:
        self.steps: list[tuple[Tensor, ...]] = []
        self.features = features

    def __call__(self, step: Step) -> None:
        seen, before = step.observation, step.before
        self.steps.append(
            (
                self.features(seen),
                seen.masked,
                seen.selectable,
                seen.step_fraction,
                step.picks.to(torch.int16),
                before.row,
                before.step,
            )
        )

    def trajectories(self) -> Trajectories:
        """All steps, by step and then by roll-out: an order that does not hang on which rows were live together."""
        *recorded, step = (torch.cat(parts) for parts in zip(*self.steps, strict=True))
        packed = Trajectories(*recorded)
        return packed.take((step * (packed.rollout.max() + 1) + packed.rollout).argsort())


@dataclass(frozen=True)
class Rollouts:
    """r roll-outs: their steps, and how each ended."""

    steps: Trajectories
    decoded: Decoded
    outcome: Outcome


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
    needs: Needs,
    features: Features,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int] | None = None,
    on_ended: Callable[[int, int], None] | None = None,
) -> Rollouts:
    """Decode the examples (repeat one to get a group) and record every step.

    Args:
        needs, features: of the policy that is to learn from the steps; the one that acts may be another.
        prompts: token ids of each example's prompt.
        streams: random stream of each example, its place by default.
        on_ended: as in `unmask.decoding.decode.decode`.
    """
    recorder = Recorder(features)
    decoded = decode(
        model,
        policy,
        prompts,
        on_ended,
        gen_length=gen_length,
        block_length=block_length,
        batch_size=batch_size,
        seed=seed,
        streams=streams,
        stop_at_eos=False,  # as the paper counts
        callback=recorder,
        also_observe=needs,
    )
    return Rollouts(recorder.trajectories(), decoded, judged(model, task, examples, decoded, gen_length))


def judged(
    model: MaskedDiffusionModel, task: Task, examples: Sequence[Example], decoded: Decoded, gen_length: int
) -> Outcome:
    """What the task's verifier says of decoded rows; one that still holds a mask when its budget is spent is wrong."""
    texts = [model.text(row) for row in decoded.tokens.tolist()]
    verified = task.verify_all(examples, texts)
    correct = torch.tensor(verified, device=decoded.nfe.device) & decoded.complete
    return Outcome(examples, texts, correct, decoded.nfe, gen_length)
