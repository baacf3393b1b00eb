"""The policy seam: observation -> which selectable positions to reveal."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform

import pydantic
import torch
from huggingface_hub import CommitInfo
from jaxtyping import Bool, Float
from pydantic import ValidationError
from torch import Tensor, nn

from unmask.errors import UnmaskError
from unmask.hub import load_strictly, push_folder, save_policy_folder
from unmask.observation import Needs, Observation
from unmask.policies.actions import Actions
from unmask.policies.calibration import CONFIDENCE, Calibration, choose, write_calibration
from unmask.policies.speed_axis import SpeedAxis, along, sides
from unmask.settings import Settings, build, refusal, refuse_unknown


class Policy(ABC):
    """Decides, for each row on its own, which selectable positions to reveal.

    `unmask.testing.check_policy` says whether a class keeps this contract.
    """

    type_name: ClassVar[str]

    @property
    def stochastic(self) -> bool:
        """True if it uses the observation's noise, so that seeds differ."""
        return False

    @property
    def may_idle(self) -> bool:
        """True if a step may reveal nothing in a row that has something to reveal."""
        return False

    @property
    def block_steps(self) -> int | None:
        """Steps that it takes in each block before all is revealed; None if that depends on what it sees."""
        return None

    @property
    def post_steps(self) -> int:
        """Passes that a block may get for `revise` with nothing masked; it ends with the first that changes nothing."""
        return 0

    @property
    def needs(self) -> Needs:
        """What the observation must hold."""
        return Needs()

    def revise(self, observation: Observation) -> Bool[Tensor, "b l"]:
        """Revealed positions to overwrite with what the dLLM now predicts. Only where it `differs` counts.

        Asked of policies whose needs have `differs`.
        """
        return torch.zeros_like(observation.masked)

    @abstractmethod
    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        """Positions to reveal. Unselectable ones are ignored; no row may look at another."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The settings that, with weights if any, make the policy again."""

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Policy:
        """The policy of these settings; a learned one comes with fresh weights.

        Args:
            where: they are from, for refusals.

        Raises:
            UnmaskError: an unknown setting, with the nearest one; a bad value.
        """
        raise UnmaskError(f"{cls.__name__} is neither a rule nor a network: it cannot be made from {where}.")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The settings that need not be given."""
        return {}

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

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
        card: str | None = None,
    ) -> CommitInfo:
        """Save to a repo of the Hub, from which `unmask.load_policy(repo)` loads. `unmask push` makes a card, too.

        Args:
            repo: ``user/name``.
            private: as in `unmask.hub.push_folder`.
            revision: as in `unmask.hub.push_folder`.
            commit_message: as in `unmask.hub.push_folder`.
            token: as in `unmask.hub.push_folder`.
            card: as in `save`.

        Raises:
            UnmaskError: as `unmask.hub.push_folder`.
        """
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "policy"
            self.save(folder, card)
            return push_folder(folder, repo, private=private, revision=revision, message=commit_message, token=token)


class StochasticPolicy(Policy):
    """A policy that gives each position a logit, and whose action is drawn from a distribution over sets."""

    @property
    def stochastic(self) -> bool:
        return True

    @abstractmethod
    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        """One logit per position: the larger, the likelier it is revealed. The noise is for `actions`, not for this.

        The one entrance of a network: roll-outs act by it, and training learns by it.
        """

    @property
    @abstractmethod
    def actions(self) -> Actions:
        """What the logits mean: the distribution that draws."""

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        with torch.no_grad():
            return self.actions.sample(self.logits(observation), observation.selectable, observation.noise) > 0


class PolicySettings(Settings):
    """What makes a network, weights aside.

    Attributes:
        speed_axis: of a policy with a speed: pairs of a speed and the number in [0, 1] that the network is given there,
            both rising, linear in between. Calibration sets it, so that equal steps of speed are equal steps of log
            NFE; empty: the speed itself.
    """

    speed_axis: SpeedAxis = ()

    @property
    def has_speed(self) -> bool:
        """The network is conditioned on the speed asked for."""
        return False

    def for_model(self, hidden_size: int | None) -> PolicySettings:
        """With what depends on the dLLM filled in where it was left open, such as the width of its hidden states."""
        return self


class LearnedPolicy(StochasticPolicy, nn.Module):
    """A network with weights that training changes. Another network is one file: its settings, needs and logits.

    Attributes:
        settings: what makes the network again, weights aside; an instance of `Config`.
        calibrations: what it was measured to do with these weights, from its folder; of a policy with a speed.
    """

    Config: ClassVar[type[PolicySettings]]
    settings: Any
    calibrations: tuple[Calibration, ...] = ()

    def speed_for(
        self,
        *,
        target_nfe: float | None = None,
        max_drop: float | None = None,
        confidence: float = CONFIDENCE,
        task: str | None = None,
    ) -> float:
        """The speed for a number of forward passes per prompt, or the fastest that keeps a promise.

        By the first of `calibrations`; `unmask.policies.calibration.choose` finds the one of another dLLM.

        Args:
            target_nfe: forward passes per prompt, on average.
            max_drop: accuracy that may be lost against speed 0, as a share.
            confidence: of the promise.
            task: whose calibration to use, where there are several.

        Raises:
            UnmaskError: neither or both are given, there is no calibration, no speed is that fast or can be promised.
        """
        if (target_nfe is None) == (max_drop is None):
            raise UnmaskError("Give either target_nfe or max_drop.")
        for name, value in (("target_nfe", target_nfe), ("max_drop", max_drop), ("confidence", confidence)):
            if value is not None and not isinstance(value, int | float):
                raise UnmaskError(f"{name} is {value!r}: give a number.")
        table, differs = choose(self.calibrations, task=task)
        if differs:
            raise UnmaskError(f"The calibration is of {differs[0]}: run `unmask calibrate` on it.")
        return table.for_nfe(target_nfe) if target_nfe is not None else table.for_drop(max_drop or 0.0, confidence)

    def scale_logits(self, factor: float) -> bool:
        """Multiply from here on what `logits` gives, by changing weights: what is saved then draws more surely.

        Returns:
            False if this network cannot, and nothing has changed.
        """
        return False

    def config(self) -> dict[str, Any]:
        return dict(self.settings.model_dump())

    def save(self, folder: str | Path, card: str | None = None) -> None:
        """As `Policy.save`, with the calibrations."""
        super().save(folder, card)
        for table in self.calibrations:
            write_calibration(folder, table)

    def knob(self, observation: Observation) -> Float[Tensor, " b"]:
        """What the network is given for the speed of each row, in [0, 1].

        Raises:
            UnmaskError: the observation has no speed.
        """
        if observation.speed is None:
            raise UnmaskError("This policy decodes at a speed: let the observation have one for each row.")
        return along(self.settings.speed_axis, observation.speed)

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> LearnedPolicy:
        return cls(build(cls.Config, values, where=where, known=set(cls.Config.model_fields)))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        fields = cls.Config.model_fields
        return {name: field.default for name, field in fields.items() if not field.is_required()}

    def place(self, device: torch.device) -> None:
        self.to(device)
        if self.settings.speed_axis:
            sides(self.settings.speed_axis, device)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor], where: str) -> None:
        load_strictly(self, weights, where)
        self.eval()


Grid = Mapping[str, Sequence[Any]]
"""Setting -> values to try: a rule is tuned over every combination."""


class Rule(Policy):
    """A policy without weights; decorated with `rule`, its fields are its config. See `confidence_threshold.py`.

    Attributes:
        label: its family in tables and plots; its type name by default.
        grid: the settings it is tuned over; a rule without one is in no comparison unless named.
        eos_suppressed_variant: in full diffusion the grid is tried with `suppress_eos`, too.
    """

    label: ClassVar[str] = ""
    grid: ClassVar[Grid] = {}
    eos_suppressed_variant: ClassVar[bool] = False

    @classmethod
    def family(cls) -> str:
        """What tables and plots call it."""
        return cls.label or cls.type_name

    def distinct_within(self, block_length: int) -> bool:
        """False if another setting does the same in blocks of this length; a grid then leaves this one out."""
        return True

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str) -> Rule:
        return build(cls, values, where=where, known={field.name for field in dataclasses.fields(cls)})  # type: ignore[arg-type]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}

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
        UnmaskError: on construction, naming the value, or a setting that there is not.
    """
    config = pydantic.ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=config)(cls)
    checked = made.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        names = [field.name for field in dataclasses.fields(self)]
        if not kwargs.keys() <= set(names):
            refuse_unknown(kwargs, set(names), cls.__name__)
        try:
            checked(self, *args[len(names) :], **dict(zip(names, args, strict=False)), **kwargs)
        except ValidationError as e:
            raise refusal(e, f"Bad value for {cls.__name__}") from None

    made.__init__ = __init__
    return cast("type[T]", made)
