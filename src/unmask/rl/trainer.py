"""The trainer: warm start, then GRPO, in a run folder that can be resumed.

Where it deviates from the paper (arXiv 2512.09106): a warm start by cloning a rule; an update is taken only if enough
groups carry signal (Adam turns a vanishing gradient into full-size steps); a larger learning rate and a schedule of 90
short iterations, for small dLLMs; no expert steering yet; the checkpoint that is best on validation prompts is kept.
Run it with `unmask train --config configs/train/house-full.toml`.

Every draw depends on (seed, iteration) alone, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from pydantic import Field
from torch import Tensor

from unmask.decoding.blocks import check_block_length
from unmask.decoding.results import Decoded
from unmask.decoding.source import check_prompts
from unmask.errors import UnmaskError
from unmask.hub import load_strictly, read_config, read_weights, write_text, written_whole
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.actions import bernoulli_log_prob
from unmask.policies.auto import load_policy
from unmask.policies.transformer import TransformerConfig, TransformerPolicy
from unmask.rl import rewards
from unmask.rl.clone import clone, expert_trajectories
from unmask.rl.grpo import clip_share, clipped_loss, group_advantages, has_signal, step_weights
from unmask.rl.rollout import Trajectories, roll_out
from unmask.settings import Settings
from unmask.tasks.base import Task

Metrics = dict[str, Any]
Validate = Callable[[TransformerPolicy], Metrics]


class TrainConfig(Settings):
    """A training run."""

    run: Annotated[str, Field(description="Run folder: config, metrics, checkpoints.")] = "runs/policy"
    model: Annotated[str | None, Field(description="dLLM: bundled name, folder or Hub id.")] = None
    task: Annotated[str | None, Field(description="Task that gives prompts and verifies answers.")] = None
    gen_length: Annotated[int | None, Ge(1), Field(description="Region length L (default: the task's).")] = None
    block_length: Annotated[int | None, Ge(1), Field(description="Block length (default: L, full diffusion).")] = None
    time_period: Annotated[float, Gt(0), Field(description="P of the policy's time features.")] = 0.01
    alpha: Annotated[float, Ge(0), Field(description="Weight of speed in the reward.")] = 1.0
    iterations: Annotated[int, Ge(0), Field(description="GRPO iterations.")] = 90
    prompts: Annotated[int, Ge(1), Field(description="Prompts an iteration (paper: 16).")] = 8
    group_size: Annotated[int, Ge(2), Field(description="Roll-outs a prompt (G).")] = 8
    train_examples: Annotated[int, Ge(1), Field(description="Training prompts to draw from.")] = 2000
    lr: Annotated[float, Gt(0), Field(description="Peak learning rate, cosine to 0 (paper: 3e-5).")] = 2e-4
    warmup: Annotated[int, Ge(0), Field(description="Warm-up iterations (paper: 50).")] = 5
    weight_decay: Annotated[float, Ge(0), Field(description="AdamW weight decay.")] = 0.1
    clip: Annotated[float, Gt(0), Field(description="Clip of the likelihood ratio (eps).")] = 0.5
    inner_iterations: Annotated[int, Ge(1), Field(description="Optimiser steps a batch of roll-outs.")] = 2
    max_grad_norm: Annotated[float, Gt(0), Field(description="Gradient clipping.")] = 0.2
    min_signal: Annotated[
        float, Ge(0), Le(1), Field(description="Share of groups with signal below which no step is taken (paper: 0).")
    ] = 0.25
    clone_from: Annotated[
        str | None, Field(description="Rule to clone first; 'none' starts from scratch, as the paper does.")
    ] = "confidence_threshold:threshold=0.9"
    clone_block_length: Annotated[int | None, Ge(1), Field(description="Its block length (default: the task's).")] = (
        None
    )
    clone_examples: Annotated[int, Ge(1), Field(description="Prompts to clone from.")] = 256
    clone_updates: Annotated[int, Ge(1), Field(description="Optimiser steps of the cloning.")] = 150
    clone_batch_size: Annotated[int, Ge(1), Field(description="Recorded steps a cloning batch.")] = 128
    clone_lr: Annotated[float, Gt(0), Field(description="Learning rate of the cloning.")] = 1e-3
    validate_every: Annotated[int, Ge(1), Field(description="Iterations between validations and checkpoints.")] = 15
    batch_size: Annotated[int, Ge(1), Field(description="Live rows of a roll-out at most.")] = 256
    update_batch_size: Annotated[int, Ge(1), Field(description="Decoding steps scored at a time.")] = 1024
    validation_prompts: Annotated[int, Ge(1), Field(description="Prompts for choosing the checkpoint.")] = 256
    seed: Annotated[int, Field(description="Seed of weights, prompts and actions.")] = 0

    @property
    def clones(self) -> bool:
        """True if training starts by cloning a rule."""
        return self.clone_from not in (None, "", "none")


@dataclass
class Clock:
    """Seconds by stage."""

    model: float = 0.0
    policy: float = 0.0
    update: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def count(self, decoded: Decoded) -> None:
        self.model += decoded.model_seconds
        self.policy += decoded.policy_seconds

    def seconds(self) -> Metrics:
        total = time.perf_counter() - self.started
        stages = {"model": self.model, "policy": self.policy, "update": self.update}
        return {"seconds": total, **{f"seconds_{k}": v for k, v in stages.items()}}


class Trainer:
    """Trains one policy.

    Args:
        validate: scores a policy on prompts kept for choosing checkpoints; its ``reward`` decides.
        log: called with the metrics of each stage: ``clone``, ``grpo`` (one an iteration) and ``validation``.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: MaskedDiffusionModel,
        task: Task,
        validate: Validate,
        log: Callable[[Metrics], None],
    ) -> None:
        self.config = config
        self.model = model
        self.task = task
        self.validate = validate
        self.log = log
        self.gen_length = config.gen_length or task.gen_length
        self.block_length = check_block_length(self.gen_length, config.block_length)
        self.clone_block_length = self._clone_block_length() if config.clones else self.block_length
        self.folder = Path(config.run)
        torch.manual_seed(config.seed)
        self.policy = TransformerPolicy(TransformerConfig(time_period=config.time_period)).to(model.device)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), config.lr, (0.9, 0.99), weight_decay=config.weight_decay
        )
        self.examples = task.examples("train", config.train_examples, seed=0)
        self.iteration = 0
        self.best = -math.inf

    def run(self, resume: bool = False, stop: Callable[[], bool] = lambda: False) -> TransformerPolicy | None:
        """Train to the end and return the policy that was best on validation; None if stopped (checkpoint saved).

        Raises:
            UnmaskError: the run folder exists and resume is False, or there is nothing to resume.
        """
        if resume:
            self._restore()
        else:
            self._start()
        while self.iteration < self.config.iterations:
            self._write(self._iterate())
            stopping = stop() and self.iteration < self.config.iterations
            last = self.iteration == self.config.iterations
            if last or self.iteration % self.config.validate_every == 0:
                self._validate()
            if stopping or last or self.iteration % self.config.validate_every == 0:
                self._checkpoint()
            if stopping:
                return None
        best = load_policy(self.folder / "best")
        assert isinstance(best, TransformerPolicy)
        return best.to(self.model.device)

    def _clone_block_length(self) -> int:
        """The expert's block: the task's, or the policy's own where that is shorter."""
        asked = self.config.clone_block_length or min(self.task.block_length, self.block_length)
        length = check_block_length(self.gen_length, asked)
        if length > self.block_length:
            raise UnmaskError(
                f"clone_block_length {length} is longer than the policy's blocks of {self.block_length}: "
                "the policy could not reveal what the rule reveals; use a shorter one."
            )
        return length

    def _start(self) -> None:
        if (self.folder / "last" / "trainer.pt").exists():
            raise UnmaskError(f"The run folder {self.folder} exists: pass --resume to go on, or another --run.")
        expert = load_policy(self.config.clone_from) if self.config.clones else None
        prompts = [self.model.encode(example.prompt) for example in self.examples]
        check_prompts(self.model, prompts, self.gen_length, self.config.batch_size, self.gen_length)
        write_text(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        write_text(self.folder / "metrics.jsonl", "")
        if expert is not None:
            clock = Clock()
            steps, expert_correct = expert_trajectories(
                self.model,
                expert,
                self.task,
                self.task.examples("train", self.config.clone_examples, seed=1),
                gen_length=self.gen_length,
                expert_block_length=self.clone_block_length,
                block_length=self.block_length,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                top_k=self.policy.settings.top_k,
            )
            clock.model = time.perf_counter() - clock.started
            losses: list[float] = []
            clone(
                self.policy,
                steps,
                updates=self.config.clone_updates,
                batch_size=self.config.clone_batch_size,
                lr=self.config.clone_lr,
                seed=self.config.seed,
                on_update=lambda done, loss: losses.append(loss),
            )
            clock.update = time.perf_counter() - clock.started - clock.model
            self._write(
                {
                    "stage": "clone",
                    "iteration": 0,
                    "expert_correct": expert_correct,
                    "steps": len(steps),
                    "loss": losses[-1],
                    **clock.seconds(),
                }
            )
            self.policy.save(self.folder / "clone")
        self._validate()
        self._checkpoint()

    def _iterate(self) -> Metrics:
        config, clock = self.config, Clock()
        rng = random.Random(f"{config.seed}/{self.iteration}")
        drawn = rng.sample(self.examples, config.prompts) if config.prompts <= len(self.examples) else self.examples
        group = [example for example in drawn for _ in range(config.group_size)]
        steps, decoded, correct = roll_out(
            self.model,
            self.policy.drawing(force_progress=False),
            self.task,
            group,
            gen_length=self.gen_length,
            block_length=self.block_length,
            batch_size=config.batch_size,
            seed=rng.getrandbits(62),
            top_k=self.policy.settings.top_k,
        )
        clock.count(decoded)
        reward = rewards.multiplicative(correct, decoded.nfe, self.gen_length, config.alpha)
        grouped = reward.view(-1, config.group_size)
        advantage = group_advantages(grouped).flatten()
        signal = has_signal(grouped).float().mean().item()

        started = time.perf_counter()
        lr = learning_rate(config, self.iteration)
        update: Metrics = {}
        if signal > 0 and signal >= config.min_signal:
            for param_group in self.optimizer.param_groups:
                param_group["lr"] = lr
            update = self._update(steps, advantage)
        clock.update = time.perf_counter() - started
        self.iteration += 1
        nfe = decoded.nfe.float()
        return {
            "stage": "grpo",
            "iteration": self.iteration,
            "reward": reward.mean().item(),
            "correct": correct.float().mean().item(),
            "nfe": nfe.mean().item(),
            "nfe_min": nfe.min().item(),
            "nfe_max": nfe.max().item(),
            "signal": signal,
            "updated": bool(update),
            "lr": lr,
            **update,
            "model_rows": decoded.model_rows,
            **clock.seconds(),
        }

    def _update(self, steps: Trajectories, advantage: Tensor) -> Metrics:
        """`inner_iterations` optimiser steps; roll-outs without advantage add nothing to the gradient and are left out.

        The first pass scores the old policy as well: its likelihoods are those of the policy that acted.
        """
        config = self.config
        weight = step_weights(steps.rollout, len(advantage))
        kept = (advantage[steps.rollout] != 0).nonzero()[:, 0]
        chunks = kept.split(config.update_batch_size)
        old: list[Tensor] = []
        norms, clipped = [], 0.0
        for inner in range(config.inner_iterations):
            self.optimizer.zero_grad()
            clipped = 0.0
            for i, index in enumerate(chunks):
                part = steps.take(index)
                logits = self.policy(part.confidence, part.masked, part.step_fraction)
                log_prob = bernoulli_log_prob(logits, part.selectable, part.action)
                if inner == 0:
                    old.append(log_prob.detach())
                signs = advantage[part.rollout]
                clipped_loss(log_prob, old[i], signs, weight[index], config.clip).backward()
                clipped += clip_share(log_prob.detach(), old[i], signs, config.clip) * len(index) / len(kept)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
            if not bool(norm.isfinite()):
                raise UnmaskError(
                    f"The gradient is not finite at iteration {self.iteration + 1}: start another --run with a "
                    f"lower lr (the best policy so far is in {self.folder / 'best'})."
                )
            norms.append(norm.item())
            self.optimizer.step()
        return {"grad_norm": norms[-1], "clip_share": clipped}

    def _validate(self) -> None:
        metrics = self.validate(self.policy)
        self._write({"stage": "validation", "iteration": self.iteration, **metrics})
        if metrics["reward"] > self.best:
            self.best = metrics["reward"]
            self.policy.save(self.folder / "best")

    def _write(self, metrics: Metrics) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        self.log(metrics)

    def _checkpoint(self) -> None:
        with written_whole(self.folder / "last") as draft:
            self.policy.save(draft / "policy")
            torch.save(
                {"optimizer": self.optimizer.state_dict(), "iteration": self.iteration, "best": self.best},
                draft / "trainer.pt",
            )

    def _restore(self) -> None:
        last = self.folder / "last"
        if not (last / "trainer.pt").exists():
            raise UnmaskError(f"Nothing to resume in {self.folder}: start without --resume.")
        saved_config = read_config(self.folder)
        for key, value in json.loads(self.config.model_dump_json()).items():
            if key != "run" and saved_config.get(key) != value:
                raise UnmaskError(
                    f"{self.folder} was started with {key} = {saved_config.get(key)!r}, not {value!r}: "
                    "resume with the same settings, or start another --run."
                )
        try:
            saved = torch.load(last / "trainer.pt", map_location=self.model.device, weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as e:
            raise UnmaskError(
                f"{last / 'trainer.pt'} is damaged ({str(e).splitlines()[0]}): start another --run, "
                f"or use the best policy so far in {self.folder / 'best'}."
            ) from None
        weights = last / "policy" / "model.safetensors"
        load_strictly(self.policy, read_weights(weights), str(weights))
        self.optimizer.load_state_dict(saved["optimizer"])
        self.iteration, self.best = saved["iteration"], saved["best"]
        metrics = self.folder / "metrics.jsonl"
        kept = [line for line in read_metrics(metrics) if line["iteration"] <= self.iteration]
        write_text(metrics, "".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """A cosine from the first iteration to zero, times a linear warm-up."""
    warm = min((iteration + 1) / max(config.warmup, 1), 1.0)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * iteration / max(config.iterations, 1)))
