"""Composition: what changes another policy's decisions wraps it. All of them save, load and print like any policy.

`MaxReveal(ConfidenceThreshold(0.9), 4)`; on the command line ``"confidence_threshold:threshold=0.9 | max_reveal:n=4"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from pydantic import BeforeValidator
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.observation import Needs, Observation
from unmask.policies.actions import Actions, Bernoulli, Likeliest
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy, Rule, StochasticPolicy, rule
from unmask.policies.ranking import topk_positions


def _as_policy(value: Any) -> Any:
    return value if isinstance(value, Policy) else load_policy(value)


AnyPolicy = Annotated[Policy, BeforeValidator(_as_policy)]
"""A field that holds a policy, given as one or as anything that `load_policy` reads."""


class Wrapper(Rule):
    """A rule around another policy, its field `policy`; what it does not change goes through."""

    policy: AnyPolicy

    @property
    def stochastic(self) -> bool:
        return self.policy.stochastic

    @property
    def may_idle(self) -> bool:
        return self.policy.may_idle

    @property
    def block_steps(self) -> int | None:
        return self.policy.block_steps

    @property
    def post_steps(self) -> int:
        return self.policy.post_steps

    @property
    def needs(self) -> Needs:
        return self.policy.needs

    def revise(self, observation: Observation) -> Bool[Tensor, "b l"]:
        return self.policy.revise(observation)

    def place(self, device: torch.device) -> None:
        self.policy.place(device)

    def weights(self) -> dict[str, Tensor] | None:
        return self.policy.weights()

    def load_weights(self, weights: Mapping[str, Tensor], where: str) -> None:
        self.policy.load_weights(weights, where)


@rule
class MinReveal(Wrapper):
    """Reveal at least n selectable positions a step, or all there are: the most confident ones join.

    Args:
        n: at least 1, which makes any policy advance in every step.
    """

    type_name: ClassVar[str] = "min_reveal"
    policy: AnyPolicy
    n: Annotated[int, Ge(1)] = 1

    @property
    def may_idle(self) -> bool:
        return False

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        chosen = self.policy.select(observation) & observation.selectable
        rest = observation.selectable & ~chosen
        missing = (self.n - chosen.sum(dim=1)).clamp(min=0)
        return chosen | topk_positions(observation.confidence[..., 0], rest, missing)


@rule
class MaxReveal(Wrapper):
    """Reveal at most n positions a step: the most confident of those that the policy chose.

    Args:
        n: at least 1.
    """

    type_name: ClassVar[str] = "max_reveal"
    policy: AnyPolicy
    n: Annotated[int, Ge(1)]

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        chosen = self.policy.select(observation) & observation.selectable
        return topk_positions(observation.confidence[..., 0], chosen, self.n)


@rule
class Dilated(Wrapper):
    """Let a policy reveal positions far from each other first: every stride-th, then those halfway between, down to 1.

    Neighbours depend on each other most, and a step writes its positions as if they did not. Around a policy that
    reveals all it may (``confidence_threshold:threshold=0``) this is the dilated schedule of arXiv 2506.19037.

    Args:
        stride: of the first round, a power of 2 that divides the block length.
    """

    type_name: ClassVar[str] = "dilated"
    policy: AnyPolicy
    stride: Annotated[int, Ge(2)] = 4

    def __post_init__(self) -> None:
        if self.stride & (self.stride - 1):
            raise UnmaskError(f"stride is {self.stride}: give a power of 2, such as {2 ** self.stride.bit_length()}.")

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        position = torch.arange(observation.masked.shape[1], device=observation.masked.device)
        # The largest power of 2, up to the stride, that divides the position; of the region, blocks begin at multiples.
        coarse = sum((position % 2**i == 0).long() for i in range(1, self.stride.bit_length()))
        of_row = (coarse + 1) * observation.selectable
        now = observation.selectable & (of_row == of_row.amax(dim=1, keepdim=True))
        return self.policy.select(replace(observation, selectable=now)) & now


@rule
class Revising(Wrapper):
    """Overwrite revealed tokens of the current block where the dLLM predicts another one above the threshold.

    LLaDA2.1's token editing (arXiv 2602.08676; the loop released with it), for any policy on a dLLM that `revises`.
    Its quality mode is ``confidence_threshold:threshold=0.7 | revising:threshold=0.5``, its speed mode has 0.5 and 0.

    Args:
        threshold: ``editing_threshold``, in [0, 1].
        post_steps: ``max_post_steps``.
    """

    type_name: ClassVar[str] = "revising"
    policy: AnyPolicy
    threshold: Annotated[float, Ge(0), Le(1)] = 0.9
    post_steps: Annotated[int, Ge(0)] = 16

    @property
    def needs(self) -> Needs:
        return replace(self.policy.needs, differs=True)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        return self.policy.select(observation.only(self.policy.needs))

    def revise(self, observation: Observation) -> Bool[Tensor, "b l"]:
        assert observation.differs is not None  # the loop gives what is needed
        return observation.differs & (observation.confidence[..., 0] > self.threshold)


class LogitWrapper(Wrapper, StochasticPolicy):
    """A change of a learned policy's logits; its own way of drawing stays."""

    def __post_init__(self) -> None:
        if not isinstance(self.policy, StochasticPolicy):
            raise UnmaskError(
                f"{self.type_name} changes the logits of a learned policy, and {self.policy.type_name!r} has none: "
                "wrap a learned policy, or change the rule's own settings."
            )

    @property
    def inner(self) -> StochasticPolicy:
        """The learned policy."""
        assert isinstance(self.policy, StochasticPolicy)
        return self.policy

    @property
    def actions(self) -> Actions:
        return self.inner.actions


@rule
class Mode(LogitWrapper):
    """Take the likeliest action instead of drawing one: no chance is left in the decoding."""

    type_name: ClassVar[str] = "mode"
    policy: AnyPolicy

    @property
    def stochastic(self) -> bool:
        return False

    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        return self.inner.logits(observation)

    @property
    def actions(self) -> Actions:
        return Likeliest(self.inner.actions)


@rule
class Plain(LogitWrapper):
    """Draw as training's roll-outs do, where a step may reveal nothing, instead of as evaluation does.

    Args:
        force_progress: reveal the largest logit where a row draws nothing.
    """

    type_name: ClassVar[str] = "plain"
    policy: AnyPolicy
    force_progress: bool = False

    @property
    def may_idle(self) -> bool:
        return not self.force_progress and isinstance(self.actions, Bernoulli)

    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        return self.inner.logits(observation)

    @property
    def actions(self) -> Actions:
        return self.inner.actions.drawn(self.force_progress)


@rule
class Temperature(LogitWrapper):
    """Divide the logits by tau: below 1 surer, above 1 more random (arXiv 2512.09106, section 3).

    Args:
        tau: at least 1e-6.
    """

    type_name: ClassVar[str] = "temperature"
    policy: AnyPolicy
    tau: Annotated[float, Ge(1e-6)]

    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        return self.inner.logits(observation) / self.tau


@rule
class BetaScaling(LogitWrapper):
    """Reveal with probability min(1, beta * sigmoid(logit)): a smooth knob between careful and fast (arXiv 2512.09106).

    Args:
        beta: > 0; below 1 slower, above 1 faster.
    """

    type_name: ClassVar[str] = "beta_scaling"
    policy: AnyPolicy
    beta: Annotated[float, Gt(0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.actions, Bernoulli):
            raise UnmaskError("beta_scaling scales the probabilities of Bernoulli actions: use temperature with DPLS.")

    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        probability = (self.beta * torch.sigmoid(self.inner.logits(observation))).clamp(max=1)
        return torch.logit(probability)
