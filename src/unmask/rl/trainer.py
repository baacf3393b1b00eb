"""The trainer: warm start, then GRPO, in a run folder that can be resumed, on any number of processes.

Where its defaults deviate from the paper (arXiv 2512.09106): a warm start by cloning a rule; an update is taken only if
enough groups carry signal (Adam turns a vanishing gradient into full-size steps); advantages are divided by the batch's
root mean square, so that a step is as large at every alpha; a schedule of 90 short iterations, for small dLLMs; the
checkpoint that is best on validation prompts is kept; a run that has collapsed stops. `configs/train/paper` holds the
paper's settings.

Run it with `unmask train --config configs/train/house-full.toml`, or under `accelerate launch -m unmask.cli train`.

Every draw depends on (seed, iteration, roll-out) alone, so that a resumed run equals an uninterrupted one, and N
processes equal one up to the rounding of sums.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import Prompt, draw_prompts, fitting
from unmask.rl.rewards import correct_by_task, load_reward
from unmask.rl.rollout import Rollouts, Trajectories, roll_out
from unmask.rl.run import Metrics, Progress, RunFolder
from unmask.rl.update import Batch, Updater, adamw, learning_rate
from unmask.rl.watchdog import Watchdog
from unmask.tasks.base import Task

Validate = Callable[[TransformerPolicy], Metrics]


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
        validate: scores a policy as it would be used; ``reward`` and then ``nfe`` choose the best checkpoint.
        log: called with each line of metrics, in the main process.
        team: the processes of the run.
        tell: called with a label, what is done and what there is to do, during the steps of the warm start.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: MaskedDiffusionModel,
        task: Task,
        validate: Validate,
        log: Callable[[Metrics], None],
        team: Processes | None = None,
        tell: Callable[[str, int, int], None] = lambda label, done, total: None,
    ) -> None:
        self.tell = tell
        self.config, self.model, self.task = config, model, task
        self.validate, self.log, self.team = validate, log, team or Processes()
        self.gen_length = config.gen_length or task.gen_length
        self.block_length = check_block_length(self.gen_length, config.block_length)
        self.reward = load_reward(config.reward, config.alpha)
        if not task.verifiable:
            raise UnmaskError(
                f"The task {task.name!r} has no verifier, and training needs to know what is correct: pass --verifier "
                "exact, number, or module.function of your own."
            )
        self.experts = [
            (_deterministic(expert.policy), self._divisor(expert.block_length, "an expert's block_length"))
            for expert in config.experts
        ]
        self._divisor(config.clone_block_length, "clone_block_length")
        self.folder = RunFolder(config.run, main=self.team.main)
        torch.manual_seed(config.seed)
        self.policy = starting_policy(config, model)
        self.actor = self.policy.drawing(force_progress=config.force_progress)
        self.optimizer = adamw(self.policy, config)
        self.progress = Progress()
        self.watchdog = Watchdog(config.patience, self.gen_length // self.block_length, self.gen_length)
        self.collapse: str | None = None

    def run(self, resume: bool = False, allow_changes: bool = False, stop: Stop = never) -> Policy | None:
        """Train to the end, or until collapse, and return the policy that was best on validation prompts.

        Args:
            resume: go on from the last checkpoint.
            allow_changes: also if settings have changed since; the best policy is then chosen anew.
            stop: asked after each iteration, and often while cloning; if it says so, a checkpoint is saved.

        Returns:
            The policy, or None if stopped.

        Raises:
            UnmaskError: the run folder exists and resume is False, there is nothing to resume, the data do not fit, or
                the gradient is not finite.
        """
        self.prompts, note = self._fitting(self.config.train_examples, seed=0)
        if resume:
            begun = self._resume(allow_changes)
        else:
            begun = False
            self._begin(lambda: self.folder.start(self.config))
        if not begun:
            if note:
                self._write({"stage": "note", "iteration": 0, "message": f"Training: {note}"})
            if not self._warm_start(stop):
                return None
        return self._best() if self._iterations(stop) else None

    def _iterations(self, stop: Stop) -> bool:
        """GRPO to the end or to collapse; False if stopped."""
        config = self.config
        updater = Updater(self.policy, self.optimizer, config, self.actor.actions, self._reference(), self.team)
        saved = time.monotonic()
        while self.progress.iteration < config.iterations and self.collapse is None:
            metrics = self._iterate(updater)
            self._write(metrics)
            self.collapse = self.watchdog.see(metrics)
            if self.collapse:
                self._write({"stage": "collapse", "iteration": self.progress.iteration, "message": self.collapse})
            done = self.progress.iteration == config.iterations or self.collapse is not None
            stopping = self.team.any(stop()) and not done
            due = self.team.any(self.team.main and time.monotonic() - saved > 60 * config.checkpoint_minutes)
            validates = done or self.progress.iteration % config.validate_every == 0
            if validates:
                self._validate()
            if validates or stopping or due:
                self._checkpoint()
                saved = time.monotonic()
            if stopping:
                return False
        return True

    def _best(self) -> Policy:
        best = load_policy(self.folder.path / "best")
        best.place(self.model.device)
        return best

    def _divisor(self, asked: int | None, name: str) -> int:
        """An expert's block: the one asked for, or the task's as far as it divides the learner's own."""
        length = asked or math.gcd(self.task.block_length, self.block_length)
        if self.block_length % length:
            raise UnmaskError(
                f"{name} {length} does not divide the policy's blocks of {self.block_length}: the policy could not "
                "reveal what the expert reveals; use a divisor."
            )
        return length

    def _fitting(self, examples: int, seed: int) -> tuple[list[Prompt], str | None]:
        """Training prompts that fit, at least one for each process, and a sentence on those that do not."""
        config = self.config
        found = self.task.examples("train", examples, seed=seed)
        prompts, note = fitting(self.model, found, self.gen_length, config.max_prompt_length, config.long_prompts)
        if min(len(prompts), config.prompts) < self.team.size:
            raise UnmaskError(
                f"{self.team.size} processes need at least as many training prompts, of all and of an iteration; there "
                f"are {len(prompts)} and {config.prompts}."
            )
        return prompts, note

    def _begin(self, write: Callable[[], None]) -> None:
        """Let the main process write, and see that all find the run folder."""
        if self.team.main:
            write()
        self.team.wait()
        if not (self.folder.path / "config.json").exists():
            raise UnmaskError(
                f"Process {self.team.rank} does not see {self.folder.path}: the run folder must lie where all nodes "
                "can read it."
            )

    def _resume(self, allow_changes: bool) -> bool:
        """True if there is a checkpoint; else the run was stopped before its first, and starts over."""
        progress = self.folder.restore(self.policy, self.optimizer, None if allow_changes else self.config)
        self.team.wait()
        if progress is not None:
            self.progress = progress
            self.watchdog.counts |= {} if allow_changes else progress.counts

        def write() -> None:
            self.folder.forget_after(-1 if progress is None else progress.iteration)
            if progress is not None:
                self.folder.restore_best()
            if allow_changes:
                self.folder.describe(self.config)

        self._begin(write)
        if allow_changes and progress is not None:
            self.progress.best = None  # rewards of other settings do not compare
            self._validate()
        if self.watchdog.barked:
            self.collapse = "This run has collapsed before: to go on, resume it with another setting (--allow-changes)."
            self._write({"stage": "note", "iteration": self.progress.iteration, "message": self.collapse})
        return progress is not None

    def _warm_start(self, stop: Stop) -> bool:
        """Clone, validate, save. False if stopped: nothing is kept of it, and a resumed run starts over."""
        if self.config.clones and not self._clone(stop):
            return False
        if self.team.main:
            self.policy.save(self.folder.path / "start")
        self._validate()
        self._checkpoint()
        return not self.team.any(stop())

    def _clone(self, stop: Stop) -> bool:
        config, clock = self.config, Clock()
        assert config.clone_from is not None
        prompts, _ = self._fitting(config.clone_examples, seed=1)
        default = self._divisor(None, "clone_block_length")
        cells = demonstrations(config.clone_from, config.clone_block_length, default, self.block_length)
        where: dict[str, Any] = {"gen_length": self.gen_length, "batch_size": config.batch_size, "team": self.team}
        found = best_demonstration(
            self.model, cells, self.task, prompts, self.reward, **where, on_cell=partial(self.tell, "trying"), stop=stop
        )
        if found is None:
            return False
        cell, passes = found
        taught = lesson(
            self.model,
            cell,
            self.policy,
            self.task,
            prompts,
            keep=config.clone_keep,
            block_length=self.block_length,
            seed=config.seed,
            on_ended=partial(self.tell, "rolling out"),
            **where,
        )
        clock.model = time.perf_counter() - clock.started
        losses: list[float] = []

        def on_update(done: int, loss: float) -> None:
            losses.append(loss)
            self.tell("cloning", done, config.clone_updates)

        finished = clone(
            self.policy,
            taught,
            updates=config.clone_updates,
            batch_size=config.clone_batch_size,
            lr=config.clone_lr,
            seed=config.seed,
            team=self.team,
            on_update=on_update,
            stop=stop,
        )
        clock.update = time.perf_counter() - clock.started - clock.model
        self.progress.passes += passes + taught.passes
        self.progress.passes_run += passes + taught.passes
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
        return finished

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
        mine = team.share(list(enumerate(draw_prompts(self.prompts, config.prompts, config.seed, number))))
        rolled = self._roll_out([place for place, _ in mine], [prompt for _, prompt in mine], seed, clock)
        earned = [self.reward(part.outcome).to(self.model.device).view(len(mine), -1) for part in rolled]
        grouped = torch.cat(earned, dim=1)
        advantage = group_advantages(grouped, config.scale_advantages).flatten()
        if config.scale_advantages == "batch":
            squares = advantage.double().square().sum().item()
            advantage = advantage / root_mean_square(*team.total(squares, len(advantage)))
        signal = team.total(has_signal(grouped).sum().item())[0] / config.prompts
        updated = signal > 0 and signal >= config.min_signal
        lr = learning_rate(config, number)

        started = time.perf_counter()
        if updated:
            for param_group in self.optimizer.param_groups:
                param_group["lr"] = lr
            steps, expert = self._pack(rolled)
            logged = self._update(updater, Batch(steps, advantage, expert))
        else:
            logged = updater.look(rolled[0].steps)
        clock.update = time.perf_counter() - started
        self.progress.iteration += 1
        return {
            "stage": "grpo",
            "iteration": self.progress.iteration,
            **self._outcome(rolled, earned[0]),
            "signal": signal,
            "updated": updated,
            "lr": lr,
            **logged,
            "passes": self.progress.passes,
            "passes_run": self.progress.passes_run,
            **clock.seconds(),
        }

    def _outcome(self, rolled: Sequence[Rollouts], earned: Tensor) -> Metrics:
        """How the policy's own roll-outs ended, in all processes; counts the forward passes, experts' too."""
        outcome = rolled[0].outcome
        passes = sum(part.decoded.model_rows for part in rolled)
        run = sum(part.decoded.model_rows_run for part in rolled)
        nfe = self.team.gather(outcome.nfe.tolist())
        reward, correct, spent, ran = self.team.total(earned.sum().item(), outcome.correct.sum().item(), passes, run)
        self.progress.passes += int(spent)
        self.progress.passes_run += int(ran)
        return {
            "reward": reward / len(nfe),
            "correct": correct / len(nfe),
            "nfe": sum(nfe) / len(nfe),
            "nfe_min": min(nfe),
            "nfe_max": max(nfe),
            **correct_by_task(self.team.gather(outcome.by_task())),
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

    def _update(self, updater: Updater, batch: Batch) -> Metrics:
        try:
            return updater.update(batch, self.config.prompts * (self.config.group_size + len(self.experts)))
        except FloatingPointError as e:
            raise UnmaskError(
                f"At iteration {self.progress.iteration + 1} {e}: resume with a lower lr (--resume --allow-changes), "
                f"or use the best policy so far in {self.folder.path / 'best'}."
            ) from None

    def _validate(self) -> None:
        metrics = self.validate(self.policy)
        self._write({"stage": "validation", "iteration": self.progress.iteration, **metrics})
        reached = (metrics["reward"], -metrics["nfe"])  # of equal rewards, the faster one
        if self.progress.best is None or reached > (self.progress.best, -self.progress.best_nfe):
            self.progress.best, self.progress.best_nfe = metrics["reward"], metrics["nfe"]
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


def starting_policy(config: TrainConfig, model: MaskedDiffusionModel) -> TransformerPolicy:
    """Fresh weights, or the policy to start from, on the dLLM's device.

    Raises:
        UnmaskError: that policy is no transformer, or of another shape than the one asked for.
    """
    settings = config.policy.for_model(model.hidden_size)
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
        policy = found
    policy.place(model.device)
    return policy


def _deterministic(spec: str) -> Policy:
    expert = load_policy(spec)
    if expert.stochastic:
        raise UnmaskError(f"The expert {spec!r} draws at random, and steering needs likelihood 1: use another rule.")
    return expert
