"""What `unmask eval`, `sweep` and `transfer` share: settings, and a run that can be stopped, resumed and shared."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Field, model_validator

from unmask.cli.bounds import check_bounded, measure_bounds, most_passes_of_bounds
from unmask.cli.common import launched
from unmask.cli.console import Stop, console, errors, ticking
from unmask.decoding.options import SHARED, CacheKind, DecodeConfig, check_text_behind_eos
from unmask.decoding.results import Cost
from unmask.decoding.session import Totals
from unmask.decoding.source import check_prompts, encode_example
from unmask.errors import UnmaskError
from unmask.evaluation.bounds import BOUNDS
from unmask.evaluation.comparison import Comparison, ComparisonResult
from unmask.evaluation.entries import Candidate, decoding
from unmask.evaluation.evaluate import Setup
from unmask.evaluation.tables import setting
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.rl.processes import Processes
from unmask.settings import Output
from unmask.tasks.base import Example, Split, Task
from unmask.tasks.config import TaskConfig
from unmask.tasks.unseen import unseen

SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)


class ComparisonConfig(ModelConfig, TaskConfig):
    """A comparison of policies on one dLLM and one task."""

    output: Annotated[Output, Field(description="Folder for rows.jsonl, plot.png and plot.svg.")] = "runs/eval"
    policies: Annotated[
        tuple[str, ...],
        Field(description="Policies: names, folders, or rules such as confidence_threshold:threshold=0.9."),
    ] = ()
    split: Annotated[
        Split | None, Field(description="Split of the prompts (default: test; all rows where a task has one file).")
    ] = None
    prompts: Annotated[int, Ge(1), Field(description="Prompts.")] = 500
    skip: Annotated[int, Ge(0), Field(description="Prompts of the split to leave out before those.")] = 0
    sample_seed: Annotated[int, Field(description="Which of the split's prompts; 0 in every comparison.")] = 0
    seeds: Annotated[int, Ge(1), Field(description="Seeds of policies that draw.")] = 3
    gen_length: Annotated[int | None, Ge(1), Field(description="Region length (default: the task's).")] = None
    block_lengths: Annotated[
        tuple[int | str, ...],
        Field(description="Block lengths, or adaptive:default=32,delimiters=[.]; default: full diffusion."),
    ] = ()
    speeds: Annotated[
        tuple[Annotated[float, Ge(0), Le(1)], ...],
        Field(description="Of policies with a speed (default: 0, 0.25, 0.5, 0.75 and 1)."),
    ] = ()
    stop_at_eos: Annotated[bool, Field(description="End a prompt at its EOS (off: NFE as in the paper).")] = False
    suppress_eos: Annotated[bool, Field(description="Confidence 0 for EOS behind masked text.")] = False
    text_after_eos: Annotated[
        bool, Field(description="Text goes on behind an EOS, and is judged with it (released code).")
    ] = False
    judge_unfinished: Annotated[
        bool,
        Field(description="An answer with masks left is judged without them (released code); by default it is wrong."),
    ] = False
    max_block_steps: Annotated[
        int | None, Ge(1), Field(description="Forward passes per block at most; what is masked then stays so.")
    ] = None
    batch_size: Annotated[
        int | None, Ge(1), Field(description="Active rows at most (default: 32, of a dLLM below 10M weights 256).")
    ] = None
    cache: Annotated[
        CacheKind | None,
        Field(
            description="Of keys and values: exact (a block-causal dLLM's, its default); prefix, dual, adaptive (of "
            "other dLLMs: what is kept is stale); none."
        ),
    ] = None
    cost: Annotated[
        Cost,
        Field(description="What tables and plots count: forward passes, or the positions they compute (with a cache)."),
    ] = "passes"
    bounds: Annotated[
        bool,
        Field(
            description="Of a puzzle: its known order, the best of 64 random roll-outs, and what revealing together "
            "must cost, in nats of total correlation."
        ),
    ] = False
    trajectories: Annotated[int, Ge(0), Field(description="Prompts whose decoding is kept step by step.")] = 4

    @model_validator(mode="after")
    def _text_behind_an_eos_is_decoded(self) -> ComparisonConfig:
        check_text_behind_eos(self.text_after_eos, self.stop_at_eos)
        return self

    def decodings(self, gen_length: int, block_lengths: Sequence[int | str]) -> list[DecodeConfig]:
        """How entries decode, one for each block length.

        Raises:
            UnmaskError: one that does not divide the region.
        """
        eos = {"suppress_eos": self.suppress_eos, "stop_at_eos": self.stop_at_eos}
        return [decoding(gen_length, length, **eos) for length in block_lengths]

    def at_speeds(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Each candidate; one with a speed at each of the speeds.

        Raises:
            UnmaskError: speeds, and no policy that has one.
        """
        if self.speeds and not any(policy.needs.speed for _, policy in found):
            raise UnmaskError("No policy here has a speed to choose: leave out --speeds.")
        return [
            (replace(entry, decode=entry.decode.model_copy(update={"speed": speed})), policy)
            for entry, policy in found
            for speed in ((self.speeds or SPEEDS) if policy.needs.speed else (entry.decode.speed,))
        ]


# May differ where results are added to a folder: what is wanted, or what has no say in a row.
FREE = {
    "output",
    "policies",
    "seeds",
    "block_lengths",
    "speeds",
    "stop_at_eos",
    "suppress_eos",
    "batch_size",
    "device_map",
    "trajectories",
    "cost",
    "bounds",
}


def verifiable(config: ComparisonConfig) -> Task:
    """The task.

    Raises:
        UnmaskError: it cannot tell what is correct.
    """
    task = config.load_task()
    if not task.verifiable:
        raise UnmaskError(
            f"The task {task.name!r} has no verifier, and evaluation needs to know what is correct: pass --verifier."
        )
    check_bounded(config.bounds, task)
    return task


def plan(config: ComparisonConfig, candidates: Sequence[Candidate], task: Task) -> None:
    """Say what would be done. Of the user's files, the prompts are counted; a data set is not loaded.

    Raises:
        UnmaskError: a file cannot be read.
    """
    prompts = len(_examples(config, task)) if config.from_file else config.prompts
    console.print(f"Would evaluate {len(candidates)} entries on {prompts} prompts of {task.name}:")
    for entry, _ in candidates:
        block_length = entry.columns()["block_length"]
        console.print(f"  {entry.label}  block_length {block_length}  {setting(entry)}", highlight=False)
    if config.bounds:
        most = most_passes_of_bounds(prompts, task.region(config.gen_length))
        console.print(f"And what oracles reach: {most:,} forward passes at most.", highlight=False)


def compare(
    config: ComparisonConfig,
    task: Task,
    gen_length: int,
    candidates: Sequence[Candidate],
    *,
    resume: bool,
    controls: bool = False,
    model: MaskedDiffusionModel | None = None,
    seen: Set[str] = frozenset(),
) -> ComparisonResult | None:
    """Make the rows that are missing, in this process or in all that were launched.

    Args:
        controls: replay the average pace of each learned policy, too.
        model: the dLLM if it is loaded already.
        seen: prompts to leave out.

    Returns:
        None in all processes but the first.

    Raises:
        UnmaskError: the output folder holds results and `resume` is False, or results of something else.
        KeyboardInterrupt: stopped; rows so far are kept.
    """
    processes, bounded = launched(), check_bounded(config.bounds, task)
    setup = _setup(config, task, processes, model, seen)
    if config.chat and not setup.model.has_chat_template:
        raise UnmaskError(f"The tokenizer of the dLLM {setup.model.name!r} has no chat template: leave out --chat.")
    prompts = [encode_example(setup.model, example) for example in setup.examples]
    check_prompts(setup.model, prompts, gen_length)  # refused before anything is written
    shared = config.model_dump(mode="json", include=set(ComparisonConfig.model_fields) - FREE)
    shared |= {"model": setup.model.name, "task": task.name, "gen_length": gen_length}
    begun = resume and any(Path(config.output).glob("rows*.jsonl"))
    fields = ComparisonConfig.model_fields
    usual = {name: fields[name].default for name in shared if name in fields and not fields[name].is_required()}
    comparison = Comparison(
        setup, config.output, shared, seeds=config.seeds, resume=resume, processes=processes, defaults=usual
    )
    if processes.rank == 0 and not begun:
        (Path(config.output) / BOUNDS).unlink(missing_ok=True)  # of rows that someone has deleted
    totals = Totals()
    run(comparison, candidates, "evaluating", totals=totals)
    replays = comparison.replays(candidates) if controls else []
    run(comparison, replays, "controls", totals=totals)
    if processes.size == 1 and totals.passes_run < totals.passes:
        told = f"The dLLM ran {totals.passes_run:,} of {totals.passes:,} forward passes: equal rows share the others."
        console.print(told, highlight=False, soft_wrap=True)
    found = comparison.finish([entry for entry, _ in [*candidates, *replays]])
    if found is None or bounded is None:
        return found
    if not all("correlation" in row for _, rows in found.results for row in rows):
        told = "Rows made without --bounds have no nats: leave out --resume, and give another --output, for those."
        errors.print(told, style="yellow", highlight=False, soft_wrap=True)
    made = measure_bounds(found.folder, setup.model, bounded, setup.examples, setup.active_rows)
    return replace(found, bounds=made)


def _split(config: ComparisonConfig) -> Split | None:
    return config.split or (None if config.from_file else "test")


def _examples(config: ComparisonConfig, task: Task, seen: Set[str] = frozenset()) -> Sequence[Example]:
    split = _split(config)
    examples = unseen(task, split, config.skip + config.prompts, seen, config.sample_seed)[config.skip :]
    if not examples and config.skip:
        raise UnmaskError(
            f"The task {task.name!r} has no prompts behind the first {config.skip} of its {split or 'file'}: lower "
            "--skip."
        )
    if not examples and seen:
        raise UnmaskError(
            f"The task {task.name!r} has no prompts in its {split or 'file'} that had no part in the policy: give "
            "others, or another --split."
        )
    if not examples:
        raise UnmaskError(f"The task {task.name!r} has no prompts in its {split or 'file'}: give another --split.")
    return examples


def _setup(
    config: ComparisonConfig, task: Task, processes: Processes, model: MaskedDiffusionModel | None, seen: Set[str]
) -> Setup:
    examples = _examples(config, task, seen)
    task.prepare()
    if model is None:
        model = config.load(processes.device if config.device_map is None else None)
        console.print(model.summary(), highlight=False, soft_wrap=True)
    decode = config.model_dump(include=set(SHARED))
    named = _split(config) or "all"
    kept = config.trajectories
    return Setup(model, task, examples, named, config.batch_size, kept, decode=decode, correlation=config.bounds)


def run(
    comparison: Comparison,
    candidates: Sequence[Candidate],
    label: str,
    *,
    totals: Totals | None = None,
    go_on: str = ": go on with --resume",
) -> None:
    """`Comparison.run` with progress by rows, and a clean stop.

    Args:
        go_on: what a stopped run is told, behind where its rows are.
    """
    made = 0
    with ticking(label, comparison.missing(candidates)) as tick, Stop() as stop:

        def on_progress(rows: int, name: str) -> None:
            nonlocal made
            made += rows
            tick(made, name)

        try:
            comparison.run(candidates, on_progress=on_progress, totals=totals, stop=stop)
        except KeyboardInterrupt:
            stopped = f"Stopped; rows so far are in {comparison.folder}{go_on}."
            errors.print(stopped, highlight=False, soft_wrap=True)
            raise
        except UnmaskError:
            comparison.abandon()
            raise
