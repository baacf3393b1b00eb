"""Tasks of the lm-evaluation-harness, and what its requests cost."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from unmask.errors import UnmaskError

GROUP_FILE = re.compile(r"^group:", re.MULTILINE)


@dataclass(frozen=True)
class Spent:
    """What one request took.

    Attributes:
        task: that it belongs to.
        doc_id: of its document in the task.
        gen_length: positions of its region.
        nfe: forward passes while it was live, those behind a stop string too.
        tokens: revealed up to the end of the text: what is behind a stop string or EOS does not count.
        ended: as in `unmask.Completion`.
    """

    task: str | None
    doc_id: int | None
    gen_length: int
    nfe: int
    tokens: int
    ended: str

    @property
    def tpf(self) -> float:
        """Tokens per forward pass."""
        return self.tokens / self.nfe


def means_of(spent: Sequence[Spent]) -> dict[str, Any]:
    """What requests cost, on average."""
    n = len(spent)
    return {
        "requests": n,
        "gen_length": sorted({one.gen_length for one in spent}),
        "nfe": sum(one.nfe for one in spent) / n if n else None,
        "tpf": sum(one.tpf for one in spent) / n if n else None,
        "tokens": sum(one.tokens for one in spent) / n if n else None,
        "out_of_steps": sum(one.ended == "budget" for one in spent),
    }


def add_spent(samples: Mapping[str, Sequence[dict[str, Any]]], spent: Sequence[Spent]) -> None:
    """Put ``nfe`` and ``tpf`` into the samples of each task, as means over a document's requests."""
    of_document = defaultdict[tuple[str | None, int | None], list[Spent]](list)
    for one in spent:
        of_document[one.task, one.doc_id].append(one)
    for task, each in samples.items():
        for sample in each:
            means = means_of(of_document[task, sample["doc_id"]])
            sample |= {"nfe": means["nfe"], "tpf": means["tpf"]}


def load_tasks(names: Sequence[str], include_path: str | Path | None = None) -> list[Any]:
    """The harness's tasks and groups.

    Raises:
        UnmaskError: none of this name, or one that cannot be loaded; with the nearest names.
    """
    files = [name for name in names if name.endswith((".yaml", ".yml"))]
    for name in files:
        if not Path(name).is_file():
            raise UnmaskError(f"No task file at {name}: give a YAML file, or the name of a task.")
        if GROUP_FILE.search(Path(name).read_text(encoding="utf-8")):  # which the harness takes by name alone
            raise UnmaskError(f"{name} is the file of a group: give the group's name, and include_path for its folder.")
    if include_path is not None and not Path(include_path).is_dir():
        raise UnmaskError(f"No folder of tasks at {include_path}: give one with task files (.yaml).")
    # The harness reads all its task files for seconds, which a file can do without.
    manager = TaskManager(include_path=include_path, include_defaults=len(files) < len(names))
    built: list[Any] = []
    for name in names:
        found = [name] if name in files else manager.match_tasks([name])
        if not found:
            close = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`lm-eval ls tasks` lists them."
            raise UnmaskError(f"Unknown task {name!r}: {hint}")
        for spec in found:
            try:
                loaded = manager.load([spec])
            except Exception as e:  # whatever a task's file, its code and its data raise
                raise UnmaskError(f"Cannot load the task {spec!r} ({reason(e)}): see to its file and data.") from e
            built += list(loaded["groups"].values())[:1] or list(loaded["tasks"].values())
    return built


def reason(error: Exception) -> str:
    """The first line of its message that says something."""
    lines = [line.strip(" .") for line in str(error).splitlines() if re.search(r"\w", line)]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check_task(name: str, task: Any, confirm_run_unsafe_code: bool) -> None:
    """
    Raises:
        UnmaskError: it needs likelihoods, or runs programs and nobody said that it may.
    """
    if task.OUTPUT_TYPE != "generate_until":
        raise no_likelihoods(f"The task {name!r} needs")
    if getattr(task, "UNSAFE_CODE", False) and not confirm_run_unsafe_code:
        raise UnmaskError(
            f"The task {name!r} runs code that the dLLM wrote, without a sandbox: "
            "confirm_run_unsafe_code (--confirm-run-unsafe-code) if this machine may."
        )


def no_likelihoods(need: str) -> UnmaskError:
    """What is said to those who ask for them."""
    return UnmaskError(f"{need} likelihoods, which a dLLM decoded by a policy does not give: use generate_until tasks.")


@contextmanager
def outside_of_git() -> Iterator[None]:
    """Keep the harness from asking git for a commit where there is no repository: it would print git's complaint."""
    here = Path.cwd()
    if any((folder / ".git").exists() for folder in (here, *here.parents)):
        yield
        return
    asks = evaluator.get_git_commit_hash
    evaluator.get_git_commit_hash = lambda: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash = asks
