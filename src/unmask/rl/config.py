"""Settings of a training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, Field, field_validator, model_validator

from unmask.models.config import ModelConfig
from unmask.policies.transformer import TransformerConfig
from unmask.rl.grpo import Normalisation, Scaling
from unmask.settings import Settings
from unmask.tasks.config import TaskConfig


class Expert(Settings):
    """A deterministic policy that joins each group (expert steering).

    Attributes:
        policy: as `unmask.load_policy` reads it.
        block_length: the expert's own; the task's by default.
    """

    policy: str = "confidence_threshold:threshold=0.9"
    block_length: Annotated[int, Ge(1)] | None = None


def _expert(value: Any) -> Any:
    """``policy @ block_length`` is short for both."""
    if not isinstance(value, str):
        return value
    policy, at, length = value.rpartition("@")
    return {"policy": policy.strip(), "block_length": length} if at else {"policy": value}


class CloneConfig(ModelConfig, TaskConfig):
    """Behaviour cloning: what `unmask clone` does, and how `unmask train` starts."""

    run: Annotated[str, Field(description="Run folder: config, metrics, checkpoints.")] = "runs/policy"
    gen_length: Annotated[int | None, Ge(1), Field(description="Region length L (default: the task's).")] = None
    block_length: Annotated[int | None, Ge(1), Field(description="Block length (default: L, full diffusion).")] = None
    max_prompt_length: Annotated[
        int | None, Ge(1), Field(description="Tokens of a prompt at most (default: what the dLLM has room for).")
    ] = None
    long_prompts: Annotated[
        Literal["refuse", "skip", "truncate"],
        Field(description="What to do with longer ones; truncate keeps their end."),
    ] = "refuse"
    policy: Annotated[TransformerConfig, Field(description="Shape of the policy.")] = TransformerConfig()
    init: Annotated[
        str | None,
        Field(description="Start from this policy; nothing is cloned then unless clone_from is set, too."),
    ] = None
    clone_from: Annotated[
        str | None,
        Field(
            description="Rule to clone first; best:confidence_threshold picks the best cell of its grid; 'none' starts "
            "from scratch, as the paper does."
        ),
    ] = "confidence_threshold:threshold=0.9"
    clone_block_length: Annotated[int | None, Ge(1), Field(description="Its block length (default: the task's).")] = (
        None
    )
    clone_keep: Annotated[Literal["correct", "all"], Field(description="Trajectories to clone.")] = "correct"
    clone_examples: Annotated[int, Ge(1), Field(description="Prompts to clone from.")] = 256
    clone_updates: Annotated[int, Ge(1), Field(description="Optimiser steps of the cloning.")] = 150
    clone_batch_size: Annotated[int, Ge(1), Field(description="Recorded steps a cloning batch.")] = 128
    clone_lr: Annotated[float, Gt(0), Field(description="Learning rate of the cloning.")] = 1e-3
    alpha: Annotated[float, Ge(0), Field(description="Weight of speed in the reward.")] = 1.0
    reward: Annotated[
        str, Field(description="multiplicative, additive, correctness, or your own as module.function.")
    ] = "multiplicative"
    batch_size: Annotated[int, Ge(1), Field(description="Live rows of a roll-out at most, in each process.")] = 256
    validation_prompts: Annotated[int, Ge(1), Field(description="Prompts for choosing the checkpoint.")] = 256
    seed: Annotated[int, Field(description="Seed of weights, prompts and actions.")] = 0
    trackers: Annotated[
        tuple[Literal["tensorboard", "wandb", "trackio"], ...], Field(description="Also log there.")
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_it_starts_from(cls, values: Any) -> Any:
        """A policy that was trained is cloned over only if the user says so."""
        if isinstance(values, dict) and values.get("init") is not None:
            return {"clone_from": "none", **values}
        return values

    @property
    def clones(self) -> bool:
        """True if training starts by cloning a rule."""
        return self.clone_from not in (None, "", "none")


class TrainConfig(CloneConfig):
    """A training run: warm start, then GRPO."""

    iterations: Annotated[int, Ge(0), Field(description="GRPO iterations.")] = 90
    prompts: Annotated[int, Ge(1), Field(description="Prompts an iteration, of all processes (paper: 16).")] = 8
    group_size: Annotated[int, Field(description="Roll-outs a prompt (G).")] = 8
    train_examples: Annotated[int, Ge(1), Field(description="Training prompts to draw from.")] = 2000
    experts: Annotated[
        tuple[Annotated[Expert, BeforeValidator(_expert)], ...],
        Field(description="Expert steering: policies that join each group, such as confidence_threshold @ 8."),
    ] = ()
    force_progress: Annotated[
        bool, Field(description="Roll-outs always reveal something (paper: only in evaluation).")
    ] = False
    normalisation: Annotated[Normalisation, Field(description="Mean over a roll-out's steps first, or over all.")] = (
        "rollout"
    )
    scale_advantages: Annotated[
        Scaling, Field(description="Divide by the deviation of each group, or of the batch (paper: none).")
    ] = "batch"
    kl_weight: Annotated[
        float, Ge(0), Field(description="Weight of KL to the policy that GRPO starts from, a clone for one (paper: 0).")
    ] = 0.0
    entropy_weight: Annotated[
        float, Ge(0), Field(description="Weight of the entropy of the actions, which keeps groups apart (paper: 0).")
    ] = 0.0
    lr: Annotated[float, Gt(0), Field(description="Peak learning rate, cosine to 0 (paper: 3e-5).")] = 5e-5
    warmup: Annotated[int, Ge(0), Field(description="Warm-up iterations (paper: 50).")] = 5
    weight_decay: Annotated[float, Ge(0), Field(description="AdamW weight decay.")] = 0.1
    clip: Annotated[float, Gt(0), Field(description="Clip of the likelihood ratio (eps).")] = 0.5
    inner_iterations: Annotated[int, Ge(1), Field(description="Optimiser steps a batch of roll-outs.")] = 2
    max_grad_norm: Annotated[float, Gt(0), Field(description="Gradient clipping.")] = 0.2
    min_signal: Annotated[
        float, Ge(0), Le(1), Field(description="Share of groups with signal below which no step is taken (paper: 0).")
    ] = 0.25
    patience: Annotated[
        int,
        Ge(0),
        Field(description="Iterations of collapse (one step, whole budget, no signal) until it stops; 0: never."),
    ] = 30
    validate_every: Annotated[int, Ge(1), Field(description="Iterations between validations.")] = 15
    checkpoint_minutes: Annotated[
        float, Ge(0), Field(description="Minutes between checkpoints; each validation saves one, too.")
    ] = 1.0
    update_batch_size: Annotated[int, Ge(1), Field(description="Decoding steps scored at a time.")] = 1024

    @field_validator("group_size")
    @classmethod
    def _is_a_group(cls, value: int) -> int:
        if value < 2:
            raise ValueError("a group needs at least 2 roll-outs of a prompt to compare (paper: 8)")
        return value
