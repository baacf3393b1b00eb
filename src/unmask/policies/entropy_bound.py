"""The entropy-bounded (EB) sampler (arXiv 2505.24857)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.observation import Needs, Observation
from unmask.policies.base import Grid, Rule, rule
from unmask.policies.ranking import Order, ranking, sureness


@rule
class EntropyBound(Rule):
    """Reveal the longest run of the surest positions whose joint error is bounded: sum of entropies - largest <= gamma.

    The bound limits the mutual information that is ignored when the positions are written at once. At least one is
    revealed; gamma = 0 reveals one a step, and all of entropy exactly 0 with it.

    Args:
        gamma: in nats, at least 0; copies in use have 0.001 to 0.1.
        order: what makes a position sure: low ``entropy``, high ``confidence`` or high ``margin``.
    """

    type_name: ClassVar[str] = "entropy_bound"
    label: ClassVar[str] = "EB"
    grid: ClassVar[Grid] = {"gamma": (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0)}
    gamma: Annotated[float, Ge(0)] = 0.1
    order: Order = "entropy"

    @property
    def needs(self) -> Needs:
        return Needs(top_k=2 if self.order == "margin" else 1, entropy=True)

    def select(self, observation: Observation) -> Bool[Tensor, "b l"]:
        may, entropy = observation.selectable, _entropy(observation)
        order, rank = ranking(sureness(observation, self.order), may)
        # float64, so that a long sum does not depend on how it is added up
        ranked = entropy.masked_fill(~may, torch.inf).gather(1, order).double()
        within = ranked.cumsum(dim=1) - ranked.cummax(dim=1).values <= self.gamma  # inf - inf past the last: False
        return rank < within.sum(dim=1, keepdim=True).clamp(min=1)


def _entropy(observation: Observation) -> Float[Tensor, "b l"]:
    assert observation.entropy is not None  # the loop gives what is needed
    return observation.entropy
