"""The policy seam: what a policy says it needs, and what it sees at one decoding step.

Shape letters of the whole package: b active rows of a batch, t prompt and region together, l positions of the
generation region, k confidences per position, n selected positions, v vocabulary, h hidden width, s steps of history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import UnmaskError

Positions = Literal["selectable", "masked", "region"]
WIDER: tuple[Positions, ...] = ("selectable", "masked", "region")


@dataclass(frozen=True)
class Needs:
    """What a policy must see; the decode loop computes no more than this.

    Attributes:
        top_k: number of confidences per position, largest first.
        positions: where numbers are wanted. ``selectable``: only where the policy may act; ``masked``: at every masked
            position of the region; ``region``: at revealed positions too. Elsewhere they are zero.
        entropy: the entropy of each position's distribution.
        tokens: which tokens the confidences are of: two positions that would write the same may exclude each other.
        kl_history: for how many steps back the change of each position's distribution is wanted.
        hidden_states: the dLLM's last hidden state of each position.
        speed: the policy is conditioned on the speed that the user asks for.
        block_step: how many steps the row has taken in its current block.
        age: how many passes ago each position was read, where a cache keeps readings.
        differs: which revealed tokens of the row's current block the dLLM would now write otherwise, and how confident
            it is there: what `Policy.revise` chooses from.
    """

    top_k: int = 1
    positions: Positions = "selectable"
    entropy: bool = False
    tokens: bool = False
    kl_history: int = 0
    hidden_states: bool = False
    speed: bool = False
    block_step: bool = False
    age: bool = False
    differs: bool = False

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("kl_history", 0)):
            if getattr(self, name) < least:
                raise UnmaskError(f"{name} is {getattr(self, name)}: a policy needs at least {least}.")

    def union(self, other: Needs) -> Needs:
        """The least that satisfies both."""
        return Needs(
            max(self.top_k, other.top_k),
            max(self.positions, other.positions, key=WIDER.index),
            self.entropy or other.entropy,
            self.tokens or other.tokens,
            max(self.kl_history, other.kl_history),
            self.hidden_states or other.hidden_states,
            self.speed or other.speed,
            self.block_step or other.block_step,
            self.age or other.age,
            self.differs or other.differs,
        )


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one step: the state of the decision process (arXiv 2512.09106, section 2).

    Attributes:
        confidence: the k largest probabilities of the dLLM's plain softmax at each position, or what
            `DecodeConfig.confidence_of` asks for.
        masked: the position is still masked.
        selectable: masked, and in the row's current block: the policy may reveal it.
        step_fraction: steps taken so far / gen_length.
        noise: uniform numbers in (0, 1), a stream of its own for each row, so that a random policy needs no
            generator and no row depends on its neighbours.
        entropy: in nats, of the same distribution; None unless needed.
        tokens: of each confidence, the token that it is of; None unless needed.
        kl: KL(this step's distribution || the last step's), newest first, in nats, for the last s steps; infinite
            where a step was not looked at. None unless needed.
        hidden_states: None unless needed.
        speed: that each row is decoded at, from 0 (slow, careful) to 1 (fast); None unless needed.
        block_step: steps taken so far in the row's current block; None unless needed.
        age: passes since each position was read: 0 but where a cache keeps readings (`unmask.models.stale_cache`).
            None unless needed.
        differs: revealed in the row's current block (never in the prompt), and the dLLM now predicts another token,
            whose `confidence` is shown; None unless needed.
    """

    confidence: Float[Tensor, "b l k"]
    masked: Bool[Tensor, "b l"]
    selectable: Bool[Tensor, "b l"]
    step_fraction: Float[Tensor, " b"]
    noise: Float[Tensor, "b l"]
    entropy: Float[Tensor, "b l"] | None = None
    tokens: Int[Tensor, "b l k"] | None = None
    kl: Float[Tensor, "b l s"] | None = None
    hidden_states: Float[Tensor, "b l h"] | None = None
    speed: Float[Tensor, " b"] | None = None
    block_step: Int[Tensor, " b"] | None = None
    age: Int[Tensor, "b l"] | None = None
    differs: Bool[Tensor, "b l"] | None = None

    def take(self, rows: Tensor) -> Observation:
        """The rows named by indices, in that order."""
        values = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return replace(self, **values)

    def only(self, needs: Needs) -> Observation:
        """What a policy declared, and no more."""
        differs = self.differs if needs.differs else None
        visible = {"selectable": self.selectable, "masked": self.masked, "region": None}[needs.positions]
        if visible is not None and differs is not None:
            visible = visible | differs

        def shown(values: Tensor | None, wanted: bool) -> Tensor | None:
            if values is None or not wanted:
                return None
            if visible is None:
                return values
            hide = ~visible
            return values.masked_fill(hide if values.ndim == 2 else hide[..., None], 0)

        confidence = shown(self.confidence[..., : needs.top_k], True)
        assert confidence is not None
        return replace(
            self,
            confidence=confidence,
            entropy=shown(self.entropy, needs.entropy),
            tokens=shown(None if self.tokens is None else self.tokens[..., : needs.top_k], needs.tokens),
            kl=shown(None if self.kl is None else self.kl[..., : needs.kl_history], needs.kl_history > 0),
            hidden_states=shown(self.hidden_states, needs.hidden_states),
            speed=self.speed if needs.speed else None,
            block_step=self.block_step if needs.block_step else None,
            age=shown(self.age, needs.age),
            differs=differs,
        )
