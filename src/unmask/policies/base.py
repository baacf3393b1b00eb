"""The policy seam: observation -> which selectable positions to reveal."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast, dataclass_transform

import pydantic
import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, ValidationError
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.hub import save_policy_folder
from unmask.policies.actions import Actions
from unmask.settings import refusal
from unmask.types import Needs, Observation


class Policy(ABC):
    """Decides, for each row on its own, which selectable positions to reveal.

    `unmask.testing.check_policy` says whether a class keeps this contract.
    """

    type_name: ClassVar[str]

    @property
    def draws(self) -> bool:
        """True if it uses the observation's noise, so that seeds differ."""
        return False

    @property
    def needs(self) -> Needs:
        """What the observation must hold."""
        return Needs()

    @abstractmethod
    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        """Positions to reveal. Unselectable ones are ignored; no row may look at another."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The settings that, with weights if any, make the policy again."""

    def place(self, device: torch.device) -> None:  # noqa: B027 (a rule has nothing to move)
        """Move weights, if any, to where the observations are."""

    def weights(self) -> dict[str, Tensor] | None:
        """Tensors to save; None for a rule."""
        return None

    def load_weights(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Take the tensors that `weights` gave.

        Raises:
            UnmaskError: naming the first that does not fit.
        """
        raise UnmaskError(f"{where} holds weights, but a {self.type_name} policy has none: remove the file.")

    def save(self, folder: str | Path, card: str | None = None) -> None:
        """Write config.json, model.safetensors if there are weights, and a README.md card if one is given."""
        save_policy_folder(folder, {"type": self.type_name, **self.config()}, self.weights(), card)


class LearnedPolicy(Policy):
    """A policy whose network gives each position a logit, and whose action is drawn from a distribution over sets."""

    @property
    def draws(self) -> bool:
        return True

    @abstractmethod
    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        """One logit a position: the larger, the likelier it is revealed. The noise is for `actions`, not for this."""

    @property
    @abstractmethod
    def actions(self) -> Actions:
        """What the logits mean: the distribution that draws."""

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        with torch.no_grad():
            return self.actions.sample(self.logits(observation), observation.selectable, observation.noise) > 0


class Rule(Policy):
    """A policy without weights; decorated with `rule`, its fields are its config.

    Its file and one line in `auto.py` make it known to the command line, configs and evaluation; see
    `confidence_threshold.py`.
    """

    def config(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {
            name: {"type": value.type_name, **value.config()} if isinstance(value, Policy) else value
            for name, value in fields.items()
        }


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def rule(cls: type[T]) -> type[T]:
    """A frozen pydantic dataclass whose bad values are refused in one sentence.

    Raises:
        UnmaskError: on construction, naming the value.
    """
    config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    checked = made.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        names = (field.name for field in dataclasses.fields(self))
        try:
            checked(self, *args[len(made.__dataclass_fields__) :], **dict(zip(names, args, strict=False)), **kwargs)
        except ValidationError as e:
            raise refusal(e, f"Bad value for {cls.__name__}") from None

    made.__init__ = __init__
    return cast("type[T]", made)


def _as_policy(value: Any) -> Any:
    from unmask.policies.auto import load_policy  # a policy of any type, which that module knows

    return value if isinstance(value, Policy) else load_policy(value)


AnyPolicy = Annotated[Policy, BeforeValidator(_as_policy)]
"""A field that holds a policy, given as one or as anything that `load_policy` reads."""


class Wrapper(Rule):
    """A rule around another policy, its field `policy`; what it does not change goes through."""

    policy: AnyPolicy

    @property
    def draws(self) -> bool:
        return self.policy.draws

    @property
    def needs(self) -> Needs:
        return self.policy.needs

    def place(self, device: torch.device) -> None:
        self.policy.place(device)

    def weights(self) -> dict[str, Tensor] | None:
        return self.policy.weights()

    def load_weights(self, weights: Mapping[str, Tensor], where: str) -> None:
        self.policy.load_weights(weights, where)
