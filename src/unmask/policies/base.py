"""The policy seam: observation -> which selectable positions to reveal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.hub import save_policy_folder
from unmask.types import Needs, Observation


class Policy(ABC):
    """Decides, for each row on its own, which selectable positions to reveal.

    A rule is a frozen pydantic dataclass whose fields are its config; see `confidence_threshold.py`. Its file and one
    line in `auto.py` make it known to the command line, configs and evaluation.
    """

    type_name: ClassVar[str]
    draws: ClassVar[bool] = False  # True if it uses the observation's noise, so that seeds differ

    @property
    def needs(self) -> Needs:
        """What the observation must hold."""
        return Needs()

    @abstractmethod
    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        """Positions to reveal. Unselectable ones are ignored; no row may look at another."""

    def place(self, device: torch.device) -> None:  # noqa: B027 (a rule has nothing to move)
        """Move weights, if any, to where the observations are."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The settings that, with weights if any, make the policy again."""

    def weights(self) -> dict[str, Tensor] | None:
        """Tensors to save; None for a rule."""
        return None

    def save(self, folder: str | Path, card: str | None = None) -> None:
        """Write config.json, model.safetensors if there are weights, and a README.md card if one is given."""
        save_policy_folder(folder, {"type": self.type_name, **self.config()}, self.weights(), card)


def largest(score: Float[Tensor, "b l"], selectable: Bool[Tensor, "b l"], k: int) -> Bool[Tensor, "b l"]:
    """The k selectable positions with the largest score in each row (all of them if fewer), leftmost first on ties."""
    order = score.masked_fill(~selectable, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(selectable).scatter(1, order[:, :k], True)
    return chosen & selectable
