"""A short training run on a device: all that the tests here know of how one is made."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.rl.tasks import Short
from unmask.errors import Stopped
from unmask.models.base import MaskedDiffusionModel
from unmask.rl.config import TrainConfig
from unmask.rl.prompts import fitting
from unmask.rl.trainer import Trainer
from unmask.rl.validation import validator

SMALL: dict[str, dict[str, Any]] = {
    "task": {"train_examples": 8},
    "decode": {"block_length": 4, "batch_size": 8},
    "clone": {"examples": 4, "updates": 2, "batch_size": 8},
    "algorithm": {"prompts": 2, "group_size": 3, "update_batch_size": 16, "min_signal": 0.0},
    "run": {"iterations": 2, "validate_every": 2},
}


def train(
    model: MaskedDiffusionModel,
    folder: Path,
    stop_at: int | None = None,
    resume: bool = False,
    **changes: dict[str, Any],
) -> list[dict[str, Any]]:
    """Warm start, roll-outs, updates, validations, checkpoints; the metrics but for the seconds.

    Args:
        changes: of tables.
    """
    tables = {name: {**table, **changes.get(name, {})} for name, table in {"policy": {}, **SMALL}.items()}
    tables["run"]["folder"] = str(folder)
    config, task, told = TrainConfig.model_validate(tables), Short(), []
    prompts, _ = fitting(model, task.examples("validation", 3), task.gen_length)
    validate = validator(model, task, prompts, config.decode, config.algorithm.settings)
    trainer = Trainer(config, model, task, validate, told.append)
    with suppress(Stopped):
        trainer.run(resume=resume, stop=lambda: stop_at is not None and trainer.keeper.progress.iteration >= stop_at)
    return [{key: value for key, value in metrics.items() if not key.startswith("seconds")} for metrics in told]
