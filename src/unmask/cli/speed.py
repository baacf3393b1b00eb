"""How fast to decode, as a user says it: a speed, a number of forward passes, or how much accuracy may be lost."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt, Lt
from pydantic import BeforeValidator, Field

from unmask.cli.console import errors
from unmask.decoding.options import DecodeConfig, place_of
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import LearnedPolicy, Policy
from unmask.policies.calibration import CONFIDENCE, choose
from unmask.settings import OneWord, Settings


def _share(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise UnmaskError(f"--max-drop is {value!r}: give points of accuracy, such as 1%, or a share.") from None
    if not 0 < number < 1:
        raise UnmaskError(f"--max-drop is {value}: give points of accuracy above 0 and below 100, such as 1%.")
    return number


class SpeedFlags(Settings):
    """Other ways to choose the speed of a policy that has one."""

    target_nfe: Annotated[
        float | None, Gt(0), Field(description="Speed for this many forward passes per prompt, by the calibration.")
    ] = None
    max_drop: Annotated[
        float | None,
        BeforeValidator(_share),
        OneWord(),
        Field(description="Fastest speed promised to lose at most so much accuracy against speed 0, such as 1%."),
    ] = None
    confidence: Annotated[float, Gt(0), Lt(1), Field(description="Of that promise.")] = CONFIDENCE
    calibrated_on: Annotated[
        str | None, Field(description="Task whose calibration to use, if the policy has several (default: the first).")
    ] = None


def at_speed(
    config: DecodeConfig,
    flags: SpeedFlags | None,
    policy: Policy,
    model: MaskedDiffusionModel,
) -> DecodeConfig:
    """The configuration with the speed that was asked for, and a line on what to expect of it.

    Raises:
        UnmaskError: two ways at once; no calibration; nothing that fast, or so safe.
    """
    wanted = flags or SpeedFlags()
    place = place_of(config, model)
    if wanted.max_drop is None and "confidence" in wanted.model_fields_set:
        raise UnmaskError("--confidence is that of a promise: give --max-drop, too.")
    if (wanted.target_nfe, wanted.max_drop) == (None, None):
        config.resolve(model)  # what is refused is refused first
        _say_where_it_was_measured(policy, _how(place["block_length"], place["gen_length"], place["cache"]))
        return config
    if sum(value is not None for value in (config.speed, wanted.target_nfe, wanted.max_drop)) > 1:
        raise UnmaskError("Give one of --speed, --target-nfe and --max-drop.")
    if not policy.needs.speed or not isinstance(policy, LearnedPolicy):
        raise UnmaskError("This policy has no speed to choose: leave out --target-nfe and --max-drop, or tune one.")
    tasks = sorted({table.task for table in policy.calibrations})
    if tasks and wanted.calibrated_on is not None and wanted.calibrated_on not in tasks:
        raise UnmaskError(
            f"The policy is not calibrated on {wanted.calibrated_on}, but on {', '.join(tasks)}: name one of these, or "
            "make a table (unmask calibrate)."
        )
    table, differs = choose(policy.calibrations, **place, task=wanted.calibrated_on)
    if config.temperature:
        differs.append(f"the likeliest tokens, not temperature {config.temperature:g}")
    if config.max_steps is not None:
        differs.append(f"no budget, not one of {config.max_steps} steps")
    if config.max_block_steps is not None:
        differs.append(f"no budget, not one of {config.max_block_steps} steps in each block")
    if config.cfg_scale:
        differs.append(f"plain passes, not guided ones (cfg_scale {config.cfg_scale:g})")
    if config.confidence_of != "likeliest":
        differs.append(f"confidences of the likeliest tokens, not {config.confidence_of}")
    speed = (
        table.for_nfe(wanted.target_nfe)
        if wanted.target_nfe is not None
        else table.for_drop(wanted.max_drop or 0.0, wanted.confidence)
    )
    to_the_end = " to the last position" if config.stop_at_eos and not table.stop_at_eos else ""
    errors.print(
        f"Speed {speed:.2f}: about {table.nfe_at(speed):.1f} forward passes per prompt{to_the_end} "
        f"(calibrated on {table.prompts} prompts of {table.task}).",
        highlight=False,
        soft_wrap=True,
    )
    if differs:
        what = "The promise does not carry over" if wanted.max_drop is not None else "It may take others here"
        errors.print(
            f"{what}: the calibration is of {'; of '.join(differs)}. unmask calibrate makes one for this.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    return config.model_copy(update={"speed": speed})


def _say_where_it_was_measured(policy: Policy, here: str) -> None:
    """Say so if a learned policy decodes in blocks, or under a cache, that none of its tables is of."""
    tables = policy.calibrations if isinstance(policy, LearnedPolicy) else ()
    known = dict.fromkeys(_how(table.block_length, table.gen_length, table.cache) for table in tables)
    if not known or here in known:
        return
    errors.print(
        f"This policy was trained and measured in {' or '.join(known)}, and decodes in {here} here: what it reaches "
        "there is not known. unmask calibrate measures it.",
        style="yellow",
        highlight=False,
        soft_wrap=True,
    )


def _how(blocks: int | str, length: int, cache: str) -> str:
    where = "full diffusion" if blocks == length else f"blocks of {blocks}"
    return where + ("" if cache == "default" else f" under the {cache} cache")
