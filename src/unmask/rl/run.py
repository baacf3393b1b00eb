"""A run folder: resolved config and versions, metrics as JSONL, checkpoints that are whole or not there.

    config.json         what was asked for, all defaults filled in
    versions.json       of this package and what it stands on
    metrics.jsonl       a line an event: note, clone, grpo (each iteration), validation, collapse
    start/              the policy that GRPO starts from, a clone as a rule
    best/               the best on validation prompts
    checkpoint-N/       where to go on; only the last is kept

Weights and the optimiser's moments are safetensors, the rest is JSON: nothing is pickled. Random numbers and the place
in the data follow from the seed and the iteration.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.files import write_text, written_whole
from unmask.hub import load_strictly, read_config, read_weights
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.config import TrainConfig

Metrics = dict[str, Any]
# May differ when a run is resumed: results do not hang on them.
FREE = ("run", "trackers", "batch_size", "device_map", "checkpoint_minutes")


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        iteration: GRPO iterations done.
        best, best_nfe: validation reward and forward passes of the best policy; None before the first validation.
        passes: dLLM forward passes (NFE) of training roll-outs so far, cloning included, validation not.
        passes_run: of these, what the dLLM really ran: roll-outs that still agree share theirs.
        counts: of the watchdog.
    """

    iteration: int = 0
    best: float | None = None
    best_nfe: float = 0.0
    passes: int = 0
    passes_run: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class RunFolder:
    """Where a run is kept."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"

    def start(self, config: TrainConfig) -> None:
        """Begin a new run.

        Raises:
            UnmaskError: there is one already.
        """
        if (self.path / "config.json").exists():
            raise UnmaskError(f"The run folder {self.path} exists: pass --resume to go on, or another --run.")
        write_text(self.metrics, "")
        self.describe(config)

    def describe(self, config: TrainConfig) -> None:
        """Write config and versions."""
        names = ("unmask", "torch", "transformers", "accelerate", "safetensors")
        versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
        write_text(self.path / "versions.json", json.dumps(versions, indent=2) + "\n")
        write_text(self.path / "config.json", config.model_dump_json(indent=2) + "\n")

    def write(self, metrics: Metrics) -> None:
        """Add a line of metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def save(self, policy: TransformerPolicy, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write a checkpoint, whole or not at all, then remove the one before."""
        target = self.path / f"checkpoint-{progress.iteration}"
        before = [folder for folder in self._checkpoints() if folder != target]
        with written_whole(target) as draft:
            policy.save(draft / "policy")
            if (self.path / "best").exists():
                shutil.copytree(self.path / "best", draft / "best")
            save_file(_moments(policy, optimizer), draft / "optimizer.safetensors")
            (draft / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
        for folder in before:
            shutil.rmtree(folder)

    def restore(
        self, policy: TransformerPolicy, optimizer: torch.optim.Optimizer, config: TrainConfig | None
    ) -> Progress | None:
        """Load the last checkpoint in place; None if there is none yet.

        Args:
            config: must be that of the run; None takes any.

        Raises:
            UnmaskError: there is no run, its config is another, or the checkpoint is damaged.
        """
        if not (self.path / "config.json").exists():
            raise UnmaskError(f"Nothing to resume in {self.path}: start without --resume.")
        if config is not None:
            self._check(config)
        folders = self._checkpoints()
        if not folders:
            return None
        last = folders[-1]
        try:
            progress = Progress(**json.loads((last / "progress.json").read_text(encoding="utf-8")))
            weights = last / "policy" / "model.safetensors"
            load_strictly(policy, read_weights(weights), str(weights))
            _set_moments(policy, optimizer, read_weights(last / "optimizer.safetensors"))
        except (UnmaskError, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, OSError) as e:
            best = self.path / "best"
            rest = f", or use the best policy so far in {best}" if best.exists() else ""
            raise UnmaskError(f"The checkpoint {last} is damaged ({e}): start another --run{rest}.") from None
        return progress

    def restore_best(self) -> None:
        """Put the checkpoint's best policy back: the one outside may be newer, or lost."""
        kept = self._checkpoints()[-1] / "best"
        if kept.exists():
            with written_whole(self.path / "best") as draft:
                shutil.copytree(kept, draft, dirs_exist_ok=True)

    def _check(self, config: TrainConfig) -> None:
        saved = read_config(self.path)
        asked = json.loads(config.model_dump_json())
        changed = [
            f"{key} = {saved.get(key)!r}, not {value!r}"
            for key, value in asked.items()
            if key not in FREE and saved.get(key) != value
        ]
        if changed:
            raise UnmaskError(
                f"{self.path} was started with {'; '.join(changed)}: resume with the same settings, start another "
                "--run, or pass --allow-changes to go on with the new ones."
            )

    def forget_after(self, iteration: int) -> None:
        """Drop metrics of later iterations, which will come again."""
        kept = [line for line in read_metrics(self.metrics) if line["iteration"] <= iteration]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def _checkpoints(self) -> list[Path]:
        found = [folder for folder in self.path.glob("checkpoint-*") if folder.name.partition("-")[2].isdigit()]
        return sorted(found, key=lambda folder: int(folder.name.partition("-")[2]))


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


def _moments(policy: TransformerPolicy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, one tensor a parameter and moment."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in policy.named_parameters()}
    return {
        f"{names[parameter]}/{moment}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for moment, value in state.items()
    }


def _set_moments(policy: TransformerPolicy, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    optimizer.state.clear()
    parameters = dict(policy.named_parameters())
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        place = "cpu" if moment == "step" else parameter.device
        optimizer.state[parameter][moment] = value.to(place)
