"""What several commands do with the library: load, validate, watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from rich.text import Text

from unmask.cli.console import errors
from unmask.decoding.decode import decode
from unmask.errors import UnmaskError
from unmask.evaluation.figures import plot
from unmask.evaluation.summaries import Summary
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.policies.base import Policy
from unmask.policies.transformer import TransformerPolicy
from unmask.rl.prompts import fitting
from unmask.rl.rewards import Reward, correct_by_task
from unmask.rl.rollout import judged
from unmask.rl.run import Metrics
from unmask.rl.team import Team
from unmask.rl.trainer import Validate
from unmask.tasks.base import Example, Task
from unmask.types import Step

ConfigFile = Annotated[str | None, Parameter(help="TOML file with these settings; flags override it.")]
DryRun = Annotated[bool, Parameter(help="Say what would be done, and stop.", negative="")]
Resume = Annotated[bool, Parameter(help="Go on from the last checkpoint.", negative="")]


def validator(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    *,
    gen_length: int,
    block_length: int | None,
    reward: Reward,
    batch_size: int,
    limit: int | None = None,
    long: str = "refuse",
    team: Team | None = None,
) -> Validate:
    """Scores a policy as it would be used: correctness, NFE, and the reward that training raises.

    Args:
        limit, long: as in `unmask.rl.prompts.fitting`.
        team: each process scores its share.
    """
    team = team or Team()
    prompts, note = fitting(model, examples, gen_length, limit, long)
    if note:
        errors.print(f"Validation: {note}", style="yellow", highlight=False)
    mine = team.share(list(enumerate(prompts)))

    def validate(policy: TransformerPolicy) -> Metrics:
        sums, seconds = [0.0] * 3, [0.0] * 3
        verdicts: list[tuple[str, bool]] = []
        if mine:
            out = decode(
                model,
                policy,
                [prompt.tokens for _, prompt in mine],
                streams=[place for place, _ in mine],
                gen_length=gen_length,
                block_length=block_length,
                batch_size=batch_size,
                seed=1,
                stop_at_eos=False,
            )
            outcome = judged(model, task, [prompt.example for _, prompt in mine], out, gen_length)
            verdicts = outcome.by_task()
            sums = [x.sum().item() for x in (reward(outcome), outcome.correct, outcome.nfe)]
            seconds = [out.total_seconds, out.model_seconds, out.policy_seconds]
        earned, correct, nfe = (total / len(prompts) for total in team.total(*sums))
        return {
            "reward": earned,
            "correct": correct,
            "nfe": nfe,
            **correct_by_task(team.gather(verdicts)),
            **dict(zip(("seconds", "seconds_model", "seconds_policy"), seconds, strict=True)),
        }

    return validate


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
