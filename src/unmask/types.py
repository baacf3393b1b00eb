"""What flows through the house: plain frozen containers of tensors, nothing else.

Shape letters: b rows of the live batch, t prompt and region together, l positions of the generation region,
k confidences per position, n selected positions, m kept ones, v vocabulary, h hidden width, s steps of history,
c width of what a dLLM carries from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
        kl_history: for how many steps back the change of each position's distribution is wanted.
        hidden_states: the dLLM's last hidden state of each position.
    """

    top_k: int = 1
    positions: Positions = "selectable"
    entropy: bool = False
    kl_history: int = 0
    hidden_states: bool = False

    def union(self, other: Needs) -> Needs:
        """The least that satisfies both."""
        return Needs(
            max(self.top_k, other.top_k),
            max(self.positions, other.positions, key=WIDER.index),
            self.entropy or other.entropy,
            max(self.kl_history, other.kl_history),
            self.hidden_states or other.hidden_states,
        )


@dataclass(frozen=True)
class Observation:
    """What a policy sees at one step: the state of the decision process (arXiv 2512.09106, section 2).

    Attributes:
        confidence: the k largest probabilities of the dLLM's plain softmax at each position.
        masked: the position is still masked.
        selectable: masked, and in the row's current block: the policy may reveal it.
        step_fraction: steps taken so far / gen_length.
        noise: uniform numbers in (0, 1), a stream of its own for each row, so that a random policy needs no
            generator and no row depends on its neighbours.
        entropy: of the plain softmax, in nats; None unless needed.
        kl: KL(this step's distribution || the last step's), newest first, in nats, for the last s steps; infinite
            where a step was not looked at. None unless needed.
        hidden_states: None unless needed.
    """

    confidence: Float[Tensor, "b l k"]
    masked: Bool[Tensor, "b l"]
    selectable: Bool[Tensor, "b l"]
    step_fraction: Float[Tensor, " b"]
    noise: Float[Tensor, "b l"]
    entropy: Float[Tensor, "b l"] | None = None
    kl: Float[Tensor, "b l s"] | None = None
    hidden_states: Float[Tensor, "b l h"] | None = None

    def take(self, rows: Tensor) -> Observation:
        """The rows named by indices, in that order."""
        values = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return replace(self, **values)

    def only(self, needs: Needs) -> Observation:
        """What a policy declared, and no more."""
        visible = {"selectable": self.selectable, "masked": self.masked, "region": None}[needs.positions]

        def shown(values: Tensor | None, wanted: bool) -> Tensor | None:
            if values is None or not wanted:
                return None
            if visible is None:
                return values
            hide = ~visible
            return values.masked_fill(hide if values.ndim == 2 else hide[..., None], 0.0)

        confidence = shown(self.confidence[..., : needs.top_k], True)
        assert confidence is not None
        return replace(
            self,
            confidence=confidence,
            entropy=shown(self.entropy, needs.entropy),
            kl=shown(None if self.kl is None else self.kl[..., : needs.kl_history], needs.kl_history > 0),
            hidden_states=shown(self.hidden_states, needs.hidden_states),
        )


@dataclass(frozen=True)
class History:
    """What the change of a distribution is measured against, for policies that ask for it.

    Attributes:
        kl: as in `Observation`, up to the last step.
        slot: where the position's last logits lie in `logits`; -1 if it was not looked at.
        logits: the last step's logits, packed, in the dLLM's dtype.
    """

    kl: Float[Tensor, "b l s"]
    slot: Int[Tensor, "b l"]
    logits: Float[Tensor, "n v"] | None


@dataclass(frozen=True)
class Reading:
    """What a forward pass said of each row; zero at positions that were not asked about.

    Attributes:
        confidence, entropy, hidden_states: as in `Observation`.
        predicted: the likeliest token.
    """

    confidence: Float[Tensor, "b l k"]
    predicted: Int[Tensor, "b l"]
    entropy: Float[Tensor, "b l"] | None
    hidden_states: Float[Tensor, "b l h"] | None

    def take(self, rows: Tensor) -> Reading:
        """The rows named by a boolean mask or by indices, in that order."""
        return self._each(lambda values, _: values[rows])

    def put(self, rows: Int[Tensor, " n"], news: Reading) -> Reading:
        """These rows replaced."""
        return self._each(lambda values, new: values.index_copy(0, rows, new), news)

    def grow(self, n: int) -> Reading:
        """With n rows behind of which nothing is known."""
        return self._each(lambda values, _: torch.cat([values, values.new_zeros(n, *values.shape[1:])]))

    def _each(self, change: Callable[[Tensor, Tensor], Tensor], other: Reading | None = None) -> Reading:
        with_other = vars(other or self)
        changed = {name: change(value, with_other[name]) for name, value in vars(self).items() if value is not None}
        return replace(self, **changed)


@dataclass(frozen=True)
class DecodingState:
    """The live rows: left-padded prompts, each followed by its generation region.

    Attributes:
        tokens: token ids; the last l columns are the region.
        attention: True at real tokens, False at the left padding.
        masked: region positions not revealed yet.
        revealed_at: step at which each position was revealed, from 0; -1 where it was not yet.
        block_end: where the row's current block ends, exclusive; 0 before the first.
        step: decoding steps (forward passes) the row has taken.
        key: the row's random stream.
        row: the row's place in the caller's list of prompts.
        changed: the row's tokens are not those of its reading.
        history: None unless the policy needs it.
        reading: the last pass; None unless rows share passes.
        carried: what the dLLM made of the last pass for the next one; None unless it `carries`.
    """

    tokens: Int[Tensor, "b t"]
    attention: Bool[Tensor, "b t"]
    masked: Bool[Tensor, "b l"]
    revealed_at: Int[Tensor, "b l"]
    block_end: Int[Tensor, " b"]
    step: Int[Tensor, " b"]
    key: Int[Tensor, " b"]
    row: Int[Tensor, " b"]
    changed: Bool[Tensor, " b"]
    history: History | None = None
    reading: Reading | None = None
    carried: Float[Tensor, "b l c"] | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def gen_length(self) -> int:
        return self.masked.shape[1]

    @property
    def prompt_width(self) -> int:
        """Columns before the region: the longest live prompt."""
        return self.tokens.shape[1] - self.masked.shape[1]

    @property
    def region(self) -> Int[Tensor, "b l"]:
        """Token ids of the generation region."""
        return self.tokens[:, -self.gen_length :]

    def take(self, keep: Tensor) -> DecodingState:
        """The rows named by a boolean mask or by indices, in that order."""
        rows = {name: value[keep] for name, value in vars(self).items() if isinstance(value, Tensor)}
        history = self.history and replace(self.history, kl=self.history.kl[keep], slot=self.history.slot[keep])
        return replace(self, **rows, history=history, reading=self.reading and self.reading.take(keep))

    def join(self, fresh: DecodingState, pad_id: int) -> DecodingState:
        """These rows and fresh ones, left-padded to the longer prompt. Nothing is known of fresh rows yet."""
        width = max(self.tokens.shape[1], fresh.tokens.shape[1])
        a, b = (
            replace(
                state,
                tokens=torch.nn.functional.pad(state.tokens, (width - state.tokens.shape[1], 0), value=pad_id),
                attention=torch.nn.functional.pad(state.attention, (width - state.tokens.shape[1], 0), value=False),
            )
            for state in (self, fresh)
        )
        history = None
        if self.history is not None:
            kl, slot = self.history.kl, self.history.slot
            history = replace(
                self.history,
                kl=torch.cat([kl, kl.new_full((len(fresh), *kl.shape[1:]), torch.inf)]),
                slot=torch.cat([slot, slot.new_full((len(fresh), slot.shape[1]), -1)]),
            )
        if a.carried is not None:
            b = replace(b, carried=a.carried.new_zeros(len(b), *a.carried.shape[1:]))
        rows = {
            name: torch.cat([value, getattr(b, name)]) for name, value in vars(a).items() if isinstance(value, Tensor)
        }
        return replace(a, **rows, history=history, reading=self.reading and self.reading.grow(len(fresh)))

    def trim(self) -> DecodingState:
        """Without the columns that are padding in every row."""
        first = int(self.attention.any(dim=0).int().argmax()) if len(self) else 0
        return replace(self, tokens=self.tokens[:, first:], attention=self.attention[:, first:]) if first else self


@dataclass(frozen=True)
class Step:
    """One step of the decode loop, as a callback sees it.

    Attributes:
        before: the live rows when the policy was asked.
        observation: what was computed for the policy.
        predicted: the dLLM's likeliest token at each region position it was asked about.
        written: the token each revealed position takes (as `predicted` at token temperature 0).
        action: positions the policy revealed.
        picks: the same with the order of picking, as in `unmask.policies.actions`.
    """

    before: DecodingState
    observation: Observation
    predicted: Int[Tensor, "b l"]
    written: Int[Tensor, "b l"]
    action: Bool[Tensor, "b l"]
    picks: Int[Tensor, "b l"]


StepCallback = Callable[[Step], None]
