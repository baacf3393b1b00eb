"""A short training run on a device: all that the tests here know of how one is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.rl.tasks import Short
from unmask.cli.common import validator
from unmask.models.base import MaskedDiffusionModel
from unmask.rl.config import TrainConfig
from unmask.rl.rewards import load_reward
from unmask.rl.trainer import Trainer

SMALL = {
    "iterations": 2,
    "prompts": 2,
    "group_size": 3,
    "train_examples": 8,
    "clone_examples": 4,
    "clone_updates": 2,
    "clone_batch_size": 8,
    "validate_every": 2,
    "update_batch_size": 16,
    "min_signal": 0.0,
}


def train(
    model: MaskedDiffusionModel, folder: Path, stop_at: int | None = None, resume: bool = False, **changes: Any
) -> list[dict[str, Any]]:
    """Warm start, roll-outs, updates, validations, checkpoints; the metrics but for the seconds."""
    task, told = Short(), []
    validate = validator(
        model,
        task,
        task.examples("validation", 3),
        gen_length=8,
        block_length=4,
        reward=load_reward("multiplicative", 1.0),
        batch_size=2,
    )
    trainer = Trainer(TrainConfig(run=str(folder), **{**SMALL, **changes}), model, task, validate, told.append)
    trainer.run(resume=resume, stop=lambda: stop_at is not None and trainer.progress.iteration >= stop_at)
    return [{key: value for key, value in metrics.items() if not key.startswith("seconds")} for metrics in told]
