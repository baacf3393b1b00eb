"""The active rows of the decode loop, and one step as a callback sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding.blocks import Blocks
from unmask.models.base import MaskedDiffusionModel
from unmask.models.kl_history import KLHistory
from unmask.models.memory import Memory
from unmask.observation import Needs, Observation


@dataclass(frozen=True)
class Reading(Memory):
    """What a forward pass said of each row; zero at positions that were not read, or what was read there last.

    Attributes:
        confidence: as in `Observation`.
        entropy: as in `Observation`.
        tokens: as in `Observation`.
        hidden_states: as in `Observation`.
        predicted: the likeliest token, or the one drawn where a policy is to see that.
        age: passes since each position was read, where readings are kept.
    """

    confidence: Float[Tensor, "b l k"]
    predicted: Int[Tensor, "b l"]
    entropy: Float[Tensor, "b l"] | None = None
    tokens: Int[Tensor, "b l k"] | None = None
    hidden_states: Float[Tensor, "b l h"] | None = None
    age: Int[Tensor, "b l"] | None = None

    def take(self, rows: Tensor) -> Reading:
        return self._each(lambda values, _: values[rows])

    def put(self, rows: Int[Tensor, " n"], fresh: Reading) -> Reading:
        """These rows replaced."""
        return self._each(lambda values, new: values.index_copy(0, rows, new), fresh)

    def to(self, device: torch.device) -> Reading:
        return self._each(lambda values, _: values.to(device))

    def only(self, needs: Needs, where: Bool[Tensor, "b l"]) -> Reading:
        """What a pass with these needs would have read, at these positions."""
        shown = replace(
            self,
            confidence=self.confidence[..., : needs.top_k],
            entropy=self.entropy if needs.entropy else None,
            tokens=None if self.tokens is None or not needs.tokens else self.tokens[..., : needs.top_k],
        )
        return shown._each(lambda values, _: values.masked_fill(~where if values.ndim == 2 else ~where[..., None], 0))

    def over(self, last: Reading, read: Bool[Tensor, "b l"]) -> Reading:
        """This one where the pass has read, and elsewhere the last one, a pass older."""
        if last.age is not None:
            last = replace(last, age=last.age + 1)

        def chosen(fresh: Tensor, old: Tensor) -> Tensor:
            return torch.where(read if fresh.ndim == 2 else read[..., None], fresh, old)

        return self._each(chosen, last)

    def join(self, n: int) -> Reading:
        return self._each(lambda values, _: torch.cat([values, values.new_zeros(n, *values.shape[1:])]))

    def _each(self, change: Callable[[Tensor, Tensor], Tensor], other: Reading | None = None) -> Reading:
        others = vars(other or self)
        changed = {name: change(value, others[name]) for name, value in vars(self).items() if value is not None}
        return replace(self, **changed)


@dataclass(frozen=True)
class Memories(Memory):
    """All that is kept of the active rows from pass to pass; None is not kept.

    Attributes:
        model: the dLLM's own.
        kl: for policies that need it.
        reading: the last pass, where rows share passes, or where a cache keeps what is not computed anew.
    """

    model: Memory | None = None
    kl: KLHistory | None = None
    reading: Reading | None = None

    def take(self, rows: Tensor) -> Memories:
        return self._each(lambda memory: memory.take(rows))

    def join(self, n: int) -> Memories:
        return self._each(lambda memory: memory.join(n))

    def trim(self, columns: int) -> Memories:
        return self._each(lambda memory: memory.trim(columns))

    def _each(self, change: Callable[[Any], Any]) -> Memories:
        return replace(self, **{name: change(memory) for name, memory in vars(self).items() if memory is not None})


@dataclass(frozen=True)
class DecodingState:
    """The active rows: left-padded prompts, each followed by its generation region.

    Attributes:
        tokens: token ids; the last l columns are the region.
        attention: True at real tokens, False at the left padding.
        masked: region positions not revealed yet.
        revealed_at: step at which each position was revealed, from 0; -1 where it was not yet.
        block_end: where the row's current block ends, exclusive; before the first where one before it would end.
        block_step: steps it has taken in that block.
        post_step: while that block is revised, passes it has had with nothing masked, from 0; -1 otherwise.
        given_up: positions before this one stay masked if they are: the steps of their blocks are spent.
        step: decoding steps (forward passes) the row has taken.
        key: the row's random stream.
        row: the row's index in the caller's list of prompts.
        speed: that the policy is asked for, where it is conditioned on one.
        positions: that the row's passes have computed.
        full_passes: that computed the whole row.
        memory: what is kept from pass to pass.
    """

    tokens: Int[Tensor, "b t"]
    attention: Bool[Tensor, "b t"]
    masked: Bool[Tensor, "b l"]
    revealed_at: Int[Tensor, "b l"]
    block_end: Int[Tensor, " b"]
    block_step: Int[Tensor, " b"]
    post_step: Int[Tensor, " b"]
    given_up: Int[Tensor, " b"]
    step: Int[Tensor, " b"]
    key: Int[Tensor, " b"]
    row: Int[Tensor, " b"]
    speed: Float[Tensor, " b"]
    positions: Int[Tensor, " b"]
    full_passes: Int[Tensor, " b"]
    memory: Memories = field(default_factory=Memories)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def gen_length(self) -> int:
        return self.masked.shape[1]

    @property
    def prompt_width(self) -> int:
        """Columns before the region: the longest active prompt."""
        return self.tokens.shape[1] - self.masked.shape[1]

    @property
    def prompt_length(self) -> Int[Tensor, " b"]:
        """Of each row, without padding."""
        return self.attention.sum(dim=1) - self.gen_length

    @property
    def region(self) -> Int[Tensor, "b l"]:
        """Token ids of the generation region."""
        return self.tokens[:, -self.gen_length :]

    @property
    def changed(self) -> Bool[Tensor, " b"]:
        """Rows whose last step revealed something or gave up a block, and fresh rows: their last pass does not tell."""
        left = (self.given_up > 0) & (self.given_up >= self.block_end)
        return (self.revealed_at == self.step[:, None] - 1).any(dim=1) | left

    @property
    def open(self) -> Bool[Tensor, "b l"]:
        """Masked positions that are not given up."""
        return self.masked & (self._position >= self.given_up[:, None])

    @property
    def ahead(self) -> Bool[Tensor, "b l"]:
        """What the coming pass is about, by which a row's block is found: open positions, or the last one of a block
        that is revised."""
        last = self._position == self.block_end.clamp(max=self.gen_length)[:, None] - 1
        return torch.where((self.post_step >= 0)[:, None], last, self.open)

    @property
    def in_block(self) -> Bool[Tensor, " b"]:
        """Rows whose current block is not over: something in it is open, or it is revised."""
        return (self.post_step >= 0) | (self.open & (self._position < self.block_end[:, None])).any(dim=1)

    @property
    def _position(self) -> Int[Tensor, " l"]:
        return torch.arange(self.gen_length, device=self.masked.device)

    def take(self, rows: Tensor) -> DecodingState:
        """The rows named by a boolean mask or by indices, in that order."""
        return self._with({name: value[rows] for name, value in self._tensors().items()}, self.memory.take(rows))

    def join(self, fresh: DecodingState, pad_id: int) -> DecodingState:
        """These rows and fresh ones, left-padded to the longer prompt."""
        width = max(self.tokens.shape[1], fresh.tokens.shape[1])
        a, b = self._padded(width, pad_id), fresh._padded(width, pad_id)
        joined = {name: torch.cat([value, b[name]]) for name, value in a.items()}
        return self._with(joined, self.memory.join(len(fresh)))

    def trim(self) -> DecodingState:
        """Without the columns that are padding in every row."""
        first = int(self.attention.any(dim=0).int().argmax()) if len(self) else 0
        if not first:
            return self
        trimmed = {"tokens": self.tokens[:, first:], "attention": self.attention[:, first:]}
        return self._with(trimmed, self.memory.trim(first))

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _padded(self, width: int, pad_id: int) -> dict[str, Tensor]:
        more = (width - self.tokens.shape[1], 0)
        tokens, attention = F.pad(self.tokens, more, value=pad_id), F.pad(self.attention, more, value=False)
        return self._tensors() | {"tokens": tokens, "attention": attention}

    def _with(self, tensors: dict[str, Tensor], memory: Memories) -> DecodingState:
        return DecodingState(**(self._tensors() | tensors), memory=memory)


def begin(
    model: MaskedDiffusionModel,
    prompts: Sequence[Sequence[int]],
    gen_length: int,
    *,
    rows: Sequence[int],
    keys: Int[Tensor, " b"],
    speeds: Sequence[float],
    blocks: Blocks,
    kl_history: int = 0,
    cache: str = "none",
) -> DecodingState:
    """Rows at their first step: the prompts left-padded to the longest, each with a region that is all masked.

    Args:
        blocks: where their first blocks begin.
        kl_history: steps of KL history to keep.
        cache: as in `MaskedDiffusionModel.memory`.
    """
    width = max((len(prompt) for prompt in prompts), default=1)
    pads = [width - len(prompt) for prompt in prompts]
    filled = [
        [model.pad_id] * pad + list(prompt) + [model.mask_id] * gen_length
        for pad, prompt in zip(pads, prompts, strict=True)
    ]
    tokens = torch.tensor(filled, dtype=torch.long).view(len(rows), width + gen_length)
    attention = torch.arange(width + gen_length) >= torch.tensor(pads, dtype=torch.long)[:, None]
    nothing = torch.zeros(len(rows), dtype=torch.long, device=model.device)
    return DecodingState(
        tokens=tokens.to(model.device),
        attention=attention.to(model.device),
        masked=torch.ones(len(rows), gen_length, dtype=torch.bool, device=model.device),
        revealed_at=torch.full((len(rows), gen_length), -1, device=model.device),
        block_end=blocks.start(torch.tensor([len(prompt) for prompt in prompts], device=model.device)),
        block_step=nothing,
        post_step=nothing - 1,
        given_up=nothing,
        step=nothing,
        key=keys.to(model.device),
        row=torch.tensor(rows, dtype=torch.long, device=model.device),
        speed=torch.tensor(speeds, dtype=torch.float32, device=model.device),
        positions=nothing,
        full_passes=nothing,
        memory=Memories(
            model=model.memory(len(rows), cache),
            kl=KLHistory.begin(len(rows), gen_length, kl_history, model.device) if kl_history else None,
        ),
    )


@dataclass(frozen=True)
class Step:
    """One step of the decode loop, as a callback sees it.

    Attributes:
        before: the active rows when the policy was asked.
        observation: what was computed for the policy.
        predicted: the dLLM's likeliest token at each region position that was read, or the one drawn where a policy is
            to see that (`DecodeConfig.confidence_of`).
        written: the token each changed position takes (as `predicted`, or drawn after the policy was asked).
        action: positions the policy revealed.
        picks: the same with the order of picking, as in `unmask.policies.actions`.
        edits: revealed positions that it overwrote with `predicted`; None of a policy that never does.
    """

    before: DecodingState
    observation: Observation
    predicted: Int[Tensor, "b l"]
    written: Int[Tensor, "b l"]
    action: Bool[Tensor, "b l"]
    picks: Int[Tensor, "b l"]
    edits: Bool[Tensor, "b l"] | None = None

    @property
    def changed(self) -> Bool[Tensor, "b l"]:
        """Positions that take the token `written` there."""
        return self.action if self.edits is None else self.action | self.edits


StepCallback = Callable[[Step], None]
