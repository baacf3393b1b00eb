"""Decoding in the terminal: texts that fill in on one clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

from unmask.decoding.trajectory import Trajectory

PANEL = 70  # columns that a policy gets at least where they stand side by side
ENDED = {"complete": "all revealed", "eos": "at EOS", "stop": "at a stop string", "budget": "out of steps"}

# From early to late, and from unsure to sure: of a lightness that stands out from black and from white.
EARLY_TO_LATE = ("#4f8ff7", "#12a594", "#8f9b00", "#e5732f", "#d6409f")
UNSURE_TO_SURE = ("#d6409f", "#b08a3e", "#12a594")


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


Paint = Callable[[int, float], Color]  # of a token, by the step at which it was revealed and its confidence


def paint(colour_by: str, last: int) -> Paint:
    """Colours by step, from 0 to `last`, or by confidence, from 0 to 1."""
    if colour_by == "confidence":
        return lambda step, confidence: shade(UNSURE_TO_SURE, confidence)
    return lambda step, confidence: shade(EARLY_TO_LATE, step / max(last, 1))


def shade(ramp: Sequence[str], share: float) -> Color:
    """The colour at a share of the ramp's length."""
    stops = [Color.parse(stop).get_truecolor() for stop in ramp]
    position = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    below = min(int(position), len(stops) - 2)
    blended: ColorTriplet = blend_rgb(stops[below], stops[below + 1], position - below)
    return Color.from_triplet(blended)


def region(trajectory: Trajectory, step: int, colour: Paint) -> Text:
    """The generation region after `step` passes.

    What is masked takes as much room as what will stand there, so that nothing moves when it is revealed.
    """
    text = Text()
    t = trajectory
    for word, end, at, sure in zip(t.words, t.end, t.revealed_at, t.confidence, strict=True):
        ends = end and not word
        word = " ⏹" if ends else printable(word)
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


def printable(word: str) -> str:
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
    """One line per step that revealed something, and the end: for logs and pipes."""
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
            Text.assemble((run.name, "bold"), "\n", printable(run.trajectory.text)),
            str(run.nfe),
            str(run.tokens()),
            f"{run.tokens() / run.nfe:.1f}",
            ENDED[run.trajectory.ended],
        ]
        if judged:
            cells.append(verdict(bool(run.correct)))
        grid.add_row(*cells)
    return grid


def verdict(correct: bool) -> Text:
    """In colour."""
    return Text("right", style="green") if correct else Text("wrong", style="red")
