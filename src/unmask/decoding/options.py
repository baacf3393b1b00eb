"""Every decoding option, once: `DecodeConfig` as a user gives it, `Options` with all defaults filled in and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, Field, model_validator

from unmask.decoding.blocks import AdaptiveBlocks, BlockLength, Blocks, make_blocks
from unmask.decoding.readout import ConfidenceOf, Sampling
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.stale_cache import STALE
from unmask.observation import Needs
from unmask.policies.base import Policy
from unmask.settings import Settings, build, divides
from unmask.tasks.base import Task

JUDGED = ("text_after_eos", "judge_unfinished", "max_block_steps")  # what decides with them which answers are right
CacheKind = Literal["none", "exact", "prefix", "dual", "adaptive"]
SHARED = (*JUDGED, "cache")  # settings of a whole comparison
LONG, SHORT = 256, 32  # region of a dLLM that has room for four long ones, and of one that has not


@dataclass(frozen=True)
class Options:
    """`DecodeConfig` with every default filled in, checked against a dLLM; see there."""

    gen_length: int
    blocks: Blocks
    batch_size: int
    sampling: Sampling
    max_steps: int
    max_block_steps: int | None
    post_steps: int | None  # of a policy that revises
    stop_at_eos: bool
    suppress_eos: bool
    text_after_eos: bool
    judge_unfinished: bool
    stop: tuple[str, ...]
    cfg_scale: float
    speed: float | None
    cache: str

    def text(self, model: MaskedDiffusionModel, tokens: Sequence[int]) -> str:
        """What a region says, up to its earliest stop string."""
        text = model.text(tokens, after_eos=self.text_after_eos, show_masks=not self.judge_unfinished)
        return text[: min((at for stop in self.stop if (at := text.find(stop)) >= 0), default=len(text))]


def check_text_behind_eos(text_after_eos: bool, stop_at_eos: bool) -> None:
    """
    Raises:
        ValueError: text behind an EOS is wanted, and would not be decoded.
    """
    if text_after_eos and stop_at_eos:
        raise ValueError("text_after_eos keeps text behind an EOS, where stop_at_eos stops: set stop_at_eos = false")


class DecodeConfig(Settings):
    """How to decode, in every face: `unmask.generate`, commands, training, evaluation, the environment."""

    gen_length: Annotated[
        int | None, Ge(1), Field(description="Region length L (default: the task's; else 256, or 32 for a small dLLM).")
    ] = None
    block_length: Annotated[
        BlockLength,
        Field(
            description="Semi-autoregressive block, or adaptive:default=32,threshold=0.3,delimiters=[.] "
            "(default: full diffusion; a block-causal dLLM's own blocks)."
        ),
    ] = None
    batch_size: Annotated[int, Ge(1), Field(description="Active rows at most.")] = 32
    temperature: Annotated[
        float, Ge(0), AfterValidator(divides), Field(description="Of the tokens; 0 takes the likeliest.")
    ] = 0.0
    top_p: Annotated[
        float,
        Gt(0),
        Le(1),
        Field(description="Draw tokens from the likeliest ones that together have this probability."),
    ] = 1.0
    top_k: Annotated[int | None, Ge(1), Field(description="Draw tokens from the k likeliest (default: all).")] = None
    confidence_of: Annotated[
        ConfidenceOf,
        Field(
            description="Whose probability a policy sees where tokens are drawn: the likeliest token's (paper), the "
            "drawn one's (LLaDA), or the drawn one's in the distribution it is drawn from, whose margins and "
            "entropies then count, too (sampling: Dream)."
        ),
    ] = "likeliest"
    cfg_scale: Annotated[
        float, Ge(0), Field(description="Classifier-free guidance (LLaDA): each pass then runs the dLLM on two rows.")
    ] = 0.0
    max_steps: Annotated[
        int | None,
        Ge(1),
        Field(
            description="Forward passes per prompt at most (default: gen_length, and post_steps per block where a "
            "policy revises)."
        ),
    ] = None
    max_block_steps: Annotated[
        int | None,
        Ge(1),
        Field(
            description="Forward passes per block at most; what is masked there then stays masked (released code: "
            "block_length)."
        ),
    ] = None
    stop_at_eos: Annotated[bool, Field(description="End a prompt once its text and the EOS behind it stand.")] = True
    stop: Annotated[
        tuple[Annotated[str, MinLen(1)], ...],
        Field(description="Texts at which a prompt ends, once one stands with all before it; they are cut off."),
    ] = ()
    suppress_eos: Annotated[bool, Field(description="Confidence 0 for EOS behind masked text.")] = False
    text_after_eos: Annotated[
        bool, Field(description="Text goes on behind an EOS, and is judged with it (released code).")
    ] = False
    judge_unfinished: Annotated[
        bool,
        Field(description="An answer with masks left is judged without them (released code); by default it is wrong."),
    ] = False
    cache: Annotated[
        CacheKind | None,
        Field(
            description="Of keys and values: exact (a block-causal dLLM's, its default); prefix, dual, adaptive (of "
            "other dLLMs: what is kept is stale); none."
        ),
    ] = None
    speed: Annotated[
        float | None,
        Ge(0),
        Le(1),
        Field(description="Of a policy with a speed: 0 slow and careful, 1 fast (default: 0)."),
    ] = None

    @model_validator(mode="after")
    def _text_behind_an_eos_is_decoded(self) -> DecodeConfig:
        check_text_behind_eos(self.text_after_eos, self.stop_at_eos)
        return self

    @model_validator(mode="after")
    def _one_pass_of_two_rows_has_no_cache(self) -> DecodeConfig:
        if self.cfg_scale > 0 and self.cache not in (None, "none"):
            raise ValueError("cfg_scale runs the dLLM twice a pass, and a cache holds the keys of one: leave one out")
        return self

    def most_steps(self, gen_length: int) -> int:
        """Forward passes that a prompt takes at most."""
        most = self.max_steps or gen_length
        if self.max_block_steps is None or isinstance(self.block_length, AdaptiveBlocks):
            return most
        return min(most, -(-gen_length // (self.block_length or gen_length)) * self.max_block_steps)

    def region(self, task: Task | None = None, model: MaskedDiffusionModel | None = None) -> int:
        """The region length L, in the order: this config's, the task's, what the dLLM has room for."""
        if task is not None:
            return task.region(self.gen_length)
        if self.gen_length is not None:
            return self.gen_length
        roomy = model is not None and (model.max_length is None or model.max_length >= 4 * LONG)
        return LONG if roomy else SHORT

    def of(self, task: Task, model: MaskedDiffusionModel) -> DecodeConfig:
        """With the region filled in, for whoever decodes a task's prompts."""
        return self.model_copy(update={"gen_length": self.region(task, model)})

    def resolve(self, model: MaskedDiffusionModel, task: Task | None = None, policy: Policy | None = None) -> Options:
        """Fill in every default.

        Args:
            policy: one that revises gets its passes.

        Raises:
            UnmaskError: a block length that does not divide the region; a delimiter that is not one token; options that
                go against each other.
        """
        gen_length = self.region(task, model)
        blocks = make_blocks(self.block_length, gen_length, model)
        post_steps = policy.post_steps if policy is not None and policy.needs.differs else None
        enough = gen_length + blocks.most(gen_length) * (post_steps or 0)
        return Options(
            gen_length=gen_length,
            blocks=blocks,
            batch_size=self.batch_size,
            sampling=Sampling(self.temperature, self.top_p, self.top_k, self.confidence_of),
            max_steps=enough if self.max_steps is None else self.max_steps,
            max_block_steps=self.max_block_steps,
            post_steps=post_steps,
            stop_at_eos=self.stop_at_eos,
            suppress_eos=self.suppress_eos,
            text_after_eos=self.text_after_eos,
            judge_unfinished=self.judge_unfinished,
            stop=self.stop,
            cfg_scale=self.cfg_scale,
            speed=self.speed,
            cache=cache_of(self.cache, model),
        )


def told_cache(cache: str | None) -> str:
    """What a calibration calls it: ``default`` where it changes nothing that is decoded."""
    return str(cache) if cache in STALE else "default"


def place_of(config: DecodeConfig, model: MaskedDiffusionModel) -> dict[str, Any]:
    """What a calibration must be of to hold for this, as `unmask.policies.calibration.choose` takes it."""
    length = config.region(model=model)
    return {
        "model": model.name,
        "gen_length": length,
        "block_length": config.model_dump(mode="json")["block_length"] or model.block_length or length,
        "suppress_eos": config.suppress_eos,
        "cache": told_cache(config.cache),
    }


def cache_of(cache: CacheKind | None, model: MaskedDiffusionModel) -> CacheKind:
    """The cache to decode with: by default an exact one, where there is one.

    Raises:
        UnmaskError: the dLLM has no such cache.
    """
    if cache is None:
        return "exact" if "exact" in model.caches else "none"
    check_cache(cache, model.caches, f"{model.name!r} ({model.family})")
    return cache


def check_cache(cache: CacheKind | None, kinds: Sequence[str], name: str) -> None:
    """
    Args:
        kinds: that the dLLM has.
        name: of the dLLM, in words.

    Raises:
        UnmaskError: it has no such cache.
    """
    if cache not in (None, "none", *kinds):
        raise UnmaskError(
            f"cache is {cache!r}, and {name} can be decoded with {', '.join(kinds) or 'none'}: leave it out, or take "
            "one of those."
        )


def decode_config(config: DecodeConfig | None, options: dict[str, Any]) -> DecodeConfig:
    """A config with options laid over it.

    Raises:
        UnmaskError: an option that there is not, with the nearest one; a bad value.
    """
    if not isinstance(config, DecodeConfig | None):
        raise UnmaskError(
            f"The config is a {type(config).__name__}: pass an unmask.DecodeConfig, or options by name, such as "
            "gen_length=256."
        )
    if config is not None and not options:
        return config
    given = {} if config is None else {name: getattr(config, name) for name in config.model_fields_set}
    cls = DecodeConfig if config is None else type(config)
    return build(cls, given | options, where="the decoding options", known=set(cls.model_fields))


def speeds_of(needs: Needs, asked: float | None, each: Sequence[float] | None, n: int) -> list[float] | None:
    """The speed of each of n prompts; None for a policy without one.

    Args:
        needs: of the policy.
        asked: of all prompts; 0 where nobody asks.
        each: of each prompt, instead.

    Raises:
        UnmaskError: a speed for a policy that has none, another number of speeds than prompts, one outside [0, 1].
    """
    if not needs.speed:
        if asked is not None or each is not None:
            raise UnmaskError(
                "This policy has no speed to choose: leave speed out, or use a policy that was trained with one "
                "(unmask tune)."
            )
        return None
    given = [asked or 0.0] * n if each is None else each
    if not all(isinstance(speed, Real) for speed in given):
        raise UnmaskError(f"speed is {given!r}: give one number, or one per prompt.")
    speeds = [float(speed) for speed in given]
    if len(speeds) != n:
        raise UnmaskError(f"There are {len(speeds)} speeds for {n} prompts: give one number, or one per prompt.")
    for i, speed in enumerate(speeds):
        if not 0 <= speed <= 1:
            raise UnmaskError(f"The speed of prompt {i} is {speed}: give a number from 0 (slow, careful) to 1 (fast).")
    return speeds


def check_budget(policy: Policy, options: Options) -> None:
    """
    Raises:
        UnmaskError: a policy that takes a number of steps in each block, and a budget below that.
    """
    steps, blocks = policy.block_steps, options.blocks.most(options.gen_length)
    if steps is None:
        return
    if steps * blocks > options.max_steps:
        raise UnmaskError(
            f"{policy.type_name} takes {steps} steps in each of {blocks} blocks, and max_steps is {options.max_steps}: "
            f"set max_steps = {steps * blocks}, or fewer steps."
        )
    if options.max_block_steps is not None and steps > options.max_block_steps:
        raise UnmaskError(
            f"{policy.type_name} takes {steps} steps in each block, and max_block_steps is {options.max_block_steps}: "
            "leave it out, or set fewer steps."
        )


def check_policy_fits(model: MaskedDiffusionModel, policy: Policy) -> None:
    """Refuse what is no dLLM or no policy, and a policy that asks for what the dLLM cannot show.

    Raises:
        UnmaskError: naming what it needs.
    """
    if not isinstance(model, MaskedDiffusionModel) or not isinstance(policy, Policy):
        raise UnmaskError("Pass a dLLM and a policy, as unmask.load_model(...) and unmask.load_policy(...) give them.")
    if policy.needs.hidden_states and model.hidden_size is None:
        raise UnmaskError(
            f"The policy {policy.type_name!r} needs hidden states, and the dLLM {model.name!r} gives none: "
            "use a policy that reads confidences."
        )
    if policy.needs.differs and not model.revises:
        raise UnmaskError(
            f"The policy {policy.type_name!r} revises revealed tokens, and the dLLM {model.name!r} was not loaded as "
            "one that was trained for it: leave revising out, or load LLaDA2.1 with revises=True (--revises)."
        )
