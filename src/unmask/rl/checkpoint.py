"""What a run keeps, over all its processes: the main one writes, all read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unmask.errors import Stopped, UnmaskError
from unmask.hub import write_origin
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy, Policy, StochasticPolicy
from unmask.rl.collapse import fallen_speeds
from unmask.rl.config import TrainConfig
from unmask.rl.optimise import Optimiser
from unmask.rl.processes import Processes, Stop, never
from unmask.rl.run import Metrics, Progress, RunFolder


class Keeper:
    """The run folder of a training, and where the training stands.

    Args:
        log: called with each line of metrics, in the main process.
    """

    def __init__(
        self, config: TrainConfig, policy: LearnedPolicy, processes: Processes, log: Callable[[Metrics], None]
    ) -> None:
        self.folder = RunFolder(config.run.folder, main=processes.main)
        self.progress = Progress()
        self._config, self._policy, self._team, self._log = config, policy, processes, log

    def begin(self) -> None:
        """Start a new run.

        Raises:
            UnmaskError: there is one already, or a process does not see it.
        """
        self._main(lambda: self.folder.start(self._config))

    def abandon(self) -> None:
        """Take back a run that never began; what a search for rules has tried stays."""
        self._team.wait()
        if self._team.main:
            self.folder.abandon()

    def resume(self, optimiser: Optimiser, allow_changes: bool) -> bool:
        """Go on from the last checkpoint.

        Returns:
            False if the run was stopped before its first, and starts over.

        Raises:
            UnmaskError: there is no run, or one with other settings.
        """
        progress = self.folder.restore(
            self._policy, optimiser.module, optimiser.optimizer, self._config, allow_changes=allow_changes
        )
        self._team.wait()
        if progress is not None:
            self.progress = progress

        def write() -> None:
            self.folder.forget_after(-1 if progress is None else progress.iteration)
            if progress is None or progress.temperature is None or allow_changes:
                self.folder.forget_stage("temperature")  # it is chosen anew
            if progress is not None:
                self.folder.restore_best()
            if allow_changes:
                self.folder.describe(self._config)

        self._main(write)
        return progress is not None

    def _main(self, write: Callable[[], None]) -> None:
        """Let the main process write, and see that all find the run folder."""
        if self._team.main:
            write()
        self._team.wait()
        if not (self.folder.path / "config.json").exists():
            raise UnmaskError(
                f"Process {self._team.rank} does not see {self.folder.path}: the run folder must lie where all nodes "
                "can read it."
            )

    def write(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Add a line of metrics."""
        line = {"stage": stage, "iteration": self.progress.iteration, **metrics}
        if self._team.main:
            self.folder.write(line)
            self._log(line)

    def keep_completions(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Roll-outs of the coming iteration, for a person to read."""
        if self._team.main and samples:
            self.folder.write_completions([{"iteration": self.progress.iteration + 1, **one} for one in samples])

    def started(self) -> None:
        """Keep the policy that reinforcement learning starts from."""
        if self._team.main:
            self._policy.save(self.folder.path / "start")

    def start(self, model_device: Any) -> StochasticPolicy:
        """That policy."""
        self._team.wait()
        found = load_policy(self.folder.path / "start")
        assert isinstance(found, StochasticPolicy)
        found.place(model_device)
        return found

    def judge(self, metrics: Metrics) -> None:
        """Keep the policy if it is the best on validation prompts; of equal rewards, the faster one."""
        self.write("validation", metrics)
        fallen = fallen_speeds(metrics, self.progress.best_at)
        if fallen:
            self.write("note", {"message": fallen})
        if _better(metrics, self.progress.best, self.progress.best_nfe):
            self.progress.best, self.progress.best_nfe = metrics["reward"], metrics["nfe"]
            self._keep(self._policy)

    def _keep(self, policy: LearnedPolicy) -> None:
        if self._team.main:
            policy.save(self.folder.path / "best")
            write_origin(self.folder.path / "best", self.folder.path / "start")

    def best(self) -> LearnedPolicy:
        """The best policy on validation prompts."""
        found = load_policy(self.folder.path / "best")
        assert isinstance(found, LearnedPolicy)
        return found

    def sharpen(
        self, temperatures: Sequence[float], validate: Callable[[Policy], Metrics], device: Any, stop: Stop = never
    ) -> bool:
        """Divide the best policy's logits by the temperature that is best on validation prompts, if better than 1.

        Learning needs draws that differ, use does not: what a policy has learnt it shows best when it draws more surely
        (tau of arXiv 2512.09106, section 3).

        Returns:
            True if it has been decided now, and a checkpoint is to be saved.

        Raises:
            Stopped: `stop` said so; a resumed run decides.
        """
        if self.progress.temperature is not None or not temperatures:
            return False
        self._team.wait()
        chosen, kept, reached = 1.0, None, (self.progress.best, self.progress.best_nfe)
        for temperature in temperatures:
            if self._team.any(stop()):
                raise Stopped("Stopped before the temperature was chosen; go on with --resume.")
            policy = self.best()
            policy.place(device)
            if not policy.scale_logits(1 / temperature):
                kind = type(policy).type_name
                self.write("note", {"message": f"A {kind} policy cannot divide its logits: run.temperatures is left."})
                break
            metrics = validate(policy)
            self.write("temperature", {"temperature": temperature, **metrics})
            if _better(metrics, *reached):
                chosen, kept, reached = temperature, policy, (metrics["reward"], metrics["nfe"])
        self._team.wait()  # all have read the best one
        self.progress.temperature = chosen
        self.progress.best, self.progress.best_nfe = reached
        if kept is not None:
            self._keep(kept)
        return True

    def save(self, optimiser: Optimiser, counts: Mapping[str, int]) -> None:
        """Write a checkpoint.

        Args:
            counts: of the collapse detector.
        """
        self.progress.counts = dict(counts)
        if self._team.main:
            self.folder.save(self._policy, optimiser.module, optimiser.optimizer, self.progress)
        self._team.wait()


def _better(metrics: Metrics, best: float | None, nfe: float) -> bool:
    """Of equal rewards, the faster one."""
    return best is None or (metrics["reward"], -metrics["nfe"]) > (best, -nfe)
