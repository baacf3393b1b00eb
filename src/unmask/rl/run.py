"""A run folder: resolved config and versions, metrics as JSONL, checkpoints that are whole or not there.

    config.json         what was asked for, all defaults filled in
    versions.json       of this package and what it stands on
    completions.jsonl   some roll-outs of the iterations before validations: prompt, text, verdict, NFE
    metrics.jsonl       a line per event: note, clone, each iteration under its algorithm's name, validation, collapse,
                        temperature
    start/              the policy that reinforcement learning starts from: by default a behaviour-cloned one
    best/               the best on validation prompts
    checkpoint-N/       where to go on; only the last is kept

Weights and the optimiser's moments are safetensors, the rest is JSON: nothing is pickled. Random numbers and the place
in the data follow from the seed and the iteration.
"""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from safetensors.torch import save_file
from torch import nn

from unmask.checkpoint import read_checkpoint, write_checkpoint
from unmask.errors import UnmaskError
from unmask.files import read_object, write_text, written_whole
from unmask.hub import check_policy_folder, read_weights
from unmask.journal import Claim, Journal, check_begun
from unmask.policies.base import LearnedPolicy
from unmask.provenance import versions
from unmask.rl.config import TrainConfig
from unmask.settings import explain

Metrics = dict[str, Any]
# May differ when a run is resumed: results do not hang on them.
FREE = (
    "run.folder",
    "run.trackers",
    "run.checkpoint_minutes",
    "run.log_completions",
    "decode.batch_size",
    "model.device_map",
)
MEASURED = ("reward", "correct", "nfe", "entropy", "signal")  # numbers, in whatever line they stand
POLICY, OTHERS = "policy.", "algorithm.safetensors"  # prefix of the policy's tensors in what learns; the others' file


@with_config(ConfigDict(extra="forbid"))
@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        iteration: iterations of the algorithm that are done.
        best: validation reward of the best policy; None before the first validation.
        best_nfe: its forward passes.
        passes: dLLM forward passes (NFE) of training roll-outs so far, cloning included, validation not.
        passes_run: of these, what the dLLM really ran: equal rows share theirs.
        counts: of the collapse detector.
        best_at: of a policy with a speed, the highest validation reward at each speed.
        temperature: that the best policy's logits were divided by at the end; None before.
    """

    iteration: Annotated[int, Ge(0)] = 0
    best: float | None = None
    best_nfe: float = 0.0
    passes: int = 0
    passes_run: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    best_at: dict[str, float] = field(default_factory=dict)
    temperature: Annotated[float, Gt(0)] | None = None


class RunFolder:
    """Where a run is kept.

    Args:
        main: this is the process that writes. It claims the folder when it starts or resumes the run, and holds it
            until this object goes.
    """

    def __init__(self, path: str | Path, *, main: bool = True) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.completions = self.path / "completions.jsonl"
        self._main = main
        self._claim: Claim | None = None

    def start(self, config: TrainConfig) -> None:
        """Begin a new run.

        Raises:
            UnmaskError: there is one already, another process is at it, or files of others are in its way.
        """
        self._claim_it()
        for name in ("start", "best"):
            check_policy_folder(self.path / name)
        if (self.path / "config.json").exists():
            raise UnmaskError(f"The run folder {self.path} exists: pass --resume to go on, or another --run.")
        write_text(self.metrics, "")
        self.describe(config)

    def describe(self, config: TrainConfig) -> None:
        """Write config and versions."""
        write_text(self.path / "versions.json", json.dumps(versions(), indent=2) + "\n")
        write_text(self.path / "config.json", config.model_dump_json(indent=2) + "\n")

    def abandon(self) -> None:
        """Remove what `start` wrote, if there is no checkpoint."""
        if not self._checkpoints():
            for name in ("config.json", "versions.json", "metrics.jsonl", "completions.jsonl"):
                (self.path / name).unlink(missing_ok=True)

    def write(self, metrics: Metrics) -> None:
        """Add a line of metrics."""
        Journal(self.metrics).append([metrics])

    def write_completions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add roll-outs, each with its iteration."""
        Journal(self.completions).append(rows)

    def save(
        self, policy: LearnedPolicy, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None:
        """Write a checkpoint, whole or not at all, then remove the one before.

        Args:
            module: all that learns: the policy, or it and what else the algorithm teaches.
        """
        target = self.path / f"checkpoint-{progress.iteration}"
        before = [folder for folder in self._checkpoints() if folder != target]
        with written_whole(target) as draft:
            policy.save(draft / "policy")
            if (self.path / "best").exists():
                shutil.copytree(self.path / "best", draft / "best")
            if module is not policy:
                others = {name: value for name, value in module.state_dict().items() if not name.startswith(POLICY)}
                save_file({name: value.cpu().contiguous() for name, value in others.items()}, draft / OTHERS)
            write_checkpoint(draft, module, optimizer, asdict(progress))
        for folder in before:
            shutil.rmtree(folder)

    def restore(
        self,
        policy: LearnedPolicy,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        *,
        allow_changes: bool = False,
    ) -> Progress | None:
        """Load the last checkpoint in place; None if there is none yet.

        Args:
            config: must be that of the run.
            allow_changes: it need not, as far as the checkpoint's weights fit.

        Raises:
            UnmaskError: there is no run, its config is another, a file is damaged, or another process is at it.
        """
        if not (self.path / "config.json").exists():
            raise UnmaskError(f"Nothing to resume in {self.path}: start without --resume.")
        self._claim_it()
        if not allow_changes:
            wanted, before = by_dots(json.loads(config.model_dump_json())), self._begun_with(config)
            way_out = "pass --allow-changes to go on with the new ones"
            check_begun(self.path, before, wanted, "--run", free=FREE, way_out=way_out)
        folders = self._checkpoints()
        if not folders:
            return None
        if not any(line["stage"] == "validation" for line in read_metrics(self.metrics)):
            raise UnmaskError(f"{self.metrics} lacks what the run logged: put the file back, or start another --run.")
        last = folders[-1]
        try:
            path = last / "policy" / "model.safetensors"
            weights = read_weights(path)
            if module is not policy:
                own = {POLICY + name: value for name, value in weights.items()}
                weights = own | read_weights(last / OTHERS)
            progress = read_checkpoint(last, module, optimizer, weights, path)
            read = TypeAdapter(Progress).validate_python(progress)
            if not progress.keys() >= {"iteration", "passes"}:
                raise ValueError("its progress.json does not say how far the run is")
            return read
        except ValueError as e:  # a progress of other fields or values, too
            changed = self._changed(config)
            if changed:
                raise UnmaskError(
                    f"{self.path} was begun with {changed}, and its checkpoint holds weights of that, which cannot "
                    "change: resume with the same, or start another --run."
                ) from None
            told = f"its progress.json: {explain(e)}" if isinstance(e, ValidationError) else str(e)
            told = told.rstrip(".")
            best = self.path / "best"
            rest = f", or use the best policy so far in {best}" if best.exists() else ""
            raise UnmaskError(f"The checkpoint {last} is damaged ({told}): start another --run{rest}.") from None

    def restore_best(self) -> None:
        """Put the checkpoint's best policy back: the one outside may be newer, or lost.

        One of the same weights stays, with what it was measured to do.
        """
        kept, outside = self._checkpoints()[-1] / "best", self.path / "best"
        weights = [folder / "model.safetensors" for folder in (kept, outside)]
        if kept.exists() and not (
            all(map(Path.exists, weights)) and filecmp.cmp(weights[0], weights[1], shallow=False)
        ):
            with written_whole(self.path / "best") as draft:
                shutil.copytree(kept, draft, dirs_exist_ok=True)

    def forget_after(self, iteration: int) -> None:
        """Drop metrics of later iterations, which will come again."""
        kept = [line for line in read_metrics(self.metrics) if line["iteration"] <= iteration]
        Journal(self.metrics).replace(kept)
        if self.completions.exists():
            samples = Journal(self.completions)
            samples.replace([row for row in samples.rows() if row.get("iteration", 0) <= iteration])

    def forget_stage(self, stage: str) -> None:
        """Drop the metrics of a stage, which will come again."""
        lines = read_metrics(self.metrics)
        kept = [line for line in lines if line["stage"] != stage]
        if len(kept) < len(lines):
            Journal(self.metrics).replace(kept)

    def _claim_it(self) -> None:
        if self._main and self._claim is None:
            self._claim = Claim(self.path, self.path / ".lock", "--run")

    def _checkpoints(self) -> list[Path]:
        found = [folder for folder in self.path.glob("checkpoint-*") if folder.name.partition("-")[2].isdecimal()]
        return sorted(found, key=lambda folder: int(folder.name.partition("-")[2]))

    def _begun_with(self, wanted: TrainConfig) -> dict[str, Any]:
        """The settings it was begun with; those that its version did not have were as the defaults are."""
        tables = read_object(self.path / "config.json", "put the file back, or start another --run")
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise UnmaskError(
                    f"{self.path / 'config.json'} is of no training run ({name} = {table!r}): start another --run."
                )
        usual, before = by_dots(json.loads(wanted.before_all_settings().model_dump_json())), by_dots(tables)
        return {**usual, **before} if _alike(before, wanted) else before

    def _changed(self, wanted: TrainConfig) -> str:
        """Settings of what the weights are of that are not those the run was begun with."""
        now, before = by_dots(json.loads(wanted.model_dump_json())), self._begun_with(wanted)
        keys = [key for key in now if key.startswith(POLICY) and key != "policy.init"] + [
            "algorithm.name",
            "algorithm.speeds",
            "task.also",
        ]
        return "; ".join(
            f"{key} = {before.get(key)!r}, not {now[key]!r}" for key in keys if before.get(key) != now[key]
        )


def _alike(before: Mapping[str, Any], wanted: TrainConfig) -> bool:
    """The same network and algorithm, so that their defaults are known."""
    kinds = {"policy.type": wanted.policy.type, "algorithm.name": wanted.algorithm.name}
    return all(before.get(key) == kind for key, kind in kinds.items())


def read_metrics(path: Path) -> list[Metrics]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out.

    Raises:
        UnmaskError: one is none.
    """
    rows = Journal(path).rows()
    for row in rows:
        if not _is_line(row):
            raise UnmaskError(f"{path} holds {json.dumps(row)[:60]}, which no training run logs: delete the line.")
    return rows


def _is_line(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("stage"), str) or type(row.get("iteration")) is not int:
        return False
    numbers = {key: row[key] for key in MEASURED if key in row}
    whole = row["stage"] != "validation" or len(numbers.keys() & {"reward", "correct", "nfe"}) == 3
    return whole and all(type(value) in (int, float) for value in numbers.values())


def by_dots(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in tables as ``table.setting``."""
    return {f"{table}.{key}": value for table, values in tables.items() for key, value in dict(values).items()}
