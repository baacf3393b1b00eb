"""`unmask eval`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from accelerate import Accelerator
from annotated_types import Ge
from cyclopts import Parameter
from pydantic import Field

from unmask.cli.common import ConfigFile, DryRun, draw
from unmask.cli.console import Stop, console, errors, ticking
from unmask.decoding.blocks import check_block_length, parse_block_length
from unmask.errors import UnmaskError
from unmask.evaluation.evaluate import Cell, Row, summarise
from unmask.evaluation.evaluate import evaluate as evaluate_cell
from unmask.evaluation.report import table
from unmask.evaluation.store import RowStore
from unmask.evaluation.sweep import heuristic_grid
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.rl.team import Team
from unmask.settings import load_settings
from unmask.tasks.base import Example, Split, Task
from unmask.tasks.config import TaskConfig

# May differ where results are added to a folder: of what is wanted, or without a say in a row.
FREE = (
    "output",
    "policies",
    "heuristics",
    "seeds",
    "block_lengths",
    "stop_at_eos",
    "suppress_eos",
    "batch_size",
    "device_map",
)


class EvalConfig(ModelConfig, TaskConfig):
    """A comparison of policies on one dLLM and one task."""

    output: Annotated[str, Field(description="Folder for rows.jsonl, plot.png and plot.svg.")] = "runs/eval"
    policies: Annotated[
        tuple[str, ...],
        Field(description="Policies: names, folders, or rules such as confidence_threshold:threshold=0.9."),
    ] = ()
    heuristics: Annotated[bool, Field(description="Add every heuristic over its grid of settings.")] = False
    split: Annotated[
        Split | None, Field(description="Split of the prompts (default: test; all rows where a task has one file).")
    ] = None
    prompts: Annotated[int, Ge(1), Field(description="Prompts.")] = 500
    seeds: Annotated[int, Ge(1), Field(description="Seeds of policies that draw.")] = 3
    gen_length: Annotated[int | None, Ge(1), Field(description="Region length (default: the task's).")] = None
    block_lengths: Annotated[
        tuple[int | str, ...],
        Field(description="Block lengths, or adaptive:default=32,delimiters=[.]; default: full diffusion."),
    ] = ()
    stop_at_eos: Annotated[bool, Field(description="End a prompt at its EOS (off: NFE as in the paper).")] = False
    suppress_eos: Annotated[bool, Field(description="Confidence 0 for EOS behind masked text.")] = False
    batch_size: Annotated[int, Ge(1), Field(description="Live rows at most.")] = 32


def evaluate(
    *,
    settings: Annotated[EvalConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Add what is missing to the output folder.", negative="")] = False,
    dry_run: DryRun = False,
) -> None:
    """Compare policies: accuracy against forward passes (NFE), with 95% intervals.

    Prints a table, writes one JSONL row a prompt and seed, and a plot as PNG and SVG.

    Example: unmask eval --policies house-base-full --heuristics --block-lengths 32 --block-lengths 8
    """
    resolved = load_settings(EvalConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    if not resolved.policies and not resolved.heuristics:
        raise UnmaskError("Nothing to evaluate: give --policies, or --heuristics for the whole grid.")
    team = Team(Accelerator() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None)
    if not team.main:
        console.quiet = errors.quiet = True
    task = resolved.load_task()
    if not task.verifiable:
        raise UnmaskError(
            f"The task {task.name!r} has no verifier, and evaluation needs to know what is correct: pass --verifier."
        )
    gen_length = resolved.gen_length or task.gen_length
    lengths = [_checked(length, gen_length) for length in resolved.block_lengths or (gen_length,)]
    cells = [cell for length in lengths for cell in _cells(resolved, gen_length, length)]
    if dry_run:
        console.print(f"Would evaluate {len(cells)} cells on {resolved.prompts} prompts of {task.name}:")
        for cell, _ in cells:
            console.print(f"  {cell.label}  block_length {cell.block_length}  {dict(cell.policy)}", highlight=False)
        return
    split = resolved.split or (None if resolved.task_path or resolved.task_paths else "test")
    examples = task.examples(split, resolved.prompts)
    task.prepare()
    model = resolved.load(team.device if resolved.device_map is None else None)
    console.print(model.summary(), highlight=False, soft_wrap=True)
    folder = Path(resolved.output)
    shared = resolved.model_dump(mode="json", exclude=set(FREE)) | {"model": model.name, "task": task.name}
    store = RowStore(folder, shared, resume=resume) if team.main else None
    team.wait()
    store = store or RowStore(folder, shared, resume=True, rank=team.rank)
    _fill(store, shared, resolved, model, task, examples, cells, team)
    team.wait()
    if team.main:
        store.finish([cell for cell, _ in cells])
        found = [(cell, store.of(cell, _seeds(cell, resolved), len(examples))) for cell, _ in cells]
        shown = f"{len(examples)} {split} prompts" if split else f"{len(examples)} prompts"
        _show(found, folder, f"{model.name} on {task.name}, {shown}, {gen_length} positions")


def _fill(
    store: RowStore,
    shared: Mapping[str, Any],
    config: EvalConfig,
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    cells: Sequence[tuple[Cell, Policy]],
    team: Team,
) -> None:
    """Evaluate what is missing of this process's prompts."""
    others = {(seed, i) for seed in range(config.seeds) for i in range(len(examples)) if i % team.size != team.rank}
    with ticking("evaluating", len(cells)) as tick, Stop() as stop:
        for number, (cell, policy) in enumerate(cells, 1):
            try:
                evaluate_cell(
                    model,
                    policy,
                    task,
                    examples,
                    cell,
                    seeds=_seeds(cell, config),
                    batch_size=config.batch_size,
                    split=config.split or ("all" if config.task_path or config.task_paths else "test"),
                    context={"config": shared},
                    done=store.done(cell) | others,
                    on_rows=store.append,
                    stop=stop,
                )
            except KeyboardInterrupt:
                errors.print(
                    f"Stopped; rows so far are in {store.path}: go on with --resume.", highlight=False, soft_wrap=True
                )
                raise
            tick(number, cell.label)


def _show(found: Sequence[tuple[Cell, Sequence[Row]]], folder: Path, title: str) -> None:
    """Table, a table for each task of a mixture, plot."""
    summaries = [summarise(cell, rows) for cell, rows in found]
    console.print(table(summaries, title))
    tasks = sorted({row["task"] for _, rows in found for row in rows})
    for name in tasks if len(tasks) > 1 else ():
        of_task = [summarise(cell, [row for row in rows if row["task"] == name]) for cell, rows in found]
        console.print(table(of_task, name))
    console.print(f"{draw(summaries, folder / 'plot', title)} Rows: {folder / 'rows.jsonl'}.", soft_wrap=True)


def _seeds(cell: Cell, config: EvalConfig) -> range:
    return range(config.seeds if cell.draws else 1)


def _checked(block_length: int | str, gen_length: int) -> int | str:
    parsed = parse_block_length(block_length)
    return check_block_length(gen_length, parsed) if isinstance(parsed, int) else block_length


def _cells(config: EvalConfig, gen_length: int, block_length: int | str) -> list[tuple[Cell, Policy]]:
    cells = []
    for name in config.policies:
        policy = load_policy(name)
        cell = cell_of(name, policy, gen_length, block_length, config.suppress_eos, config.stop_at_eos)
        cells.append((cell, policy))
    if config.heuristics:
        grid = heuristic_grid(gen_length, block_length, stop_at_eos=config.stop_at_eos)
        cells += [(cell, load_policy(cell.policy)) for cell in grid]
    return cells


def weights_digest(policy: Policy) -> str:
    """Tells a policy's weights from others under the same name."""
    digest = hashlib.sha256()
    for name, value in sorted((policy.weights() or {}).items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


LABELS = {"confidence_threshold": "threshold", "top_k_confidence": "top-k", "random_order": "random"}


def cell_of(
    name: str,
    policy: Policy,
    gen_length: int,
    block_length: int | str,
    suppress_eos: bool = False,
    stop_at_eos: bool = False,
) -> Cell:
    """The comparison's cell of a policy that the user names."""
    settings = {"type": policy.type_name, **policy.config()}
    if policy.weights() is not None:
        learned = {**settings, "name": name, "weights": weights_digest(policy)}
        return Cell("policy", learned, block_length, gen_length, suppress_eos, True, stop_at_eos)
    label = LABELS.get(policy.type_name, policy.type_name) + (", EOS suppressed" if suppress_eos else "")
    return Cell(label, settings, block_length, gen_length, suppress_eos, policy.draws, stop_at_eos)
