"""What several commands do with the library: decoding flags, plots, decoding in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter, Token
from rich.text import Text

from unmask.cli.console import console, errors
from unmask.decoding.blocks import BlockLength
from unmask.decoding.decode import decode
from unmask.decoding.options import DecodeConfig
from unmask.decoding.results import Completion
from unmask.decoding.state import Step
from unmask.errors import UnmaskError
from unmask.evaluation.figures import plot
from unmask.evaluation.summaries import Summary
from unmask.models.auto import DEFAULT_MODEL
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.auto import DEFAULT_POLICY
from unmask.policies.base import Policy
from unmask.rl.processes import Processes
from unmask.settings import check_seed

Figure = Callable[[Sequence[Summary], Path, str], Sequence[Path]]
ConfigFile = Annotated[str | None, Parameter(help="TOML file with these settings; flags override it.")]
DryRun = Annotated[bool, Parameter(help="Say what would be done, and stop.", negative="")]
Resume = Annotated[bool, Parameter(help="Go on from the last checkpoint.", negative="")]


def note_default_policy(model: str | None, flag: str) -> None:
    """Say so where, for want of a choice, the bundled policy decodes another dLLM than its own."""
    if model not in (None, DEFAULT_MODEL):
        errors.print(
            f"No policy was chosen: {DEFAULT_POLICY} decodes, which was trained on {DEFAULT_MODEL}. Give one trained "
            f"on {model}, or a rule such as factor:factor=1, with {flag}.",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def _in_64_bits(_: Any, seed: int) -> None:
    check_seed(seed)


Seed = Annotated[int, Parameter(help="Of tokens that are drawn and policies that draw.", validator=_in_64_bits)]


def _as_written(_: Any, tokens: Sequence[Token]) -> str:
    return tokens[0].value


class DecodeFlags(DecodeConfig):
    """`DecodeConfig` on the command line, where a block length is one word that the config itself reads."""

    block_length: Annotated[
        BlockLength,
        Parameter(
            accepts_keys=False,
            n_tokens=1,
            converter=_as_written,
            help=DecodeConfig.model_fields["block_length"].description,
        ),
    ] = None


def launched() -> Processes:
    """The processes that share this command; only the first of them speaks."""
    processes = Processes.launched()
    if not processes.main:
        console.quiet = errors.quiet = True
    return processes


def draw(summaries: Sequence[Summary], path: Path, title: str, figure: Figure = plot) -> str:
    """Write the plot and say where it is, or what is missing for it."""
    try:
        png, svg = figure(summaries, path, title)
    except UnmaskError as e:
        return f"No plot: {e}"
    return f"Plot: {png} and {svg.name}."


def watch(
    model: MaskedDiffusionModel,
    policy: Policy,
    prompt: str | list[Message],
    config: DecodeConfig,
    *,
    seed: int = 0,
    stream: int = 0,
) -> tuple[list[Text], Completion]:
    """Decode one prompt and draw each step as a line: new tokens lit, older ones plain, masks as dots.

    Args:
        stream: the prompt's random stream, its index among the prompts of a longer call.

    Returns:
        The lines, and what came out.
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

    out = decode(model, policy, [model.encode(prompt)], config, seed=seed, streams=[stream], callback=show)
    return lines, out[0]
