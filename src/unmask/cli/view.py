"""`unmask view`: one prompt under several policies, filling in on the same clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from cyclopts import Parameter
from pydantic import Field
from rich.text import Text

from unmask.cli.common import DecodeFlags, Seed, note_default_policy
from unmask.cli.console import console, errors
from unmask.cli.drawing import Run, animate, printable, table, write_steps
from unmask.cli.prompts import as_prompt
from unmask.decoding.blocks import AdaptiveBlocks, check_block_length
from unmask.decoding.decode import stream
from unmask.decoding.options import DecodeConfig
from unmask.decoding.source import encode_example
from unmask.decoding.trajectory import Recorder
from unmask.errors import UnmaskError
from unmask.files import check_page, write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.policies.auto import DEFAULT_POLICY, load_policy
from unmask.policies.base import Policy
from unmask.provenance import hardware, versions
from unmask.tasks.base import Example, Split, Task, verdicts
from unmask.tasks.config import TaskConfig

PROMPT_END = 600  # characters shown of a longer prompt


class ViewConfig(ModelConfig, TaskConfig):
    """What to decode, and how to show it."""

    policies: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Policies: bundled names, folders, or rules such as confidence_threshold:threshold=0.9; "
            "' | max_reveal:n=4' and the like wrap them.",
        ),
    ] = (DEFAULT_POLICY, "confidence_threshold:threshold=0.9")
    index: Annotated[
        int, Ge(0), Le(99_999), Field(description="Without a prompt: index of the task's prompt, from 0.")
    ] = 0
    split: Annotated[
        Split | None, Field(description="Of the task (default: test; all rows where a task has one file).")
    ] = None
    colour_by: Annotated[
        Literal["step", "confidence"],
        Field(description="What a token's colour tells: when it was revealed, or how sure the dLLM was."),
    ] = "step"
    steps_per_second: Annotated[float, Gt(0), Field(description="How fast it is shown.")] = 8.0
    html: Annotated[Path | None, Field(description="Write the page here: the same, to step through.")] = None


class ViewFlags(DecodeFlags):
    """How to decode one prompt."""

    batch_size: Annotated[int, Parameter(parse=False)] = 1


@dataclass(frozen=True)
class Asked:
    """A prompt, with where it is from unless it was typed.

    Attributes:
        index: among the task's prompts; 0 if it was typed.
    """

    prompt: str
    index: int = 0
    example: Example | None = None
    task: Task | None = None


def view(
    prompt: Annotated[
        str | None, Parameter(help="Prompt, in quotes (default: the task's test prompt, with its verdict).")
    ] = None,
    /,
    *,
    settings: Annotated[ViewConfig | None, Parameter(name="*")] = None,
    decoding: Annotated[ViewFlags | None, Parameter(name="*")] = None,
    seed: Seed = 0,
) -> None:
    """Watch policies decode a prompt: the text fills in step by step, on one clock."""
    wanted, config = settings or ViewConfig(), decoding or ViewFlags()
    policies = [(name, load_policy(name)) for name in wanted.policies]
    if decoding is not None and decoding.speed is not None and not any(policy.needs.speed for _, policy in policies):
        raise UnmaskError("None of these policies has a speed to choose: leave out --speed.")
    if wanted.html is not None:
        _check_page(wanted.html)
    asked = _asked(prompt, wanted)
    if config.gen_length is not None or asked.task is not None:  # else the dLLM has a say
        _check_blocks(config, config.region(asked.task))
    model = wanted.load()
    if "policies" not in wanted.model_fields_set:
        note_default_policy(wanted.model, "--policies")
    if errors.is_terminal and wanted.model is not None:
        errors.print(model.summary(), style="bright_black", highlight=False, soft_wrap=True)
    config = config.model_copy(update={"gen_length": config.region(asked.task, model)})
    runs = [_decode(model, name, policy, asked, wanted, config, seed) for name, policy in policies]
    if wanted.html is not None:
        _write_page(wanted.html, model, asked, config, seed, runs)
    _introduce(asked)
    if console.is_interactive:
        animate(console, runs, wanted.colour_by, wanted.steps_per_second)
    else:
        write_steps(console, runs)
    console.print()
    console.print(table(runs))
    if wanted.html is not None:
        console.print(f"Page: {wanted.html}", markup=False, highlight=False, soft_wrap=True)


def _asked(prompt: str | None, wanted: ViewConfig) -> Asked:
    """
    Raises:
        UnmaskError: a prompt and a task; no such prompt in the task.
    """
    given = wanted.model_fields_set & ({*TaskConfig.model_fields, "index", "split"} - {"chat"})
    if prompt is not None and given:
        flag = min(given).replace("_", "-")
        raise UnmaskError(f"Give a prompt or --{flag}, which is for the prompts of a task, not both.")
    if prompt is not None:
        return Asked(prompt)
    task = wanted.load_task()
    split = wanted.split or (None if wanted.task_path or wanted.task_paths else "test")
    examples = task.examples(split, wanted.index + 1)
    if len(examples) <= wanted.index:
        raise UnmaskError(
            f"--index {wanted.index} is past the end: the task {task.name!r} has {len(examples)} prompts"
            f"{f' in its {split} split' if split else ''}, counted from 0."
        )
    if task.verifiable:
        task.prepare()
    example = examples[wanted.index]
    return Asked(example.prompt, wanted.index, example, task)


def _check_blocks(config: DecodeConfig, gen_length: int) -> None:
    if not isinstance(config.block_length, AdaptiveBlocks):
        check_block_length(gen_length, config.block_length)


def _check_page(path: Path) -> None:
    """Refuse, before anything is spent, a page that could not be written."""
    from unmask.evaluation.findings import Findings
    from unmask.evaluation.page import render

    check_page(path, "--html")
    render(Findings(title="", facts={}, gen_length=1, cells=(), rules=()))  # says what is not installed


def _decode(
    model: MaskedDiffusionModel,
    name: str,
    policy: Policy,
    asked: Asked,
    wanted: ViewConfig,
    config: DecodeConfig,
    seed: int,
) -> Run:
    example, prompt = asked.example, as_prompt(asked.prompt, chat=bool(wanted.chat))
    tokens = encode_example(model, example) if example else model.encode(prompt)
    recorder = Recorder([0])
    config = config if policy.needs.speed else config.model_copy(update={"speed": None})
    streams = [asked.index]  # as this prompt draws among the others of its task
    with errors.status(f"decoding with {name}"):
        (batch,) = stream(model, policy, [tokens], config, seed=seed, streams=streams, callback=recorder)
        (done,) = batch.completions()
    correct = None
    if example is not None and asked.task is not None and asked.task.verifiable:
        (correct,) = verdicts(asked.task, [example], [done.text], [done.ended != "budget"])
    return Run(name, recorder.trajectory(model, asked.prompt, done), correct)


def _introduce(asked: Asked) -> None:
    cut = "…" if len(asked.prompt) > PROMPT_END else ""
    line = Text(cut + printable(asked.prompt[-PROMPT_END:]), style="bold")
    if asked.task is not None and asked.example is not None and asked.task.verifiable:
        line.append(f"   (gold answer: {_one_line(asked.example.answer)})", style="not bold")
    console.print(line, soft_wrap=True)


def _one_line(text: str, most: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _write_page(
    path: Path, model: MaskedDiffusionModel, asked: Asked, config: DecodeConfig, seed: int, runs: Sequence[Run]
) -> None:
    from unmask.evaluation.findings import Findings, ShownTrajectory
    from unmask.evaluation.page import render

    gold = asked.example.answer if asked.example else ""
    block_length = config.model_dump()["block_length"]
    facts = {
        "dLLM": model.name,
        "generation": f"{config.gen_length} positions, "
        + (f"block length {block_length}" if block_length else "full diffusion"),
        "seed": str(seed),
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "hardware": hardware(model.device),
    }
    if asked.task is not None:
        facts["task"] = f"{asked.task.name}, prompt {asked.index}"
    shown = tuple(ShownTrajectory(run.name, asked.index, run.correct, gold, run.trajectory) for run in runs)
    findings = Findings(
        title=f"{asked.task.name if asked.task else 'A prompt'} on {model.name}",
        facts=facts,
        gen_length=config.region(),
        cells=(),
        rules=(),
        trajectories=shown,
    )
    write_text(path, render(findings))
