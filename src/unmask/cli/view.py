"""`unmask view`: one prompt under several policies, filling in on the same clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from cyclopts import Parameter
from pydantic import Field
from rich import box
from rich.cells import cell_len
from rich.color import Color, blend_rgb
from rich.color_triplet import ColorTriplet
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from unmask.cli.console import console, errors
from unmask.cli.decode import LONG, SHORT
from unmask.cli.prompts import as_prompt
from unmask.decoding.blocks import check_block_length, parse_block_length
from unmask.decoding.decode import DecodeOptions, stream
from unmask.decoding.source import encode_example
from unmask.decoding.trajectory import Recorder, Trajectory
from unmask.errors import UnmaskError
from unmask.hub import write_text
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.policies.auto import DEFAULT_POLICY, load_policy
from unmask.policies.base import Policy
from unmask.tasks.base import Example, Split, Task
from unmask.tasks.config import TaskConfig

PANEL = 70  # columns that a policy gets at least where they stand side by side
PROMPT_END = 600  # characters shown of a longer prompt
ENDED = {"complete": "all revealed", "eos": "at EOS", "budget": "out of steps"}

# From early to late, and from unsure to sure: of a lightness that stands out from black and from white.
EARLY_TO_LATE = ("#4f8ff7", "#12a594", "#8f9b00", "#e5732f", "#d6409f")
UNSURE_TO_SURE = ("#d6409f", "#b08a3e", "#12a594")


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


@dataclass(frozen=True)
class Run:
    """A policy's decoding; `correct` is None where nothing can say."""

    name: str
    trajectory: Trajectory
    correct: bool | None

    @property
    def nfe(self) -> int:
        return self.trajectory.nfe

    def tokens(self, step: int | None = None) -> int:
        """Of the text, revealed in the first `step` passes, or in all."""
        t = self.trajectory
        last = t.nfe if step is None else step
        return sum(0 <= at < last and not end for at, end in zip(t.revealed_at, t.end, strict=True))


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
    line = Text(cut + _printable(asked.prompt[-PROMPT_END:]), style="bold")
    if asked.task is not None and asked.example is not None and asked.task.verifiable:
        line.append(f"   (gold answer: {_one_line(asked.example.answer)})", style="not bold")
    console.print(line, soft_wrap=True)


def _one_line(text: str, most: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


Paint = Callable[[int, float], Color]  # of a token, by the step at which it was revealed and its confidence


def paint(colour_by: str, last: int) -> Paint:
    """Colours by step, from 0 to `last`, or by confidence, from 0 to 1."""
    if colour_by == "confidence":
        return lambda step, confidence: shade(UNSURE_TO_SURE, confidence)
    return lambda step, confidence: shade(EARLY_TO_LATE, step / max(last, 1))


def shade(ramp: Sequence[str], share: float) -> Color:
    """The colour at a share of the ramp's length."""
    stops = [Color.parse(stop).get_truecolor() for stop in ramp]
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    below = min(int(place), len(stops) - 2)
    blended: ColorTriplet = blend_rgb(stops[below], stops[below + 1], place - below)
    return Color.from_triplet(blended)


def region(trajectory: Trajectory, step: int, colour: Paint) -> Text:
    """The generation region after `step` passes.

    What is masked takes as much room as what will stand there, so that nothing moves when it is revealed.
    """
    text = Text()
    t = trajectory
    for word, end, at, sure in zip(t.words, t.end, t.revealed_at, t.confidence, strict=True):
        ends = end and not word
        word = " ⏹" if ends else _printable(word)
        if at < 0 or at >= step:
            text.append(" ·" if at < 0 or ends else _dots(word), style="dim")
            continue
        space = word[: len(word) - len(word.lstrip())]
        text.append(space)
        hue, new = colour(at, sure), at == step - 1
        if new:
            style = Style(color="black", bgcolor=hue, bold=True)
        elif ends:
            style = Style(dim=True)
        else:
            style = Style(color=hue, dim=end, strike=end)  # behind the EOS: decoded, then dropped
        text.append(word[len(space) :], style=style)
    return text


def _dots(word: str) -> str:
    if not word.strip():
        return "·" * max(1, len(word.replace("\n", ""))) + "\n" * word.count("\n")
    return "".join(c if c.isspace() else "·" * cell_len(c) for c in word)


def _printable(word: str) -> str:
    """Without what a terminal would act on."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "\ufffd" for c in word)


def panel(run: Run, step: int, colour: Paint, to: Console, width: int, room: int | None) -> Panel:
    """A policy after `step` passes; of more than `room` lines those around the newest token."""
    lines = list(region(run.trajectory, step, colour).wrap(to, width - 4))
    if room is not None and len(lines) > room:
        lit = [i for i, line in enumerate(lines) if any(_has_colour(span.style) for span in line.spans)]
        new = [i for i in lit if any(_is_new(span.style) for span in lines[i].spans)]
        at = max(new or lit or [0])
        first = min(max(at - room // 2, 0), len(lines) - room)
        lines = lines[first : first + room]
    over = step >= run.nfe
    count = f"forward pass {min(step, run.nfe)} of {run.nfe} · {_tokens(run.tokens(step))}"
    border = "bright_black"
    if over:
        count += {True: " · right", False: " · wrong", None: " · done"}[run.correct]
        border = {True: "green", False: "red", None: "green"}[run.correct]
    return Panel(
        Text("\n").join(lines),
        title=Text(run.name, style="bold default"),
        title_align="left",
        subtitle=Text(count, style="default"),
        subtitle_align="left",
        border_style=border,
        width=width,
    )


def _has_colour(style: str | Style) -> bool:
    return isinstance(style, Style) and style.color is not None


def _is_new(style: str | Style) -> bool:
    return isinstance(style, Style) and style.bgcolor is not None


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def frame(runs: Sequence[Run], step: int, colour_by: str, to: Console, height: int | None = None) -> RenderableType:
    """All policies after `step` passes: side by side where there is room, and no higher than `height`."""
    last = max(run.nfe for run in runs) - 1
    colour = paint(colour_by, last)
    columns = min(len(runs), max(1, to.width // PANEL))
    rows = -(-len(runs) // columns)
    room = None if height is None else max((height - 2) // rows - 2, 1)
    grid = Table.grid()
    panels = [panel(run, step, colour, to, to.width // columns, room) for run in runs]
    for i in range(0, len(panels), columns):
        grid.add_row(*panels[i : i + columns])
    return Group(grid, legend(colour_by, last))


def legend(colour_by: str, last: int) -> Text:
    """What dots, signs and colours mean."""
    colour, cells = paint(colour_by, last), min(last + 1, 24) if colour_by == "step" else 24
    line = Text("· masked   ⏹ end of text   ", style="bright_black")
    line.append("confidence 0 " if colour_by == "confidence" else "revealed at step 1 ")
    for i in range(cells):
        share = i / max(cells - 1, 1)
        line.append("█", Style(color=colour(round(share * last), share)))
    return line.append(" 1" if colour_by == "confidence" else f" {last + 1}" if last else "")


def animate(to: Console, runs: Sequence[Run], colour_by: str, speed: float) -> None:
    """Fill in all texts on one clock; who is finished stays."""
    last = max(run.nfe for run in runs)
    with Live(console=to, auto_refresh=False, vertical_overflow="crop") as live:
        for step in range(last + 1):
            live.update(frame(runs, step, colour_by, to, to.height), refresh=True)
            time.sleep(1 / speed)
        live.update(frame(runs, last + 1, colour_by, to), refresh=True)


def write_steps(to: Console, runs: Sequence[Run]) -> None:
    """A line for each step that revealed something, and the end: for logs and pipes."""
    colour = paint("step", 1)
    for run in runs:
        to.print(f"\n{run.name}", markup=False, highlight=False, soft_wrap=True)
        for step in [*sorted({at for at in run.trajectory.revealed_at if at >= 0}), None]:
            shown = region(run.trajectory, run.nfe if step is None else step + 1, colour).plain
            line = f"{'end' if step is None else step + 1:>3}  {shown.strip().replace(chr(10), '⏎')}"
            to.print(line, markup=False, highlight=False, soft_wrap=True)


def table(runs: Sequence[Run]) -> Table:
    """What each policy took and wrote."""
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    grid.add_column("policy, and what it wrote", overflow="fold")
    for name in ("NFE", "tokens", "tokens\nper NFE"):
        grid.add_column(name, justify="right")
    grid.add_column("ended")
    judged = any(run.correct is not None for run in runs)
    if judged:
        grid.add_column("verdict")
    for run in runs:
        cells: list[RenderableType] = [
            Text.assemble((run.name, "bold"), "\n", _printable(run.trajectory.text)),
            str(run.nfe),
            str(run.tokens()),
            f"{run.tokens() / run.nfe:.1f}",
            ENDED[run.trajectory.ended],
        ]
        if judged:
            cells.append("[green]right" if run.correct else "[red]wrong")
        grid.add_row(*cells)
    return grid


def _write_page(path: Path, model: MaskedDiffusionModel, asked: Asked, wanted: ViewConfig, runs: Sequence[Run]) -> None:
    from unmask.evaluation.evaluate import hardware
    from unmask.evaluation.findings import Findings, Shown
    from unmask.evaluation.page import render

    gen_length = len(runs[0].trajectory.words)
    gold = asked.example.answer if asked.example else ""
    facts = {
        "dLLM": model.name,
        "generation": f"{gen_length} positions, "
        + (f"block length {wanted.block_length}" if wanted.block_length else "full diffusion"),
        "seed": str(wanted.seed),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("unmask", "torch", "transformers")),
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
