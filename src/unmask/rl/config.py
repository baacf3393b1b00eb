"""Settings of a training run, a table each: model, task, decode, policy, clone, algorithm, run.

[model]
name = "GSAI-ML/LLaDA-8B-Instruct"
[decode]
block_length = 32
[algorithm]
name = "grpo"
alpha = 3.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from unmask.decoding.blocks import BlockLength
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.models.config import ModelConfig
from unmask.policies.base import LearnedPolicy, PolicySettings
from unmask.policies.registry import class_of
from unmask.rl.algorithms.auto import load_algorithm
from unmask.rl.algorithms.base import Algorithm, AlgorithmSettings, check_weight
from unmask.settings import Output, Settings, build
from unmask.tasks.config import TaskConfig

DEFAULT_NETWORK, DEFAULT_ALGORITHM = "transformer", "grpo"


def named(key: str) -> Any:
    """A validator of a table whose main entry is called ``name`` in files; alone, it may stand for the table."""

    def rename(value: Any) -> Any:
        if isinstance(value, str):
            return {key: value}
        if isinstance(value, Mapping) and "name" in value:
            return {key if name == "name" else name: entry for name, entry in value.items()}
        return value

    return BeforeValidator(rename)


class TrainDecodeConfig(DecodeConfig):
    """How roll-outs and validations decode: by default to the last position, as the paper counts."""

    batch_size: Annotated[int, Ge(1), Field(description="Active rows of a roll-out at most, in each process.")] = 256
    stop_at_eos: Annotated[bool, Field(description="End a roll-out at its EOS (off: NFE as in the paper).")] = False


class TrainTaskConfig(TaskConfig):
    """The task, and which of its prompts."""

    train_examples: Annotated[int, Ge(1), Field(description="Training prompts to draw from.")] = 2000
    validation_prompts: Annotated[int, Ge(1), Field(description="Prompts for choosing the checkpoint.")] = 256
    labels: Annotated[
        Literal["verifier", "agreement"],
        Field(
            description="What is right: the verifier's verdict on gold answers, or the answer that the dLLM gives when "
            "it reveals one position a pass."
        ),
    ] = "verifier"
    also: Annotated[
        tuple[str, ...],
        Field(
            description="Further dLLMs with their tasks, as TASK @ DLLM, that iterations take turns with: one policy "
            "for all."
        ),
    ] = ()
    max_prompt_length: Annotated[
        int | None, Ge(1), Field(description="Tokens of a prompt at most (default: what the dLLM has room for).")
    ] = None
    long_prompts: Annotated[
        Literal["refuse", "skip", "truncate"],
        Field(description="What to do with longer ones; truncate keeps their end."),
    ] = "refuse"


class PolicyConfig(Settings):
    """The network to train; what else stands in the table are its own settings.

    Attributes:
        network: settings of the type's class, `LearnedPolicy.Config`.
    """

    closed: ClassVar[bool] = False
    type: Annotated[str, Field(description="Network: a learned policy's type name.")] = DEFAULT_NETWORK
    init: Annotated[
        str | None,
        Field(description="Start from this policy; nothing is cloned then unless clone.rule is set, too."),
    ] = None
    network: PolicySettings

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or isinstance(values.get("network"), PolicySettings):
            return values
        own = dict(values)
        kept = {name: own.pop(name) for name in ("type", "init") if name in own}
        found = class_of(str(kept.get("type", DEFAULT_NETWORK)), "[policy]")
        if not issubclass(found, LearnedPolicy):
            raise UnmaskError(f"type = {kept['type']!r} in [policy] is a rule, which has no weights to train.")
        return {**kept, "network": build(found.Config, own, where="[policy]", known=set(found.Config.model_fields))}

    @classmethod
    def known_keys(cls) -> set[str]:
        return {"type", "init", *class_of(DEFAULT_NETWORK).defaults()}

    def flat(self) -> dict[str, Any]:
        """As the table of a file."""
        return {"type": self.type, "init": self.init, **self.network.model_dump(mode="json")}

    def fresh(self, hidden_size: int | None) -> LearnedPolicy:
        """The network with new weights, for a dLLM with hidden states of this width."""
        found = class_of(self.type)
        assert issubclass(found, LearnedPolicy)
        return found(self.network.for_model(hidden_size))

    @property
    def chosen(self) -> bool:
        """The user has said something of the network, its start aside."""
        return bool(self.network.model_fields_set) or "type" in self.model_fields_set


class CloneConfig(Settings):
    """Behaviour cloning: how training starts."""

    rule: Annotated[
        str | None,
        Field(
            description="Rule to clone first; best:confidence_threshold picks the best of its grid, best:* of all "
            "rules' (at each speed); 'none' starts from scratch, as the paper does."
        ),
    ] = "confidence_threshold:threshold=0.9"
    sweep: Annotated[
        str | None,
        Field(description="Folder of an unmask sweep of training prompts, whose rules are taken instead of a search."),
    ] = None
    teachers: Annotated[
        tuple[str, ...],
        Field(
            description="Trained policies to clone in place of a rule: one for each task of a mixture, in its order, "
            "or one for all."
        ),
    ] = ()
    block_length: Annotated[BlockLength, Field(description="Its block length (default: the task's).")] = None
    keep: Annotated[Literal["correct", "all"], Field(description="Trajectories to clone.")] = "correct"
    examples: Annotated[int, Ge(1), Field(description="Prompts to clone from.")] = 256
    search_prompts: Annotated[int, Ge(1), Field(description="Of these, prompts for finding the best rule.")] = 128
    best_of: Annotated[
        int,
        Ge(1),
        Field(description="Above 1: let the clone roll out each prompt so often, and clone the best of each, too."),
    ] = 1
    updates: Annotated[int, Ge(1), Field(description="Optimiser steps of the cloning.")] = 150
    batch_size: Annotated[int, Ge(1), Field(description="Recorded steps per cloning batch.")] = 128
    lr: Annotated[float, Gt(0), Field(description="Learning rate of the cloning.")] = 1e-3


class RunConfig(Settings):
    """The run itself."""

    folder: Annotated[Output, Field(description="Run folder: config, metrics, checkpoints.")] = "runs/policy"
    seed: Annotated[int, Field(description="Seed of weights, prompts and actions.")] = 0
    iterations: Annotated[int, Ge(0), Field(description="Iterations of the algorithm.")] = 90
    validate_every: Annotated[int, Ge(1), Field(description="Iterations between validations.")] = 15
    log_completions: Annotated[
        int, Ge(0), Field(description="Roll-outs written to completions.jsonl with each validation.")
    ] = 4
    checkpoint_minutes: Annotated[
        float, Ge(0), Field(description="Minutes between checkpoints; each validation saves one, too.")
    ] = 1.0
    temperatures: Annotated[
        tuple[Annotated[float, Gt(0)], ...],
        BeforeValidator(lambda value: () if value in ("none", ("none",), ["none"]) else value),
        Field(
            description="Divide the logits of the policy that is kept by the one of these that is best on validation "
            "prompts, if it is better than 1; below 1 it draws more surely. 'none': leave them."
        ),
    ] = ()
    patience: Annotated[
        int,
        Ge(0),
        Field(description="Iterations of collapse (one step, whole budget, no signal) until it stops; 0: never."),
    ] = 30
    trackers: Annotated[
        tuple[Literal["tensorboard", "wandb", "trackio"], ...], Field(description="Also log there.")
    ] = ()


class AlgorithmConfig(Settings):
    """The algorithm by its name, and its own settings."""

    closed: ClassVar[bool] = False
    name: Annotated[str, Field(description="Algorithm: grpo, rloo, ppo, or your own as module.Class.")] = (
        DEFAULT_ALGORITHM
    )
    settings: AlgorithmSettings

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or isinstance(values.get("settings"), AlgorithmSettings):
            return values
        own = dict(values)
        name = str(own.pop("name", DEFAULT_ALGORITHM))
        kind = load_algorithm(name).Settings
        return {"name": name, "settings": build(kind, own, where="[algorithm]", known=set(kind.model_fields))}

    @classmethod
    def known_keys(cls) -> set[str]:
        return {"name", *load_algorithm(DEFAULT_ALGORITHM).Settings.model_fields}

    def flat(self) -> dict[str, Any]:
        """As the table of a file."""
        return {"name": self.name, **self.settings.model_dump(mode="json")}

    def make(self) -> Algorithm:
        """The algorithm."""
        return load_algorithm(self.name)(self.settings)


def _flat(table: PolicyConfig | AlgorithmConfig) -> dict[str, Any]:
    return table.flat()


class TrainConfig(Settings):
    """A training run: warm start, then reinforcement learning."""

    model: Annotated[ModelConfig, named("model")] = ModelConfig()
    task: Annotated[TrainTaskConfig, named("task")] = TrainTaskConfig()
    decode: TrainDecodeConfig = TrainDecodeConfig()
    policy: Annotated[PolicyConfig, PlainSerializer(_flat)] = PolicyConfig.model_validate({})
    clone: CloneConfig = CloneConfig()
    algorithm: Annotated[AlgorithmConfig, named("name"), PlainSerializer(_flat)] = AlgorithmConfig.model_validate({})
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_it_starts_from(cls, values: Any) -> Any:
        """A policy that was trained is cloned over only if the user says so."""
        if isinstance(values, Mapping) and isinstance(values.get("policy"), Mapping) and values["policy"].get("init"):
            clone = values.get("clone") or {}
            return {**values, "clone": {"rule": "none", **clone}} if isinstance(clone, Mapping) else values
        return values

    @model_validator(mode="before")
    @classmethod
    def _speed_has_a_reward(cls, values: Any) -> Any:
        """A policy with a speed learns by the reward that has an optimum at each, unless the user says another."""
        if not isinstance(values, Mapping) or not isinstance(values.get("policy"), Mapping):
            return values
        algorithm = values.get("algorithm") or {}
        if (
            not values["policy"].get("use_speed")
            or not isinstance(algorithm, Mapping)
            or {"reward", "alpha"} & {*algorithm}
        ):
            return values
        return {**values, "algorithm": {**algorithm, "reward": "scale_free"}}

    @model_validator(mode="after")
    def _a_sweep_has_gold_verdicts(self) -> TrainConfig:
        if self.clone.sweep is not None and self.task.labels == "agreement":
            raise ValueError("clone.sweep was judged by gold answers, and task.labels is agreement: leave one out")
        return self

    @model_validator(mode="after")
    def _weight_fits_the_policy(self) -> TrainConfig:
        if self.policy.init is None:  # else the policy there decides, when it is loaded
            check_weight(self.algorithm.settings, self.policy.network.has_speed)
        return self

    @model_validator(mode="after")
    def _teachers_are_cloned_as_they_are(self) -> TrainConfig:
        if self.clone.teachers and self.clone.best_of > 1:
            raise ValueError("clone.best_of goes with a rule, and clone.teachers are policies: leave one out")
        return self

    def in_blocks(self, own: int | None) -> TrainConfig:
        """With the blocks of a block-causal dLLM, where the user names none; None of another one."""
        if own is None or self.decode.block_length is not None:
            return self
        return self.model_copy(update={"decode": self.decode.model_copy(update={"block_length": own})})

    def before_all_settings(self) -> TrainConfig:
        """The defaults, of this network and algorithm: what a version without a setting did."""
        policy, algorithm = {"type": self.policy.type}, {"name": self.algorithm.name}
        return TrainConfig.model_validate({"policy": policy, "algorithm": algorithm})

    def at_turn(self, i: int, turns: int) -> TrainConfig:
        """With the iterations of one of several places that take turns."""
        iterations = len(range(i, self.run.iterations, turns))
        return self.model_copy(update={"run": self.run.model_copy(update={"iterations": iterations})})

    @property
    def clones(self) -> bool:
        """True if training starts by cloning a rule, or policies."""
        return bool(self.clone.teachers) or self.clone.rule not in (None, "", "none")
