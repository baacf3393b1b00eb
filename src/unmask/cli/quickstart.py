"""`unmask quickstart`: tune a policy for every speed on the bundled dLLM, and see it decode, in minutes on a laptop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from cyclopts import Parameter
from pydantic import Field
from rich.text import Text

from unmask.cli.common import ConfigFile, DryRun, watch
from unmask.cli.console import console
from unmask.cli.drawing import verdict
from unmask.cli.tune import run_tuning, tuning
from unmask.cli.tuned import Tuned, closing
from unmask.errors import Stopped
from unmask.evaluation.entries import Entry
from unmask.models.auto import load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.settings import Output, Settings, load_settings
from unmask.tasks.auto import load_task
from unmask.tasks.base import Task, verdicts

SHOWN = (0, 4, 7)  # of the speeds that are compared


class QuickstartConfig(Settings):
    """The quick start's settings; all others are those of `unmask tune`."""

    run: Annotated[Output, Field(description="Folder for everything it writes.")] = "runs/quickstart"
    seed: Annotated[int, Field(description="Seed of the policy's weights, prompts and actions.")] = 0
    iterations: Annotated[int, Ge(1), Field(description="GRPO iterations.")] = 120
    prompts: Annotated[int, Ge(2), Field(description="Held-out prompts, and as many for the calibration.")] = 400


def quickstart(
    *,
    settings: Annotated[QuickstartConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Tune a policy for every speed on the bundled dLLM, compare it with every rule, and watch it decode."""
    resolved = load_settings(QuickstartConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    folder = fresh_folder(Path(resolved.run))
    model, task = load_model(), load_task()
    introduce(model, task, resolved.iterations, folder)
    if dry_run:
        return
    own = {"folder": str(folder), "seed": resolved.seed, "iterations": resolved.iterations}
    asked = tuning(None, {"run": own})
    try:
        made = run_tuning(asked, resolved.prompts, resolved.prompts, resume=False)
    except (Stopped, KeyboardInterrupt):
        go_on(resolved, folder)
        sys.exit(130)
    console.rule("4. See it decode", align="left")
    show_example(made, model, task)
    closing(made, asked)


def go_on(settings: QuickstartConfig, folder: Path) -> None:
    """Say how a stopped quick start goes on."""
    prompts = settings.prompts
    console.print(
        f"The quick start goes on as: unmask tune --run {folder} --seed {settings.seed} --iterations "
        f"{settings.iterations} --calibration-prompts {prompts} --held-out-prompts {prompts} --resume",
        highlight=False,
        soft_wrap=True,
    )


def fresh_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    folder = folder if folder.name else folder.absolute()  # the current one has no name to count on from
    candidates = (folder.with_name(f"{folder.name}-{i}") if i > 1 else folder for i in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def introduce(model: MaskedDiffusionModel, task: Task, iterations: int, folder: Path) -> None:
    """Say what is about to happen."""
    example = task.examples("train", 1)[0]
    console.print(
        f"{model.name} is a small masked diffusion language model. It fills {task.gen_length} masked "
        f"positions in any order; which ones to reveal at each forward pass is the unmasking policy's choice. "
        f"The task is {task.name}:\n\n    {example.prompt}  ->  ... the answer is {example.answer}\n\n"
        "It can reason its way to the answer, or guess it; fewer forward passes leave it less time to reason. "
        "This trains one policy for every speed (clone the best rule of each speed, then "
        f"{iterations} iterations of GRPO), measures what each speed takes, compares it with every rule at its best, "
        f"in any blocks, and shows one prompt at three speeds. Results go to {folder}.\n",
        highlight=False,
    )


def show_example(made: Tuned, model: MaskedDiffusionModel, task: Task) -> None:
    """Decode the prompt that tells the speeds apart best: right when slow, wrong when fast."""
    at = [(entry, rows) for entry, rows in made.found.results if entry.kind == "policy"]
    at = [at[i] for i in SHOWN if i < len(at)]
    right = [{row["index"] for row in rows if row["correct"]} for _, rows in at]
    index = min(set.intersection(*right[:-1]) - right[-1] or right[0] - right[-1] or right[0], default=0)
    examples = task.examples("test", made.summaries[0].prompts, seed=0)
    example = examples[index]
    console.print(Text.assemble("\n", (example.prompt, "bold"), f"   (gold answer: {example.answer})"))
    policy = load_policy(made.folder)
    for entry, _ in at:
        lines, done = watch(model, policy, example.prompt, entry.decode, stream=index)  # as it drew in the comparison
        (correct,) = verdicts(task, [example], [done.text], [done.ended != "budget"])
        console.print(Text.assemble(f"\n{_name(entry)}: ", verdict(correct), f", {done.nfe} forward passes"))
        for line in lines:
            console.print(line, soft_wrap=True)
    console.print(Text("\n· masked   ⏹ end of text   green: revealed at this step\n"))


def _name(entry: Entry) -> str:
    return f"speed {entry.decode.speed or 0:.2f}"
