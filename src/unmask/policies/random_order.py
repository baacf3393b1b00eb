"""Random-K: the order of the training objective (arXiv 2502.09992, algorithm 4)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from jaxtyping import Bool
from pydantic.dataclasses import dataclass
from torch import Tensor

from unmask.policies.base import Policy, largest
from unmask.types import Observation


@dataclass(frozen=True)
class RandomOrder(Policy):
    """Reveal k selectable positions drawn without replacement.

    Args:
        k: positions a step, at least 1.
    """

    type_name: ClassVar[str] = "random_order"
    draws: ClassVar[bool] = True
    k: Annotated[int, Ge(1)] = 1

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        return largest(observation.noise, observation.selectable, self.k)

    def config(self) -> dict[str, Any]:
        return {"k": self.k}
