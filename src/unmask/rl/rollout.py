"""Roll-outs: the decode loop with a recorder. Steps of all rows are packed, so that no row pays for a longer one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.passes import deduplicate
from unmask.decoding.results import Generation
from unmask.decoding.state import Step
from unmask.models.base import MaskedDiffusionModel
from unmask.observation import Needs, Observation
from unmask.policies.base import Policy
from unmask.rl.rewards import Outcome, judge
from unmask.tasks.base import Example, Task


@dataclass(frozen=True)
class Steps:
    """All steps of r roll-outs, packed (s of them).

    Attributes:
        observation: what the learning policy sees, a row per step; its noise is dropped.
        picks: what was revealed, and in which order (`unmask.policies.actions`).
        rollout: the roll-out of each step, from 0.
    """

    observation: Observation
    picks: Int[Tensor, "s l"]
    rollout: Int[Tensor, " s"]

    def take(self, index: Tensor) -> Steps:
        """The steps named by indices or by a boolean mask."""
        values = {name: value[index] for name, value in _told(self.observation).items()}
        return Steps(_without_noise(values), self.picks[index], self.rollout[index])

    def distinct(self) -> tuple[Observation, Int[Tensor, " s"]]:
        """One observation of each set that a policy cannot tell apart, and the index in them of each step's.

        The roll-outs of a group start alike and part one by one: a confident policy's share most of their steps. Hidden
        states are left as they are: sorting them would cost more than it saves.
        """
        seen = self.observation
        if seen.hidden_states is not None:
            return seen, torch.arange(len(self), device=self.rollout.device)
        told = [seen.confidence.flatten(1), seen.masked, seen.step_fraction[:, None], seen.selectable]
        more = (seen.entropy, seen.tokens, seen.kl, seen.age, seen.differs)
        told += [values.flatten(1) for values in more if values is not None]
        told += [values[:, None] for values in (seen.speed, seen.block_step) if values is not None]
        same = deduplicate(torch.cat([values.float() for values in told], dim=1))
        return seen.take(same.rows), same.of

    def numbered(self, numbers: Int[Tensor, " r"]) -> Steps:
        """Roll-out i under the number numbers[i]."""
        return replace(self, rollout=numbers[self.rollout])

    def __len__(self) -> int:
        return len(self.rollout)


def joined(parts: Sequence[Steps]) -> Steps:
    """The steps of several sets of roll-outs, which are numbered as they stand."""
    seen = [_told(part.observation) for part in parts]
    return Steps(
        _without_noise({name: torch.cat([values[name] for values in seen]) for name in seen[0]}),
        torch.cat([part.picks for part in parts]),
        torch.cat([part.rollout for part in parts]),
    )


def _told(observation: Observation) -> dict[str, Tensor]:
    return {name: value for name, value in vars(observation).items() if value is not None and name != "noise"}


def _without_noise(values: dict[str, Tensor]) -> Observation:
    """An observation whose noise takes no memory: learning needs none."""
    masked = values["masked"]
    return Observation(**values, noise=torch.zeros((), device=masked.device).expand(masked.shape))


class Recorder:
    """A decode callback that keeps what a learning policy sees, and what was done.

    Args:
        needs: of the policy that is to learn from the steps; the one that acts may be another.
        hindsight: also keep what each step would have written, had it revealed all.
    """

    def __init__(self, needs: Needs, hindsight: bool = False) -> None:
        self._needs, self._hindsight = needs, hindsight
        self._parts: list[Steps] = []
        self._step: list[Tensor] = []
        self._filled: list[Tensor] = []

    def __call__(self, step: Step) -> None:
        seen = step.observation.only(self._needs)
        self._parts.append(Steps(_without_noise(_told(seen)), step.picks.to(torch.int16), step.before.row))
        self._step.append(step.before.step)
        if self._hindsight:
            self._filled.append(torch.where(step.before.masked, step.predicted, step.before.region))

    def steps(self) -> Steps:
        """All steps, by step and then by roll-out: an order that does not hang on which rows were active together."""
        return self.packed()[0]

    def packed(self) -> tuple[Steps, Int[Tensor, "s l"] | None]:
        """`steps`, and with hindsight the tokens of the region that each would have left."""
        packed, step = joined(self._parts), torch.cat(self._step)
        order = (step * (packed.rollout.max() + 1) + packed.rollout).argsort()
        return packed.take(order), torch.cat(self._filled)[order] if self._filled else None


@dataclass(frozen=True)
class Rollouts:
    """r roll-outs: their steps, and how each ended.

    Attributes:
        filled: tokens of the region, had a step revealed all; None unless asked for.
    """

    steps: Steps
    out: Generation
    outcome: Outcome
    filled: Int[Tensor, "s l"] | None = None


def roll_out(
    model: MaskedDiffusionModel,
    policy: Policy,
    task: Task,
    examples: Sequence[Example],
    config: DecodeConfig,
    *,
    seed: int,
    needs: Needs,
    prompts: Sequence[Sequence[int]],
    streams: Sequence[int] | None = None,
    speeds: Sequence[float] | None = None,
    on_ended: Callable[[int, int], None] | None = None,
    hindsight: bool = False,
) -> Rollouts:
    """Decode the examples (repeat one to get a group) and record every step.

    Args:
        config: how to decode.
        needs: of the policy that is to learn from the steps; the one that acts may be another.
        prompts: token ids of each example's prompt.
        streams: random stream of each example, its index by default.
        speeds: of each example, for a policy with a speed.
        on_ended: as in `unmask.decoding.decode.decode`.
        hindsight: also give `Rollouts.filled`.

    Returns:
        The roll-outs, in the order of the examples.
    """
    recorder, config = Recorder(needs, hindsight), config.of(task, model)
    out = decode(
        model,
        policy,
        prompts,
        config,
        seed=seed,
        streams=streams,
        speeds=speeds,
        callback=recorder,
        also_observe=needs,
        on_ended=on_ended,
    )
    ends = (config.region(), speeds, config.judge_unfinished, out.equivalents)
    outcome = judge(task, examples, out.texts, out.nfe, out.complete, *ends)
    steps, filled = recorder.packed()
    return Rollouts(steps, out, outcome, filled)
