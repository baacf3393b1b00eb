"""A short training run on a device: all that the tests here know of how one is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.rl.tasks import Short
from unmask.decoding.decode import decode
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.rl.config import TrainConfig
from unmask.rl.rewards import load_reward
from unmask.rl.rollout import judged
from unmask.rl.trainer import Trainer

SMALL = {
    "iterations": 2,
    "prompts": 2,
    "group_size": 3,
    "train_examples": 8,
    "clone_examples": 4,
    "clone_updates": 2,
    "clone_batch_size": 8,
    "validate_every": 1,
    "update_batch_size": 16,
    "min_signal": 0.0,
}


def train(
    model: MaskedDiffusionModel, folder: Path, stop_at: int | None = None, resume: bool = False, **changes: Any
) -> list[dict[str, Any]]:
    """Warm start, roll-outs, updates, validations, checkpoints; the metrics."""
    task, metrics = Short(), []
    examples = task.examples("validation", 3)

    def validate(policy: Policy) -> dict[str, Any]:
        out = decode(model, policy, [model.encode(e.prompt) for e in examples], gen_length=8, block_length=4)
        outcome = judged(model, task, examples, out, 8)
        reward = load_reward("multiplicative", 1.0)(outcome).mean().item()
        return {"reward": reward, "correct": outcome.correct.float().mean().item(), "nfe": out.nfe.float().mean().item()}

    config = TrainConfig(run=str(folder), **{**SMALL, **changes})
    trainer = Trainer(config, model, task, validate, metrics.append)
    trainer.run(resume=resume, stop=lambda: stop_at is not None and trainer.progress.iteration >= stop_at)
    return metrics
