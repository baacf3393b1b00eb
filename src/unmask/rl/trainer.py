"""The trainer: warm start, then GRPO, in a run folder that can be resumed, on any number of processes.

Where its defaults deviate from the paper (arXiv 2512.09106): a warm start by cloning a rule; an update is taken only if
enough groups carry signal (Adam turns a vanishing gradient into full-size steps); a larger learning rate and a schedule
of 90 short iterations, for small dLLMs; the checkpoint that is best on validation prompts is kept; a run that has
collapsed stops. `configs/train/paper` holds the paper's settings.

Run it with `unmask train --config configs/train/house-full.toml`, or under `accelerate launch -m unmask.cli train`.

Every draw depends on (seed, iteration, roll-out) alone, so that a resumed run equals an uninterrupted one, and N
processes equal one up to the rounding of sums.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unmask.decoding.blocks import check_block_length
from unmask.decoding.results import Decoded
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.clone import best_demonstration, clone, demonstrations, lesson
from unmask.rl.config import TrainConfig
from unmask.rl.experts import as_seen
from unmask.rl.grpo import group_advantages, has_signal, root_mean_square
from unmask.rl.prompts import Prompt, fitting
from unmask.rl.rewards import load_reward
from unmask.rl.rollout import Rollouts, Trajectories, roll_out
from unmask.rl.run import Metrics, Progress, RunFolder
from unmask.rl.team import Team
from unmask.rl.update import Batch, Updater, adamw
from unmask.rl.watchdog import Watchdog
from unmask.tasks.base import Example, Task

Validate = Callable[[TransformerPolicy], Metrics]
Stop = Callable[[], bool]


@dataclass
class Clock:
    """Seconds by stage, of this process."""

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
    """One run.

    Args:
        validate: scores a policy as it would be used; its ``reward`` chooses the best checkpoint.
        log: called with each line of metrics, in the main process.
        team: the processes of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: MaskedDiffusionModel,
        task: Task,
        validate: Validate,
        log: Callable[[Metrics], None],
        team: Team | None = None,
    ) -> None:
        self.config, self.model, self.task = config, model, task
        self.validate, self.log, self.team = validate, log, team or Team()
        self.gen_length = config.gen_length or task.gen_length
        self.block_length = check_block_length(self.gen_length, config.block_length)
        self.reward = load_reward(config.reward, config.alpha)
        if not task.verifiable:
            raise UnmaskError(
                f"The task {task.name!r} has no verifier, and training needs to know what is correct: pass --verifier "
                "exact, number, or module.function of your own."
            )
        self.experts = [
            (_deterministic(expert.policy), self._shorter(expert.block_length, "an expert's block_length"))
            for expert in config.experts
        ]
        self.clone_block_length = (
            self._shorter(config.clone_block_length, "clone_block_length") if config.clones else self.block_length
        )
        if min(config.prompts, config.clone_examples) < self.team.size:
            raise UnmaskError(
                f"{self.team.size} processes need at least as many prompts an iteration and clone_examples: raise them."
            )
        self.folder = RunFolder(config.run)
        torch.manual_seed(config.seed)
        self.policy = make_policy(config, model)
        self.actor = self.policy.drawing(force_progress=config.force_progress)
        self.optimizer = adamw(self.policy, config)
        self.progress = Progress()
        self.watchdog = Watchdog(config.patience, self.gen_length)
        self.collapse: str | None = None

    def run(self, resume: bool = False, allow_changes: bool = False, stop: Stop = lambda: False) -> Policy | None:
        """Train to the end, or until collapse, and return the policy that was best on validation prompts.

        Args:
            resume: go on from the last checkpoint.
            allow_changes: also if settings have changed since.
            stop: asked after each iteration; if it says so, a checkpoint is saved.

        Returns:
            The policy, or None if stopped.

        Raises:
            UnmaskError: the run folder exists and resume is False, there is nothing to resume, or the gradient is not
                finite.
        """
        self.prompts = self._fitting(self.task.examples("train", self.config.train_examples, seed=0))
        if not (self._resume(allow_changes) if resume else self._start()) and not self._warm_start(stop):
            return None
        updater = Updater(self.policy, self.optimizer, self.config, self.actor.actions, self._reference(), self.team)
        while self.progress.iteration < self.config.iterations and self.collapse is None:
            metrics = self._iterate(updater)
            self._write(metrics)
            self.collapse = self.watchdog.see(metrics)
            if self.collapse:
                self._write({"stage": "collapse", "iteration": self.progress.iteration, "message": self.collapse})
            done = self.progress.iteration == self.config.iterations or self.collapse is not None
            stopping = self.team.any(stop()) and not done
            if done or self.progress.iteration % self.config.validate_every == 0:
                self._validate()
                self._checkpoint()
            elif stopping:
                self._checkpoint()
            if stopping:
                return None
        best = load_policy(self.folder.path / "best")
        best.place(self.model.device)
        return best

    def _shorter(self, asked: int | None, name: str) -> int:
        """An expert's block: the one asked for, or the task's, or the learner's own where that is shorter."""
        length = check_block_length(self.gen_length, asked or min(self.task.block_length, self.block_length))
        if length > self.block_length or self.block_length % length:
            raise UnmaskError(
                f"{name} {length} does not divide the policy's blocks of {self.block_length}: the policy could not "
                "reveal what the expert reveals; use a divisor."
            )
        return length

    def _fitting(self, examples: Sequence[Example]) -> list[Prompt]:
        config = self.config
        return fitting(self.model, examples, self.gen_length, config.max_prompt_length, config.long_prompts)

    def _start(self) -> bool:
        if self.team.main:
            self.folder.start(self.config)
        self.team.wait()
        return False

    def _resume(self, allow_changes: bool) -> bool:
        """True if there is a checkpoint; else the run was stopped before its first, and starts over."""
        self.progress = self.folder.restore(self.policy, self.optimizer, None if allow_changes else self.config)
        if not allow_changes:
            self.watchdog.counts |= self.progress.counts
        self.team.wait()
        if self.team.main and allow_changes:
            self.folder.describe(self.config)
        begun = self.progress.best is not None
        if self.team.main:
            self.folder.forget_after(self.progress.iteration if begun else -1)
        self.team.wait()
        return begun

    def _warm_start(self, stop: Stop) -> bool:
        """Clone, validate, save. False if stopped: nothing is kept of it, and a resumed run starts over."""
        if self.config.clones and not self._clone(stop):
            return False
        if self.config.kl_weight and self.team.main:
            self.policy.save(self.folder.path / "start")
        self._validate()
        self._checkpoint()
        return True

    def _clone(self, stop: Stop) -> bool:
        config, clock = self.config, Clock()
        assert config.clone_from is not None
        prompts = self._fitting(self.task.examples("train", config.clone_examples, seed=1))
        cells = demonstrations(config.clone_from, self.clone_block_length, self.block_length)
        cell, passes = best_demonstration(
            self.model,
            cells,
            self.task,
            prompts,
            self.reward,
            gen_length=self.gen_length,
            batch_size=config.batch_size,
            team=self.team,
        )
        taught = lesson(
            self.model,
            cell,
            self.policy,
            self.task,
            prompts,
            keep=config.clone_keep,
            gen_length=self.gen_length,
            block_length=self.block_length,
            batch_size=config.batch_size,
            seed=config.seed,
            team=self.team,
        )
        clock.model = time.perf_counter() - clock.started
        if self.team.any(stop()):
            return False
        losses: list[float] = []
        clone(
            self.policy,
            taught,
            updates=config.clone_updates,
            batch_size=config.clone_batch_size,
            lr=config.clone_lr,
            seed=config.seed,
            team=self.team,
            on_update=lambda done, loss: losses.append(loss),
        )
        clock.update = time.perf_counter() - clock.started - clock.model
        self.progress.passes += passes + taught.passes
        self._write(
            {
                "stage": "clone",
                "iteration": 0,
                "rule": cell.policy,
                "block_length": cell.block_length,
                "expert_correct": taught.correct,
                "kept": taught.kept,
                "steps": taught.total,
                "loss": losses[-1],
                "passes": self.progress.passes,
                **clock.seconds(),
            }
        )
        if self.team.main:
            self.policy.save(self.folder.path / "clone")
        return not self.team.any(stop())

    def _reference(self) -> TransformerPolicy | None:
        """What the KL term holds on to."""
        if not self.config.kl_weight:
            return None
        self.team.wait()
        reference = load_policy(self.folder.path / "start")
        assert isinstance(reference, TransformerPolicy)
        reference.place(self.model.device)
        return reference

    def _iterate(self, updater: Updater) -> Metrics:
        config, clock, team = self.config, Clock(), self.team
        number = self.progress.iteration
        seed = random.Random(f"{config.seed}/{number}").getrandbits(62)
        drawn = draw_prompts(self.prompts, config.prompts, config.seed, number)
        mine = team.share(list(enumerate(drawn)))
        rolled = self._roll_out([place for place, _ in mine], [prompt for _, prompt in mine], seed, clock)
        learners = rolled[0]
        steps, expert = self._pack(rolled)
        earned = [self.reward(part.outcome).to(self.model.device).view(len(mine), -1) for part in rolled]
        grouped = torch.cat([earned[0], *earned[1:]], dim=1)
        advantage = group_advantages(grouped, config.scale_advantages).flatten()
        if config.scale_advantages == "batch":
            advantage = advantage / root_mean_square(
                *team.total(advantage.double().square().sum().item(), len(advantage))
            )
        groups = len(drawn)
        signal = team.total(has_signal(grouped).sum().item())[0] / groups

        started = time.perf_counter()
        lr = learning_rate(config, number)
        updated = signal > 0 and signal >= config.min_signal
        if updated:
            for param_group in self.optimizer.param_groups:
                param_group["lr"] = lr
            members = config.group_size + len(config.experts)
            logged = self._update(updater, Batch(steps, advantage, expert), groups * members)
        else:
            logged = updater.look(learners.steps)
        clock.update = time.perf_counter() - started
        self.progress.iteration += 1
        outcome = learners.outcome
        passes = sum(part.decoded.model_rows for part in rolled)
        nfe = team.gather(outcome.nfe.tolist())
        sums = team.total(earned[0].sum().item(), outcome.correct.sum().item(), passes)
        self.progress.passes += int(sums[2])
        return {
            "stage": "grpo",
            "iteration": self.progress.iteration,
            "reward": sums[0] / len(nfe),
            "correct": sums[1] / len(nfe),
            "nfe": sum(nfe) / len(nfe),
            "nfe_min": min(nfe),
            "nfe_max": max(nfe),
            "signal": signal,
            "updated": updated,
            "lr": lr,
            **logged,
            "passes": self.progress.passes,
            **clock.seconds(),
        }

    def _roll_out(self, places: Sequence[int], prompts: Sequence[Prompt], seed: int, clock: Clock) -> list[Rollouts]:
        """The policy's roll-outs, a group for each prompt, then one for each prompt by each expert."""
        size = self.config.group_size

        def play(policy: Policy, copies: int, block_length: int) -> Rollouts:
            rolled = roll_out(
                self.model,
                policy,
                self.task,
                [prompt.example for prompt in prompts for _ in range(copies)],
                prompts=[prompt.tokens for prompt in prompts for _ in range(copies)],
                streams=[place * copies + i for place in places for i in range(copies)],
                gen_length=self.gen_length,
                block_length=block_length,
                batch_size=self.config.batch_size,
                seed=seed,
                needs=self.policy.needs,
                features=self.policy.features,
            )
            clock.count(rolled.decoded)
            return rolled

        mine = play(self.actor, size, self.block_length)
        return [mine, *(play(expert, 1, length) for expert, length in self.experts)]

    def _pack(self, rolled: Sequence[Rollouts]) -> tuple[Trajectories, Tensor]:
        """All steps, roll-outs numbered group by group, an expert's behind the policy's; and which are an expert's."""
        size, members = self.config.group_size, self.config.group_size + len(self.experts)
        device = self.model.device
        count = len(rolled[0].outcome.nfe)
        learners = torch.arange(count, device=device)
        steps = rolled[0].steps.numbered(learners // size * members + learners % size)
        expert = (torch.arange(count // size * members, device=device) % members) >= size
        for i, part in enumerate(rolled[1:]):
            seen = as_seen(part.steps, self.block_length, self.policy)
            steps = steps.join(seen.numbered(torch.arange(count // size, device=device) * members + size + i))
        return steps, expert

    def _update(self, updater: Updater, batch: Batch, rollouts: int) -> dict[str, float]:
        try:
            return updater.update(batch, rollouts)
        except FloatingPointError as e:
            raise UnmaskError(
                f"At iteration {self.progress.iteration + 1} {e}: resume with a lower lr (--resume --allow-changes), "
                f"or use the best policy so far in {self.folder.path / 'best'}."
            ) from None

    def _validate(self) -> None:
        metrics = self.validate(self.policy)
        self._write({"stage": "validation", "iteration": self.progress.iteration, **metrics})
        if self.progress.best is None or metrics["reward"] > self.progress.best:
            self.progress.best = metrics["reward"]
            if self.team.main:
                self.policy.save(self.folder.path / "best")

    def _write(self, metrics: Metrics) -> None:
        if self.team.main:
            self.folder.write(metrics)
            self.log(metrics)

    def _checkpoint(self) -> None:
        self.progress.counts = dict(self.watchdog.counts)
        if self.team.main:
            self.folder.save(self.policy, self.optimizer, self.progress)
        self.team.wait()


def make_policy(config: TrainConfig, model: MaskedDiffusionModel) -> TransformerPolicy:
    """Fresh weights, or the policy to start from, on the dLLM's device.

    Raises:
        UnmaskError: that policy is no transformer, or of another shape than the one asked for.
    """
    settings = config.policy
    if settings.reads == "hidden_states" and settings.hidden_size is None:
        settings = settings.model_copy(update={"hidden_size": model.hidden_size})
    policy = TransformerPolicy(settings)
    if config.init is not None:
        found = load_policy(config.init)
        if not isinstance(found, TransformerPolicy):
            raise UnmaskError(f"init = {config.init!r} is a {found.type_name} policy, which has no weights to train.")
        if "policy" in config.model_fields_set and found.settings != settings:
            raise UnmaskError(
                f"init = {config.init!r} has another architecture than the policy asked for: leave out the policy's "
                "settings, or start from fresh weights."
            )
        policy = copy.deepcopy(found)
    policy.place(model.device)
    return policy


def _deterministic(spec: str) -> Policy:
    expert = load_policy(spec)
    if expert.draws:
        raise UnmaskError(f"The expert {spec!r} draws at random, and steering needs likelihood 1: use another rule.")
    return expert


def draw_prompts(prompts: Sequence[Prompt], n: int, seed: int, iteration: int) -> list[Prompt]:
    """The prompts of an iteration: epoch after epoch in an order of its own, so that all are used equally often."""
    drawn = []
    for place in range(iteration * n, (iteration + 1) * n):
        epoch, at = divmod(place, len(prompts))
        order = list(range(len(prompts)))
        random.Random(f"{seed}/epoch {epoch}").shuffle(order)
        drawn.append(prompts[order[at]])
    return drawn


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """A cosine from the first iteration to zero, times a linear warm-up."""
    warm = min((iteration + 1) / max(config.warmup, 1), 1.0)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * iteration / max(config.iterations, 1)))
