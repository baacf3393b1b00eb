"""What several commands do with the library: load, validate, watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from rich.text import Text

from unmask.decoding.decode import decode
from unmask.decoding.state import Step
from unmask.errors import UnmaskError
from unmask.evaluation.figures import plot
from unmask.evaluation.summaries import Summary
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.base import Policy

ConfigFile = Annotated[str | None, Parameter(help="TOML file with these settings; flags override it.")]
DryRun = Annotated[bool, Parameter(help="Say what would be done, and stop.", negative="")]
Resume = Annotated[bool, Parameter(help="Go on from the last checkpoint.", negative="")]


def draw(summaries: Sequence[Summary], path: Path, title: str) -> str:
    """Write the plot and say where it is, or what is missing for it."""
    try:
        png, svg = plot(summaries, path, title)
    except UnmaskError as e:
        return f"No plot: {e}"
    return f"Plot: {png} and {svg.name}."


def watch(
    model: MaskedDiffusionModel, policy: Policy, prompt: str | list[Message], *, gen_length: int, **options: Any
) -> tuple[list[Text], str, int]:
    """Decode one prompt and draw each step as a line: new tokens lit, older ones plain, masks as dots.

    Returns:
        The lines, the text, the NFE.
    """
    lines: list[Text] = []
    end = int(model.eos_ids[0])

    def show(step: Step) -> None:
        line = Text(f"{int(step.before.step[0]) + 1:>3}  ")
        shown = torch.where(step.action, step.written, step.before.region)[0].tolist()
        masked = (step.before.masked & ~step.action)[0].tolist()
        for token, hidden, fresh in zip(shown, masked, step.action[0].tolist(), strict=True):
            word = "·" if hidden else "⏹" if token == end else str(model.tokenizer.decode([token]))
            style = (
                "bright_black" if hidden else "bold black on green" if fresh else "bright_black" if token == end else ""
            )
            line.append(word, style=style)
            line.append(" ")
        lines.append(line)

    tokens = [model.encode(prompt)]
    out = decode(model, policy, tokens, gen_length=gen_length, callback=show, **options)
    return lines, model.text(out.tokens[0].tolist()), int(out.nfe[0])
