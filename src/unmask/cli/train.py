"""`unmask train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmask.cli.common import ConfigFile, DryRun, Resume, validator
from unmask.cli.console import Stop, Ticker, console, ticking
from unmask.hub import write_text
from unmask.models.auto import load_model
from unmask.rl.trainer import Metrics, TrainConfig, Trainer, read_metrics
from unmask.settings import load_settings
from unmask.tasks.auto import load_task


def train(
    *,
    settings: Annotated[TrainConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Train an unmasking policy on a dLLM and a task with GRPO.

    The run folder gets config.json, metrics.jsonl, the cloned policy (clone/), the best one on validation prompts
    (best/) and the last checkpoint (last/). Ctrl-C saves and stops; --resume goes on.

    Example: unmask train --config configs/train/house-full.toml --run runs/mine --alpha 3
    """
    overrides = settings.model_dump(exclude_unset=True) if settings else {}
    resolved = load_settings(TrainConfig, config, overrides)
    task = load_task(resolved.task)
    model = load_model(resolved.model)
    gen_length = resolved.gen_length or task.gen_length
    validate = validator(
        model,
        task,
        task.examples("validation", resolved.validation_prompts),
        gen_length=gen_length,
        block_length=resolved.block_length,
        alpha=resolved.alpha,
        batch_size=resolved.batch_size,
    )
    console.print(describe(resolved, model.name, task.name, gen_length), highlight=False)
    if dry_run:
        console.print(resolved.model_dump_json(indent=2))
        return
    with ticking("training", resolved.iterations) as tick, Stop() as stop:
        trainer = Trainer(resolved, model, task, validate, lambda metrics: show(metrics, tick))
        policy = trainer.run(resume=resume, stop=stop)
    if policy is None:
        console.print(f"Stopped at iteration {trainer.iteration}; go on with --resume.")
        return
    write_text(Path(resolved.run) / "best" / "README.md", card(resolved, model.name, task.name, gen_length))
    console.print(f"The best policy is in {resolved.run}/best (validation reward {trainer.best:.3f}).")


def describe(config: TrainConfig, model: str, task: str, gen_length: int) -> str:
    """What a training run is about to do, in two lines."""
    where = "full diffusion" if config.block_length is None else f"blocks of {config.block_length}"
    warm = f"clone {config.clone_from}, then " if config.clones else ""
    return (
        f"Train a policy for {model} on {task}: {where}, {gen_length} positions, alpha {config.alpha:g}.\n"
        f"{warm}{config.iterations} iterations of GRPO, {config.prompts} prompts x {config.group_size} roll-outs each; "
        f"run folder {config.run}."
    )


def card(config: TrainConfig, model: str, task: str, gen_length: int) -> str:
    """The model card of a trained policy."""
    validations = [m for m in read_metrics(Path(config.run) / "metrics.jsonl") if m["stage"] == "validation"]
    reached = max(validations, key=lambda m: m["reward"])
    block = "" if config.block_length is None else f", block_length={config.block_length}"
    where = "full diffusion" if config.block_length is None else f"blocks of {config.block_length}"
    start = f"a clone of `{config.clone_from}` decoded in blocks" if config.clones else "fresh weights"
    return f"""---
license: apache-2.0
library_name: unmask
tags: [masked-diffusion, dllm, unmasking-policy]
---

# {Path(config.run).name}

An unmasking policy for the dLLM `{model}` in {where}: one transformer block over the dLLM's confidences
(arXiv 2512.09106). Trained on `{task}`, region {gen_length}, alpha {config.alpha:g}, starting from
{start}:
{config.iterations} iterations of GRPO, {config.prompts} prompts x {config.group_size} roll-outs each, learning rate
{config.lr:g}, seed {config.seed}.
Kept is the checkpoint that was best on validation prompts, of iteration {reached["iteration"]}:
{100 * reached["correct"]:.1f}% correct at {reached["nfe"]:.1f} forward passes.

```python
model, policy = unmask.load_model("{model}"), unmask.load_policy(...)
out = unmask.generate(model, policy, prompts, gen_length={gen_length}{block})
```
"""


def show(metrics: Metrics, tick: Ticker) -> None:
    """One stage's metrics, on the progress bar or as a line."""
    if metrics["stage"] == "grpo":
        note = f"reward {metrics['reward']:.3f}  correct {metrics['correct']:4.0%}  NFE {metrics['nfe']:4.1f}"
        tick(metrics["iteration"], note)
    elif metrics["stage"] == "clone":
        console.print(
            f"cloned {metrics['steps']} steps in {metrics['seconds']:.0f} s (the rule is right on "
            f"{metrics['expert_correct']:.0%}), loss {metrics['loss']:.3f}",
            highlight=False,
        )
    else:
        console.print(
            f"validation at {metrics['iteration']:>3}: reward {metrics['reward']:.3f}, "
            f"correct {metrics['correct']:.1%}, NFE {metrics['nfe']:.1f}",
            highlight=False,
        )
