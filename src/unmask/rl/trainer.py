"""The trainer: warm start, then reinforcement learning, resumable, on any number of processes.

Where its defaults deviate from the paper (arXiv 2512.09106): a warm start by cloning a rule; an update is taken only if
enough groups carry signal (Adam turns a vanishing gradient into full-size steps); a schedule of 90 short iterations,
for small dLLMs; the checkpoint that is best on validation prompts is kept; a run that has collapsed stops. Those of the
algorithm are in its module. `configs/train/paper` holds the paper's settings.

Run it with `unmask train --config configs/train/house-full.toml`, or under `accelerate launch -m unmask.cli train`.

Every draw depends on (seed, iteration, roll-out) alone, so that a resumed run equals an uninterrupted one, and N
processes equal one up to the rounding of sums.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from unmask.errors import Stopped, UnmaskError, is_out_of_memory
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.base import Policy
from unmask.policies.wrappers import Plain
from unmask.rl.algorithms.base import Credit, check_weight
from unmask.rl.checkpoint import Keeper
from unmask.rl.collapse import CollapseDetector
from unmask.rl.collect import Collected, Collector, draw_speeds, metrics_of, samples_of
from unmask.rl.config import TrainConfig
from unmask.rl.optimise import Optimiser, learning_rates
from unmask.rl.places import Place, first_of
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.prompts import CLONED, LEARNT, Prompt, draw_prompts, training_prompts
from unmask.rl.run import Metrics
from unmask.rl.search import Report, demonstrations
from unmask.rl.start import deterministic, expert_block, starting_policy
from unmask.rl.swept import Tried, swept
from unmask.rl.teachers import check_teachers
from unmask.rl.validation import Validate
from unmask.rl.warm_start import WarmStart, silent
from unmask.tasks.base import Task


def check_place(place: Place) -> None:
    """
    Raises:
        UnmaskError: a task that cannot be trained on, or leaps where there are blocks.
    """
    algorithm, task = place.config.algorithm.make(), place.task
    if not task.verifiable:
        raise UnmaskError(
            f"The task {task.name!r} has no verifier, and training needs to know what is correct: pass --verifier "
            "exact, number, or module.function of your own."
        )
    options = place.config.decode.resolve(place.model, task)
    if algorithm.leaps and (options.blocks.fewest(options.gen_length) > 1 or options.sampling.draws):
        raise UnmaskError(
            f"algorithm.leaps is {algorithm.leaps}, and a leap reveals the likeliest tokens of the whole region: leave "
            "it out, or decode in full diffusion at temperature 0."
        )


class Trainer:
    """One run.

    Args:
        validate: scores a policy as it would be used; ``reward`` and then ``nfe`` choose the best checkpoint.
        log: called with each line of metrics, in the main process.
        processes: of the run.
        report: called with a label, what is done and what there is to do, during the steps of the warm start.
        also: further dLLMs and tasks, which iterations take turns with.

    Attributes:
        progress: where the run stands.
        collapse: why the run has stopped by itself, if it has.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: MaskedDiffusionModel,
        task: Task,
        validate: Validate,
        log: Callable[[Metrics], None],
        processes: Processes | None = None,
        report: Report = silent,
        also: Sequence[Place] = (),
    ) -> None:
        config = config.in_blocks(model.block_length)
        self.config, self.model, self.task = config, model, task
        self.validate, self.team, self.report = validate, processes or Processes(), report
        settings, options = config.algorithm.settings, config.decode.resolve(model, task)
        torch.manual_seed(config.run.seed)
        self.policy = starting_policy(config.policy, model)
        check_weight(settings, self.policy.needs.speed)
        self.places = [Place(first_of(config), model, task), *also]
        for place in self.places:
            check_place(place)
            check_teachers(place.config.clone.teachers, self.policy, place.task)
        self.algorithm = config.algorithm.make()
        if also:
            self.algorithm.at_places(len(self.places))
        if self.algorithm.other_speeds and not self.policy.needs.speed:
            raise UnmaskError(
                f"algorithm.other_speeds is {self.algorithm.other_speeds}, and the policy has no speed: leave it out, "
                "or set policy.use_speed = true."
            )
        self.reward = settings.load_reward()
        actor = Plain(self.policy, settings.force_progress)
        self.collectors = [
            Collector(
                place.model,
                place.task,
                place.config.decode,
                self.reward,
                self.policy,
                actor,
                [deterministic(expert, place.task, place.config.decode) for expert in self.algorithm.experts],
                settings.group_size,
                settings.speeds,
                self.algorithm.other_speeds,
                self.algorithm.leaps,
                self.algorithm.bold,
            )
            for place in self.places
        ]
        block = expert_block(config.clone.block_length, task, config.decode, "clone.block_length")
        if config.clones and not config.clone.teachers and config.clone.rule is not None:
            demonstrations(config.clone.rule, block, block, block)  # a misspelt rule is refused before the run begins
        self.optimiser = Optimiser(self.policy, self.algorithm, actor.actions, self.team, model.device)
        self.keeper = Keeper(config, self.policy, self.team, log)
        fewest = options.blocks.fewest(options.gen_length)
        most = config.decode.most_steps(options.gen_length)
        if config.decode.max_block_steps is not None:
            most = min(options.max_steps, options.blocks.most(options.gen_length) * config.decode.max_block_steps)
        self.detector = CollapseDetector(config.run.patience, fewest, most)
        self.collapse: str | None = None

    def run(self, resume: bool = False, allow_changes: bool = False, stop: Stop = never) -> Policy:
        """Train to the end, or until collapse.

        Args:
            resume: go on from the last checkpoint.
            allow_changes: also if settings have changed since; the best policy is then chosen anew.
            stop: asked after each iteration, and often while cloning; if it says so, a checkpoint is saved.

        Returns:
            The policy that was best on validation prompts.

        Raises:
            UnmaskError: the run folder exists and resume is False, there is nothing to resume, the data do not fit, or
                the gradient is not finite.
            Stopped: `stop` said so.
        """
        settings = self.config.algorithm.settings
        found = [self._training_prompts(place, self.config.task.train_examples, seed=LEARNT) for place in self.places]
        self.prompts, note = [prompts for prompts, _ in found], " ".join(told for _, told in found if told)
        begun, tried = False, None
        if resume:
            begun = self.keeper.resume(self.optimiser, allow_changes)
        if not begun:
            tried = self._swept()  # a sweep that does not fit is refused before the run begins
        if not resume:
            self.keeper.begin()
        if begun:
            self._go_on(allow_changes)
        else:
            if note:
                self.keeper.write("note", {"message": f"Training: {note}"})
            try:
                self._warm_start(stop, tried)
            except UnmaskError:
                self.keeper.abandon()  # the mended command may begin the run
                raise
        if settings.kl_weight:
            self.optimiser.reference = self.keeper.start(self.model.device)
        self._iterations(stop)
        if self.keeper.sharpen(self.config.run.temperatures, self.validate, self.model.device, stop):
            self.keeper.save(self.optimiser, self.detector.counts)
        best = self.keeper.best()
        best.place(self.model.device)
        return best

    def _training_prompts(self, place: Place, n: int, seed: int) -> tuple[list[Prompt], str | None]:
        return training_prompts(place.model, place.task, place.config, n, seed=seed, processes=self.team.size)

    def _go_on(self, allow_changes: bool) -> None:
        """What a resumed run does first."""
        if allow_changes:
            self.keeper.progress.best = None  # rewards of other settings do not compare
            self.keeper.progress.temperature = None
            self.keeper.judge(self.validate(self.policy))
            return
        self.detector.counts |= self.keeper.progress.counts
        if self.detector.triggered:
            self.collapse = "This run has collapsed before: to go on, resume it with another setting (--allow-changes)."
            self.keeper.write("note", {"message": self.collapse})

    def _swept(self) -> Tried | None:
        """What the rules of a sweep did that is given in place of a search."""
        config, clones = self.config, self.config.clone
        if not config.clones or clones.teachers or clones.sweep is None or clones.rule is None:
            return None
        return swept(clones.sweep, clones.rule, self.model, self.task, config.decode, clones.block_length)

    def _warm_start(self, stop: Stop, tried: Tried | None) -> None:
        """Clone, validate, save. If stopped, nothing is kept of it, and a resumed run starts over."""
        config, keeper = self.config, self.keeper
        if config.clones:
            first, *also = [
                (
                    WarmStart(
                        place.model,
                        place.task,
                        place.config.decode,
                        self.reward,
                        place.config.clone,
                        self.team,
                        config.run.seed,
                        self.report,
                        stop,
                        config.algorithm.settings.speeds,
                        keeper.folder.path / (f"search-{i}.jsonl" if i else "search.jsonl"),
                        None if i else tried,
                    ),
                    self._training_prompts(place, config.clone.examples, seed=CLONED)[0],
                )
                for i, place in enumerate(self.places)
            ]
            metrics = first[0].run(self.policy, first[1], also)
            keeper.progress.passes += metrics["passes"]
            keeper.progress.passes_run += metrics["passes"]
            keeper.write("clone", metrics)
        keeper.started()
        keeper.judge(self.validate(self.policy))
        keeper.save(self.optimiser, self.detector.counts)
        if self.team.any(stop()):
            raise Stopped("Stopped at iteration 0; go on with --resume.")

    def _iterations(self, stop: Stop) -> None:
        """To the end or to collapse."""
        run, keeper = self.config.run, self.keeper
        saved = time.monotonic()
        while keeper.progress.iteration < run.iterations and self.collapse is None:
            metrics = self._iterate()
            keeper.write(self.algorithm.name, metrics)
            self.collapse = self.detector.update(metrics)
            if self.collapse:
                keeper.write("collapse", {"message": self.collapse})
            done = keeper.progress.iteration == run.iterations or self.collapse is not None
            stopping = self.team.any(stop()) and not done
            due = self.team.any(self.team.main and time.monotonic() - saved > 60 * run.checkpoint_minutes)
            validates = done or keeper.progress.iteration % run.validate_every == 0
            if validates:
                keeper.judge(self.validate(self.policy))
            if validates or stopping or due:
                keeper.save(self.optimiser, self.detector.counts)
                saved = time.monotonic()
            if stopping:
                raise Stopped(f"Stopped at iteration {keeper.progress.iteration}; go on with --resume.")

    def _iterate(self) -> Metrics:
        """Collect, give credit, learn."""
        settings, run, team, progress = self.config.algorithm.settings, self.config.run, self.team, self.keeper.progress
        started, number = time.perf_counter(), progress.iteration
        seed = random.Random(f"{run.seed}/{number}").getrandbits(62)
        turn, at = divmod(number, len(self.places))
        drawn = list(enumerate(draw_prompts(self.prompts[at], settings.prompts, run.seed, turn)))
        speeds = None
        if self.policy.needs.speed:
            speeds = draw_speeds(len(drawn), settings.speeds, run.seed, number)
        found = self.collectors[at].collect(team.share(drawn), seed, speeds)
        batch = replace(found.batch, part=found.batch.part + at * settings.speeds)
        for name, count in zip(("passes", "passes_run"), team.total(found.passes, found.passes_run), strict=True):
            setattr(progress, name, getattr(progress, name) + int(count))
        credit = self.algorithm.credit(batch, team)
        signal = team.total(self.algorithm.signal(found.batch.reward))[0] / settings.prompts
        updated = signal > 0 and signal >= settings.min_signal
        rates = learning_rates(settings, number, run.iterations)
        before_validation = -(number + 1) % run.validate_every < len(self.places)  # one of each place
        if before_validation and run.log_completions:
            self.keeper.keep_completions(samples_of(found, settings.group_size, run.log_completions))
        collected = time.perf_counter()
        logged = self._learn(found, credit, rates) if updated else self.optimiser.look(found.batch)
        progress.iteration += 1
        now = time.perf_counter()
        return {
            **({"place": self.places[at].name} if len(self.places) > 1 else {}),
            **metrics_of(found.outcome, found.batch.reward[:, : settings.group_size], settings.speeds, team),
            "signal": signal,
            "updated": updated,
            "lr": rates[-1],
            **logged,
            "passes": progress.passes,
            "passes_run": progress.passes_run,
            "seconds": now - started,
            "seconds_model": found.model_seconds,
            "seconds_policy": found.policy_seconds,
            "seconds_update": now - collected,
        }

    def _learn(self, found: Collected, credit: Credit, rates: Sequence[float]) -> Mapping[str, float]:
        try:
            return self.optimiser.learn(found.batch, credit, rates)
        except FloatingPointError as e:
            raise UnmaskError(
                f"At iteration {self.keeper.progress.iteration + 1} {e}: resume with a lower lr (--resume "
                f"--allow-changes), or use the best policy so far in {self.keeper.folder.path / 'best'}."
            ) from None
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
            size = self.config.algorithm.settings.update_batch_size
            raise UnmaskError(
                f"{self.model.device} has too little memory to score {size} decoding steps at a time: resume with "
                f"algorithm.update_batch_size {max(size // 2, 1)} (--resume --allow-changes)."
            ) from e
