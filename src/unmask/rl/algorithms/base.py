"""The algorithm seam: credit per decoding step, a loss, and what else learns beside the policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float, Int
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from unmask.decoding.blocks import BlockLength
from unmask.decoding.results import Cost
from unmask.errors import UnmaskError
from unmask.observation import Observation
from unmask.rl.processes import Processes
from unmask.rl.rewards import PAPER, Reward, check_ends, load_reward
from unmask.rl.rollout import Steps
from unmask.settings import Ends, Settings


class Expert(Settings):
    """A deterministic policy that joins each group (expert steering).

    Attributes:
        policy: as `unmask.load_policy` reads it.
        block_length: the expert's own; the task's by default.
    """

    policy: str = "confidence_threshold:threshold=0.9"
    block_length: BlockLength = None


def _expert(value: Any) -> Any:
    """``policy @ block_length`` is short for both."""
    if not isinstance(value, str):
        return value
    policy, at, length = value.rpartition("@")
    return {"policy": policy.strip(), "block_length": length.strip()} if at else {"policy": value}


AnyExpert = Annotated[Expert, BeforeValidator(_expert)]


class AlgorithmSettings(Settings):
    """What every algorithm has; each adds its own.

    The defaults are for small dLLMs; descriptions name the paper's (arXiv 2512.09106) where they part.
    """

    reward: Annotated[
        str, Field(description="multiplicative, additive, correctness, scale_free, or your own as module.function.")
    ] = "multiplicative"
    alpha: Annotated[Ends, Field(description="Weight of speed in the reward (of a policy with a speed: two).")] = 1.0
    beta: Annotated[
        Ends, Field(description="Weight of speed in the scale_free reward: accuracy given up for passes, in percent.")
    ] = (0.01, 3.0)
    cost: Annotated[
        Cost,
        Field(description="What the reward counts: forward passes, or the positions they compute (with a cache)."),
    ] = "passes"
    speeds: Annotated[
        int, Ge(2), Field(description="Parts of [0, 1] that an iteration's speeds come from, equally (with a speed).")
    ] = 8
    prompts: Annotated[int, Ge(1), Field(description="Prompts per iteration, of all processes (paper: 16).")] = 8
    group_size: Annotated[int, Ge(1), Field(description="Roll-outs per prompt (G).")] = 8
    force_progress: Annotated[
        bool, Field(description="Roll-outs always reveal something (paper: only in evaluation).")
    ] = False
    lr: Annotated[float, Gt(0), Field(description="Peak learning rate, cosine to 0 (paper: 3e-5).")] = 5e-5
    warmup: Annotated[int, Ge(0), Field(description="Warm-up iterations (paper: 50).")] = 5
    lr_schedule: Annotated[
        Literal["cosine", "transformers"],
        Field(
            description="cosine: from the first iteration, times the warm-up; transformers: as its trainer's, behind "
            "the warm-up and anew at each optimiser step (released code)."
        ),
    ] = "cosine"
    weight_decay: Annotated[float, Ge(0), Field(description="AdamW weight decay.")] = 0.1
    decay_biases: Annotated[bool, Field(description="Biases and norms decay, too (released code: they do not).")] = True
    max_grad_norm: Annotated[float, Gt(0), Field(description="Gradient clipping.")] = 0.2
    inner_iterations: Annotated[int, Ge(1), Field(description="Optimiser steps per batch of roll-outs.")] = 2
    update_batch_size: Annotated[int, Ge(1), Field(description="Decoding steps scored at a time.")] = 1024
    min_signal: Annotated[
        float, Ge(0), Le(1), Field(description="Share of groups with signal below which no step is taken (paper: 0).")
    ] = 0.25
    kl_weight: Annotated[
        float, Ge(0), Field(description="Weight of the KL penalty towards the initial policy (paper: 0).")
    ] = 0.0
    entropy_weight: Annotated[float, Ge(0), Field(description="Weight of the entropy bonus (paper: 0).")] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _one_weight_of_speed(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        alpha, beta, reward = "alpha" in values, "beta" in values, values.get("reward")
        if alpha and beta and reward is None:
            raise ValueError("alpha weighs speed in the paper's rewards and beta in scale_free: give one of them")
        for given, name, unfit in ((alpha, "alpha", reward == "scale_free"), (beta, "beta", reward in PAPER)):
            own = values.get(name)
            own = tuple(own) if isinstance(own, list) else own
            if given and unfit and own != cls.model_fields[name].default:  # a stored config has all of them
                raise ValueError(f"{name} has no part in the reward {reward}: leave it out")
        return {**values, "reward": "scale_free"} if beta and reward is None else values

    @model_validator(mode="after")
    def _positive(self) -> AlgorithmSettings:
        for name in ("alpha", "beta"):
            try:
                check_ends(name, getattr(self, name))
            except UnmaskError as e:
                raise ValueError(str(e).removesuffix(".")) from None
        return self

    @property
    def weight(self) -> Ends | None:
        """Of speed in the reward; None where the reward has none, or is the user's own."""
        if self.reward == "scale_free":
            return self.beta
        return self.alpha if self.reward in ("multiplicative", "additive") else None

    def load_reward(self) -> Reward:
        """The reward, with its weights of speed."""
        return load_reward(self.reward, self.alpha, self.beta, self.cost)


def check_weight(settings: AlgorithmSettings, has_speed: bool) -> None:
    """
    Raises:
        UnmaskError: one weight of speed for a policy with a speed, or a range for one without.
    """
    weight, name = settings.weight, "beta" if settings.reward == "scale_free" else "alpha"
    if weight is not None and has_speed and not isinstance(weight, tuple):
        example = [0.01, 3.0] if name == "beta" else [0.1, 30.0]
        raise UnmaskError(
            f"algorithm.{name} is {weight:g}, and a policy with a speed learns at a range of them: give {name} at "
            f"speed 0 and at speed 1, such as {name} = {example}."
        )
    if isinstance(weight, tuple) and not has_speed:
        raise UnmaskError(
            f"algorithm.{name} is {list(weight)}, a range for a policy with a speed, and this one has none: give one "
            "number, or policy.use_speed = true."
        )


@dataclass(frozen=True)
class Batch:
    """What one iteration learns from, in this process (s steps of p prompts, m roll-outs each).

    Attributes:
        steps: numbered prompt by prompt; experts' roll-outs behind the policy's.
        reward: of each roll-out.
        expert: roll-outs that an expert made.
        part: of each prompt, the part of [0, 1] that its speed is in, from 0; all 0 for a policy without a speed. Those
            of another dLLM and task are counted on from there.
    """

    steps: Steps
    reward: Float[Tensor, "p m"]
    expert: Bool[Tensor, " r"]
    part: Int[Tensor, " p"]


@dataclass(frozen=True)
class Credit:
    """What each of s steps is worth.

    Attributes:
        advantage: of the step over what was expected.
        weight: what it counts in the mean.
        kept: False where the step teaches nothing.
        target: what a critic should have said of the state; None without one.
        value: what it said.
    """

    advantage: Float[Tensor, " s"]
    weight: Float[Tensor, " s"]
    kept: Bool[Tensor, " s"]
    target: Float[Tensor, " s"] | None = None
    value: Float[Tensor, " s"] | None = None

    def take(self, index: Tensor) -> Credit:
        """The steps named by indices."""
        return Credit(**{name: value[index] for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Scored:
    """Steps that were scored together, as a loss sees them.

    Attributes:
        log_prob: of each step's behaviour under the current policy.
        old_log_prob: of each step's behaviour under the policy that acted.
        credit: of each.
        own: the policy's steps, not an expert's.
        observation: what the policy saw.
    """

    log_prob: Float[Tensor, " s"]
    old_log_prob: Float[Tensor, " s"]
    credit: Credit
    own: Bool[Tensor, " s"]
    observation: Observation


class Algorithm(ABC):
    """What a batch of roll-outs teaches. The trainer and the optimiser know no more than this.

    Attributes:
        name: the stage of its lines of metrics.
        Settings: the class of its settings.
        experts: policies whose roll-outs join each group.
        other_speeds: roll-outs of the policy at another speed that join each group.
        leaps: roll-outs of the policy that a step ends by revealing all, which join each group.
        bold: roll-outs of the policy with bold steps that join each group (`unmask.rl.leaps`).
    """

    name: ClassVar[str]
    Settings: ClassVar[type[AlgorithmSettings]] = AlgorithmSettings

    def __init__(self, settings: AlgorithmSettings) -> None:
        self.settings = settings

    def at_places(self, places: int) -> None:  # noqa: B027 (most keep nothing of each)
        """Make room for what is kept of each dLLM and task; `Batch.part` counts on from one to the next."""

    @property
    def experts(self) -> tuple[Expert, ...]:
        return ()

    @property
    def other_speeds(self) -> int:
        return 0

    @property
    def leaps(self) -> int:
        return 0

    @property
    def bold(self) -> int:
        return 0

    @property
    def members(self) -> int:
        """Roll-outs of a group, of the policy and of others."""
        return self.settings.group_size + len(self.experts) + self.other_speeds + self.leaps + self.bold

    @abstractmethod
    def credit(self, batch: Batch, processes: Processes) -> Credit:
        """What each step is worth, in the batch of all processes."""

    @abstractmethod
    def loss(self, scored: Scored) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The steps' share of the loss, and numbers whose means are logged."""

    def likelihood(self, log_prob: Float[Tensor, " s"], expert: Bool[Tensor, " s"]) -> Float[Tensor, " s"]:
        """Log-likelihood of the behaviour that made each step, given the policy's own."""
        return log_prob

    def signal(self, reward: Float[Tensor, "p m"]) -> int:
        """Prompts whose roll-outs teach something: by default those whose rewards differ."""
        return int(has_signal(reward).sum().item())

    def modules(self) -> Mapping[str, nn.Module]:
        """What else learns, by name; it is saved with each checkpoint."""
        return {}

    def learning_rates(self) -> Mapping[str, float]:
        """Peak learning rates of `modules`, where they are not the policy's; the schedule is the same."""
        return {}


def has_signal(reward: Float[Tensor, "p m"]) -> Bool[Tensor, " p"]:
    """True where a group's rewards are not all equal."""
    return (reward != reward[:, :1]).any(dim=1)


def step_weights(
    rollout: Int[Tensor, " s"], rollouts: int, normalisation: str = "rollout", steps: int | None = None
) -> Float[Tensor, " s"]:
    """What each step counts in the mean.

    Args:
        rollout: of each step, from 0.
        rollouts: how many there are, in all processes together.
        normalisation: ``rollout``: mean over the steps of a roll-out, then mean over roll-outs; ``step``: mean over all
            steps, so that long roll-outs count more.
        steps: how many there are, in all processes together (for ``step``).
    """
    if normalisation == "step":
        return torch.full(rollout.shape, 1.0 / (steps or max(len(rollout), 1)), device=rollout.device)
    lengths = torch.bincount(rollout)
    return 1.0 / (lengths[rollout] * rollouts).to(torch.float32)


def weights_of_steps(batch: Batch, processes: Processes, normalisation: str) -> Float[Tensor, " s"]:
    """`step_weights` of a batch that all processes share."""
    rollouts, steps = processes.total(batch.reward.numel(), len(batch.steps))
    return step_weights(batch.steps.rollout, int(rollouts), normalisation, int(steps))
