"""`unmask view`: one prompt under several policies, filling in on the same clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from cyclopts import Parameter
from pydantic import Field
from rich.text import Text

from unmask.cli.console import console, errors
from unmask.cli.decode import LONG, SHORT
from unmask.cli.drawing import Run, animate, printable, table, write_steps
from unmask.cli.prompts import as_prompt
from unmask.decoding.blocks import check_block_length, parse_block_length
from unmask.decoding.decode import DecodeOptions, stream
from unmask.decoding.source import encode_example
from unmask.decoding.trajectory import Recorder
from unmask.errors import UnmaskError
from unmask.files import write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.policies.auto import DEFAULT_POLICY, load_policy
from unmask.policies.base import Policy
from unmask.provenance import hardware, versions
from unmask.tasks.base import Example, Split, Task
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
    index: Annotated[int, Ge(0), Field(description="Without a prompt: place of the task's prompt, from 0.")] = 0
    split: Annotated[
        Split | None, Field(description="Of the task (default: test; all rows where a task has one file).")
    ] = None
    gen_length: Annotated[
        int | None,
        Ge(1),
        Field(description="Positions to generate (default: the task's; of a prompt as unmask decode has it)."),
    ] = None
    block_length: Annotated[
        str | None,
        Field(
            description="Semi-autoregressive block, or adaptive:default=32,threshold=0.3,delimiters=[.] "
            "(default: full diffusion)."
        ),
    ] = None
    temperature: Annotated[float, Ge(0), Field(description="Of the tokens; 0 takes the likeliest.")] = 0.0
    seed: Annotated[int, Field(description="Of tokens that are drawn and policies that draw.")] = 0
    max_steps: Annotated[int | None, Ge(1), Field(description="Forward passes at most (default: gen_length).")] = None
    stop_at_eos: Annotated[bool, Field(description="End once the text and the EOS behind it stand.")] = True
    suppress_eos: Annotated[bool, Field(description="Confidence 0 for EOS behind masked text.")] = False
    colour_by: Annotated[
        Literal["step", "confidence"],
        Field(description="What a token's colour tells: when it was revealed, or how sure the dLLM was."),
    ] = "step"
    speed: Annotated[float, Gt(0), Field(description="Steps a second.")] = 8.0
    html: Annotated[Path | None, Field(description="Write the page here: the same, to step through.")] = None


@dataclass(frozen=True)
class Asked:
    """A prompt, with where it is from unless it was typed."""

    prompt: str
    example: Example | None = None
    task: Task | None = None


def view(
    prompt: Annotated[
        str | None, Parameter(help="Prompt, in quotes (default: the task's test prompt, with its verdict).")
    ] = None,
    /,
    *,
    settings: Annotated[ViewConfig | None, Parameter(name="*")] = None,
) -> None:
    """Watch policies decode a prompt: the text fills in step by step, on one clock.

    Example: unmask view

    Example: unmask view "hall: red blue gold?" --policies house-base-full --policies top_k_confidence:k=1
    """
    wanted = settings or ViewConfig()
    policies = [(name, load_policy(name)) for name in wanted.policies]
    parse_block_length(wanted.block_length)
    if wanted.html is not None:
        _check_page(wanted.html)
    asked = _asked(prompt, wanted)
    length = wanted.gen_length or (asked.task.gen_length if asked.task else None)
    if length is not None:
        _check_block(wanted, length)
    model = wanted.load()
    if errors.is_terminal and wanted.model is not None:
        errors.print(model.summary(), style="bright_black", highlight=False, soft_wrap=True)
    if length is None:
        length = LONG if model.max_length is None or model.max_length >= 4 * LONG else SHORT
    runs = [_decode(model, name, policy, asked, wanted, length) for name, policy in policies]
    if wanted.html is not None:
        _write_page(wanted.html, model, asked, wanted, runs)
    _introduce(asked)
    if console.is_interactive:
        animate(console, runs, wanted.colour_by, wanted.speed)
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
    return Asked(examples[wanted.index].prompt, examples[wanted.index], task)


def _check_block(wanted: ViewConfig, length: int) -> None:
    blocks = parse_block_length(wanted.block_length)
    if isinstance(blocks, int):
        check_block_length(length, blocks)


def _check_page(path: Path) -> None:
    """Refuse, before anything is spent, a page that could not be written."""
    from unmask.evaluation.findings import Findings
    from unmask.evaluation.page import render

    if path.is_dir():
        raise UnmaskError(f"--html {path} is a folder: give the path of a file, such as {path / 'view.html'}.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UnmaskError(f"--html {path} cannot be written: {above} is a file.")
    render(Findings(title="", facts={}, gen_length=1, cells=(), rules=()))  # says what is not installed


def _decode(
    model: MaskedDiffusionModel, name: str, policy: Policy, asked: Asked, wanted: ViewConfig, gen_length: int
) -> Run:
    prompt = asked.prompt
    tokens = (
        encode_example(model, asked.example)
        if asked.example
        else model.encode(as_prompt(prompt, chat=bool(wanted.chat)))
    )
    recorder = Recorder([0])
    options: DecodeOptions = {
        "gen_length": gen_length,
        "block_length": parse_block_length(wanted.block_length),
        "temperature": wanted.temperature,
        "seed": wanted.seed,
        "max_steps": wanted.max_steps,
        "stop_at_eos": wanted.stop_at_eos,
        "suppress_eos": wanted.suppress_eos,
        "callback": recorder,
        "streams": [wanted.index],  # as this prompt draws among the others of its task
    }
    with errors.status(f"decoding with {name}"):
        done = next(stream(model, policy, [tokens], **options))
    correct = None
    if asked.example is not None and asked.task is not None and asked.task.verifiable:
        correct = done.ended != "budget" and asked.task.verify(asked.example, done.text)
    return Run(name, recorder.trajectory(model, prompt, done), correct)


def _introduce(asked: Asked) -> None:
    cut = "…" if len(asked.prompt) > PROMPT_END else ""
    line = Text(cut + printable(asked.prompt[-PROMPT_END:]), style="bold")
    if asked.task is not None and asked.example is not None and asked.task.verifiable:
        line.append(f"   (gold answer: {_one_line(asked.example.answer)})", style="not bold")
    console.print(line, soft_wrap=True)


def _one_line(text: str, most: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _write_page(path: Path, model: MaskedDiffusionModel, asked: Asked, wanted: ViewConfig, runs: Sequence[Run]) -> None:
    from unmask.evaluation.findings import Findings, Shown
    from unmask.evaluation.page import render

    gen_length = len(runs[0].trajectory.words)
    gold = asked.example.answer if asked.example else ""
    facts = {
        "dLLM": model.name,
        "generation": f"{gen_length} positions, "
        + (f"block length {wanted.block_length}" if wanted.block_length else "full diffusion"),
        "seed": str(wanted.seed),
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "hardware": hardware(model.device),
    }
    if asked.task is not None:
        facts["task"] = f"{asked.task.name}, prompt {wanted.index}"
    findings = Findings(
        title=f"{asked.task.name if asked.task else 'A prompt'} on {model.name}",
        facts=facts,
        gen_length=gen_length,
        cells=(),
        rules=(),
        trajectories=tuple(Shown(run.name, wanted.index, run.correct, gold, run.trajectory) for run in runs),
    )
    write_text(path, render(findings))
