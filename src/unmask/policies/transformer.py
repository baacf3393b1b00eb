"""The learned policy: one transformer block over the confidences (arXiv 2512.09106, section 3 and appendix).

Tensor names are those of the released checkpoints without their `base_policy.` prefix.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, MultipleOf
from jaxtyping import Bool, Float
from pydantic import BeforeValidator, model_validator
from torch import Tensor, nn

from unmask.errors import UnmaskError
from unmask.observation import Needs, Observation
from unmask.policies.actions import DPLS, Actions, Bernoulli
from unmask.policies.base import LearnedPolicy, PolicySettings
from unmask.policies.ranking import overlap

SPEED_FREQUENCIES = 8
MOST_WEIGHTS = 2**31


class TransformerConfig(PolicySettings):
    """Shape of the network and how it draws.

    Attributes:
        reads: what it sees of each position: the dLLM's confidences, or its last hidden state through a projection (an
            ablation of the paper; the policy then fits one dLLM only), or nothing: it then knows the step, the mask and
            the speed alone, a control for what the state is worth.
        top_k: confidences per position (k); the paper's ablation has 50.
        hidden_size: of the dLLM, where hidden states are read.
        width: of the transformer; the defaults give 331,265 parameters.
        heads: of its attention.
        feed_forward: width of its feed-forward layers.
        blocks: how many it has.
        use_time: condition on the step (an ablation of the paper).
        use_mask: condition on the mask (an ablation of the paper).
        use_entropy: see the entropy of each position beside its confidences, in nats: some rules decide by it.
        use_age: see how many passes ago each position was read, n as n / (1 + n): for a dLLM with a stale cache.
        use_rank: see how many masked positions stand before each position and how many behind it, n as 1 / (1 + n).
            Without it positions that look alike get equal logits: attention over equal values is the same everywhere.
        use_overlap: see of each two masked positions how far they would write the same, by the tokens of their top_k
            confidences: attention is drawn to (or from) those by a learnt weight. Give top_k enough to hold what a
            position is unsure of, such as 8.
        use_speed: condition on the speed asked for: one policy for every speed.
        context: positions of the block that it sees: it is blind outside the block of the first position that it may
            reveal (released code: `policy_full_context` off, with its block length); None: the whole region.
        time_size: number of time features (released code: `policy_time_embed_dim`); None: the width.
        initial_logit: output bias of fresh weights, whose modulation is then the identity (released code:
            `policy_smart_init`); None (in TOML "none"): torch's own initialisation. By default a position is revealed
            with probability 0.119 at first: a slow, careful start.
        time_period: P of the time features' frequencies P^(-i/64). Released checkpoints have 1 (all frequencies 1);
            below 1 the frequencies rise from 1 to 1/P, which tells steps apart in [0, 1].
        round_time: round the time features to bfloat16, as released checkpoints expect.
        actions: the distribution that draws, ``bernoulli`` or ``dpls``.
        force_progress: reveal the largest logit where a row draws nothing (Bernoulli; DPLS always reveals something).
        stop_logit: of STOP in DPLS (released code: `dpls_stop_logit`).
    """

    reads: Literal["confidence", "hidden_states", "nothing"] = "confidence"
    top_k: Annotated[int, Ge(1)] = 1
    hidden_size: Annotated[int, Ge(1)] | None = None
    width: Annotated[int, Ge(2)] = 128
    heads: Annotated[int, Ge(1)] = 2
    feed_forward: Annotated[int, Ge(1)] = 512
    blocks: Annotated[int, Ge(1)] = 1
    use_time: bool = True
    use_mask: bool = True
    use_entropy: bool = False
    use_age: bool = False
    use_rank: bool = False
    use_overlap: bool = False
    use_speed: bool = False
    context: Annotated[int | None, Ge(1)] = None
    time_size: Annotated[int | None, Ge(2), MultipleOf(2)] = None
    initial_logit: Annotated[float | None, BeforeValidator(lambda value: None if value == "none" else value)] = -2.0
    time_period: Annotated[float, Gt(0)] = 0.01
    round_time: bool = False
    actions: Literal["bernoulli", "dpls"] = "bernoulli"
    force_progress: bool = True
    stop_logit: float = 0.0

    @property
    def has_speed(self) -> bool:
        return self.use_speed

    def for_model(self, hidden_size: int | None) -> TransformerConfig:
        open_ = self.reads == "hidden_states" and self.hidden_size is None
        return self.model_copy(update={"hidden_size": hidden_size}) if open_ else self

    @model_validator(mode="after")
    def _fits(self) -> TransformerConfig:
        weights = self.blocks * (10 * self.width + 2 * self.feed_forward) * self.width + self.top_k * self.width
        if weights > MOST_WEIGHTS:
            raise ValueError(f"these sizes make about {weights:,} weights, and a policy has {MOST_WEIGHTS:,} at most")
        if self.reads != "hidden_states" and self.hidden_size is not None:
            raise ValueError("hidden_size goes with reads = 'hidden_states'")
        if self.reads == "hidden_states" and self.use_rank:
            raise ValueError("use_rank goes with reads = 'confidence' or 'nothing'")
        for name in ("use_entropy", "use_age", "use_overlap"):
            if self.reads != "confidence" and getattr(self, name):
                raise ValueError(f"{name} goes with reads = 'confidence'")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 * heads = {2 * self.heads}")
        if self.stop_logit and self.actions != "dpls":
            raise ValueError("stop_logit goes with actions = 'dpls'")
        return self


class TransformerPolicy(LearnedPolicy):
    """Confidences, mask flags and step fraction in, one logit a position out.

    It sees the whole region and acts on the selectable positions.
    """

    type_name: ClassVar[str] = "transformer"
    Config: ClassVar[type[PolicySettings]] = TransformerConfig
    settings: TransformerConfig

    def __init__(self, config: TransformerConfig | None = None) -> None:
        nn.Module.__init__(self)
        c = self.settings = config or TransformerConfig()
        if c.reads == "hidden_states" and c.hidden_size is None:
            raise UnmaskError("A policy that reads hidden states needs hidden_size, the width of the dLLM's.")
        if c.use_time:
            size = c.time_size or c.width
            self.time_mlp = nn.Sequential(nn.Linear(size, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        if c.use_speed:
            self.speed_mlp = nn.Sequential(
                nn.Linear(2 * SPEED_FREQUENCIES, c.width), nn.SiLU(), nn.Linear(c.width, c.width)
            )
        if c.hidden_size is None:
            self.confidence_proj = nn.Linear(c.top_k + c.use_entropy + c.use_age + 2 * c.use_rank, c.width)
        else:
            self.hidden_proj = nn.Linear(c.hidden_size, c.width)
        if c.use_mask:
            self.mask_embedding = nn.Embedding(2, c.width)
        self.transformer_blocks = nn.ModuleList(
            Block(c.width, c.heads, c.feed_forward, c.initial_logit is not None) for _ in range(c.blocks)
        )
        if c.use_overlap:
            self.overlap_weight = nn.Parameter(torch.zeros(c.heads))
        self.final_norm = nn.LayerNorm(c.width)
        self.output_proj = nn.Linear(c.width, 1)
        if c.initial_logit is not None:
            nn.init.constant_(self.output_proj.bias, c.initial_logit)

    @property
    def needs(self) -> Needs:
        c, hidden = self.settings, self.settings.reads == "hidden_states"
        top_k = 1 if hidden else c.top_k
        return Needs(
            top_k,
            "region",
            entropy=c.use_entropy,
            tokens=c.use_overlap,
            hidden_states=hidden,
            speed=c.use_speed,
            age=c.use_age,
        )

    @property
    def actions(self) -> Actions:
        return (
            DPLS(self.settings.stop_logit)
            if self.settings.actions == "dpls"
            else Bernoulli(self.settings.force_progress)
        )

    def logits(self, observation: Observation) -> Float[Tensor, "b l"]:
        """
        Raises:
            UnmaskError: hidden states of another width than it was trained on.
        """
        x = self._read(observation)
        # A row has two conditions only, one for revealed and one for masked positions: modulate those, then spread.
        condition = x.new_zeros(len(x), 2, self.settings.width)
        if self.settings.use_mask:
            condition = condition + self.mask_embedding.weight
        if self.settings.use_time:
            condition = condition + self.time_mlp(self._time_features(observation.step_fraction))[:, None]
        if self.settings.use_speed:
            condition = condition + self.speed_mlp(speed_features(self.knob(observation)))[:, None]
        in_view, drawn_to = self._view(observation), None
        if self.settings.use_overlap:
            assert observation.tokens is not None
            shared = overlap(observation.confidence, observation.tokens, observation.masked)
            drawn_to = OVERLAP * self.overlap_weight[:, None, None] * shared[:, None]
        for block in self.transformer_blocks:
            x = block(x, condition, observation.masked, in_view, drawn_to)
        return self.output_proj(self.final_norm(x))[..., 0]

    def scale_logits(self, factor: float) -> bool:
        with torch.no_grad():
            for parameter in self.output_proj.parameters():
                parameter.mul_(factor)
        return True

    def _read(self, observation: Observation) -> Float[Tensor, "b l w"]:
        """Confidences or hidden states, projected."""
        if self.settings.reads != "hidden_states":
            features = observation.confidence[..., : self.settings.top_k]
            if self.settings.reads == "nothing":
                features = torch.zeros_like(features)
            if self.settings.use_entropy:
                assert observation.entropy is not None
                features = torch.cat([features, observation.entropy[..., None]], dim=-1)
            if self.settings.use_age:
                assert observation.age is not None
                age = observation.age.float()
                features = torch.cat([features, (age / (1 + age))[..., None]], dim=-1)
            if self.settings.use_rank:
                features = torch.cat([features, ranks(observation.masked)], dim=-1)
            return self.confidence_proj(features)
        assert observation.hidden_states is not None
        width = observation.hidden_states.shape[-1]
        if width != self.settings.hidden_size:
            raise UnmaskError(
                f"The policy reads hidden states of width {self.settings.hidden_size}, and the dLLM's have {width}: "
                "use it with the dLLM that it was trained on, or a policy that reads confidences."
            )
        return self.hidden_proj(observation.hidden_states.float())

    def _view(self, observation: Observation) -> Bool[Tensor, "b l"] | None:
        """The positions it sees; None for all."""
        if self.settings.context is None:
            return None
        block = torch.arange(observation.masked.shape[1], device=observation.masked.device) // self.settings.context
        current = observation.selectable.int().argmax(dim=1) // self.settings.context
        return block == current[:, None]

    def _time_features(self, step_fraction: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        half = (self.settings.time_size or self.settings.width) // 2
        exponent = torch.arange(half, device=step_fraction.device, dtype=torch.float32) / half
        angle = step_fraction[:, None] * self.settings.time_period**-exponent
        features = torch.cat([angle.cos(), angle.sin()], dim=1)
        return features.bfloat16().float() if self.settings.round_time else features


OVERLAP = 10.0  # what an overlap of 1 adds to an attention logit, per unit of the learnt weight


def ranks(masked: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 2"]:
    """1 / (1 + n) for the n masked positions before each position, and for those behind it."""
    upto = masked.long().cumsum(dim=1)
    before, behind = upto - masked.long(), upto[:, -1:] - upto
    return 1 / (1 + torch.stack([before, behind], dim=-1).float())


def speed_features(knob: Float[Tensor, " b"]) -> Float[Tensor, "b 16"]:
    """Cosines and sines of a number in [0, 1], from a sixteenth of a turn to half of one: neighbours look alike."""
    angle = knob[:, None] * (math.pi / 8) * torch.arange(1, SPEED_FREQUENCIES + 1, device=knob.device)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class Block(nn.Module):
    """Pre-norm transformer block with adaptive LayerNorm and rotary positions 0..l-1."""

    def __init__(self, width: int, heads: int, feed_forward: int, identity: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.linear1, self.linear2 = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ada_conditioning = nn.Linear(width, 6 * width)
        if identity:
            nn.init.zeros_(self.ada_conditioning.weight)
            nn.init.zeros_(self.ada_conditioning.bias)

    def forward(
        self,
        x: Float[Tensor, "b l w"],
        condition: Float[Tensor, "b 2 w"],
        masked: Bool[Tensor, "b l"],
        in_view: Bool[Tensor, "b l"] | None = None,
        drawn_to: Float[Tensor, "b h l l"] | None = None,
    ) -> Float[Tensor, "b l w"]:
        """
        Args:
            condition: what modulates revealed (0) and masked (1) positions.
            in_view: positions that are attended to; all by default.
            drawn_to: added to the attention's logits.
        """
        revealed, hidden = self.ada_conditioning(condition)[:, :, None].unbind(dim=1)
        modulation = torch.where(masked[..., None], hidden, revealed)
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation.chunk(6, dim=-1)
        x = x + self._attention(self.norm1(x) * (1 + scale1) + shift1, in_view, drawn_to) * (1 + gate1)
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + self.linear2(F.gelu(self.linear1(h))) * (1 + gate2)

    def _attention(
        self,
        h: Float[Tensor, "b l w"],
        in_view: Bool[Tensor, "b l"] | None,
        drawn_to: Float[Tensor, "b h l l"] | None,
    ) -> Float[Tensor, "b l w"]:
        q, k, v = (
            p(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen: Tensor | None = None if in_view is None else in_view[:, None, None]
        if drawn_to is not None:
            seen = drawn_to if seen is None else drawn_to.masked_fill(~seen, -torch.inf)
        mixed = F.scaled_dot_product_attention(_rotate(q), _rotate(k), v, seen)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


def _rotate(x: Float[Tensor, "b h l d"]) -> Float[Tensor, "b h l d"]:
    """Rotary positions, base 10000: even and odd channels are paired, the two halves concatenated, not interleaved."""
    length, dim = x.shape[-2:]
    inv_freq = 10000.0 ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float32) / dim)
    angle = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * inv_freq
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
