"""`unmask train` and `unmask clone`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator
from cyclopts import Parameter

from unmask.cli.common import ConfigFile, DryRun, Resume, validator
from unmask.cli.console import Stop, Ticker, console, errors, ticking
from unmask.decoding.blocks import check_block_length
from unmask.errors import UnmaskError
from unmask.files import write_text
from unmask.models.auto import dtype_of, parameter_count
from unmask.rl.config import CloneConfig, TrainConfig
from unmask.rl.plan import plan
from unmask.rl.processes import Processes
from unmask.rl.rewards import load_reward
from unmask.rl.run import Metrics, read_metrics
from unmask.rl.trainer import Trainer
from unmask.settings import load_settings

AllowChanges = Annotated[bool, Parameter(help="Resume with settings that have changed since.", negative="")]


def train(
    *,
    settings: Annotated[TrainConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Resume = False,
    allow_changes: AllowChanges = False,
    dry_run: DryRun = False,
) -> None:
    """Train an unmasking policy on a dLLM and a task with GRPO.

    Example: unmask train --config configs/train/house-full.toml --run runs/mine --alpha 3
    """
    overrides = settings.model_dump(exclude_unset=True) if settings else {}
    _run(load_settings(TrainConfig, config, overrides), resume, allow_changes, dry_run)


def clone(
    *,
    settings: Annotated[CloneConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Fit a policy to a rule's decisions, without reinforcement learning.

    Example: unmask clone --clone-from best:confidence_threshold --alpha 3 --run runs/clone
    """
    overrides = settings.model_dump(exclude_unset=True) if settings else {}
    asked = load_settings(CloneConfig, config, overrides)
    if not asked.clones:
        raise UnmaskError("Nothing to clone: set clone_from to a rule, such as confidence_threshold:threshold=0.9.")
    _run(TrainConfig(**asked.model_dump(exclude_unset=True), iterations=0), resume, False, dry_run)


def _run(config: TrainConfig, resume: bool, allow_changes: bool, dry_run: bool) -> None:
    accelerator = Accelerator(log_with=list(_installed(config)) or None, project_dir=config.run)
    if not accelerator.is_main_process:
        console.quiet = errors.quiet = True
    if dry_run:
        _describe_costs(config, accelerator.num_processes)
        return
    team = Processes(accelerator)
    task = config.load_task()
    examples = task.examples("validation", config.validation_prompts)
    task.prepare()
    model = config.load(None if config.device_map else accelerator.device)
    console.print(model.summary(), highlight=False, soft_wrap=True)
    gen_length = config.gen_length or task.gen_length
    validate = validator(
        model,
        task,
        examples,
        gen_length=gen_length,
        block_length=config.block_length,
        reward=load_reward(config.reward, config.alpha),
        batch_size=config.batch_size,
        limit=config.max_prompt_length,
        long=config.long_prompts,
        team=team,
    )
    console.print(describe(config, model.name, task.name, gen_length), highlight=False)
    with (
        ticking("training", max(config.iterations, 1)) as tick,
        Stop() as stop,
        _tracking(accelerator, config) as track,
    ):

        def log(metrics: Metrics) -> None:
            show(metrics, tick)
            track(metrics)

        trainer = Trainer(config, model, task, validate, log, team, tick.stage)
        policy = trainer.run(resume=resume, allow_changes=allow_changes, stop=stop)
    if policy is None:
        console.print(f"Stopped at iteration {trainer.progress.iteration}; go on with --resume.", highlight=False)
        return
    if team.main:
        write_text(Path(config.run) / "best" / "README.md", card(config, model.name, task.name, gen_length))
    console.print(
        f"The best policy is in {config.run}/best (validation reward {trainer.progress.best:.3f}).", highlight=False
    )


def _installed(config: TrainConfig) -> tuple[str, ...]:
    """The trackers asked for.

    Raises:
        UnmaskError: one is not installed.
    """
    for name in config.trackers:
        if find_spec(name) is None:
            raise UnmaskError(
                f"The tracker {name!r} is not installed: pip install {name}, or leave it out of trackers."
            )
    return config.trackers


@contextmanager
def _tracking(accelerator: Accelerator, config: TrainConfig) -> Iterator[Callable[[Metrics], None]]:
    """Send numbers to the trackers, under stage/name, by iteration."""
    if not config.trackers:
        yield lambda metrics: None
        return
    flat = {key: value if isinstance(value, int | float | str) else str(value) for key, value in config}
    accelerator.init_trackers("unmask", config=flat)

    def track(metrics: Metrics) -> None:
        numbers = {f"{metrics['stage']}/{key}": float(v) for key, v in metrics.items() if isinstance(v, int | float)}
        accelerator.log(numbers, step=metrics["iteration"])

    try:
        yield track
    finally:
        accelerator.end_training()


def describe(config: TrainConfig, model: str, task: str, gen_length: int) -> str:
    """What a training run is about to do, in two lines."""
    where = "full diffusion" if config.block_length is None else f"blocks of {config.block_length}"
    warm = f"From {config.init or 'fresh weights'}" + (f", clone {config.clone_from}" if config.clones else "")
    steered = f" + {len(config.experts)} experts" if config.experts else ""
    then = (
        f", then {config.iterations} iterations of GRPO, {config.prompts} prompts x {config.group_size} roll-outs"
        f"{steered} each"
        if config.iterations
        else ""
    )
    return (
        f"A policy for {model} on {task}: {where}, {gen_length} positions, {config.reward} reward, "
        f"alpha {config.alpha:g}.\n{warm}{then}; run folder {config.run}."
    )


def _describe_costs(config: TrainConfig, processes: int) -> None:
    """The resolved config, the batch arithmetic, and what it will cost at most. Loads neither weights nor data."""
    if config.gen_length is None:
        task = config.load_task()
        gen_length, task_name = task.gen_length, task.name
    else:
        gen_length, task_name = config.gen_length, config.task or "+".join(config.tasks) or "the default task"
    block_length = check_block_length(gen_length, config.block_length)
    model = config.model or "the default dLLM"
    count, hidden_size = parameter_count(config.model)
    p = plan(config, gen_length, processes, hidden_size)
    console.print_json(config.model_dump_json())
    say: Callable[[str], None] = lambda line: console.print(line, highlight=False, soft_wrap=True)  # noqa: E731
    say(describe(config, model, task_name, gen_length))
    members = config.group_size + len(config.experts)
    say(
        f"Batch: {config.prompts} prompts x ({config.group_size} roll-outs + {len(config.experts)} experts) = {p.rows} "
        f"rows an iteration ({members} a group), on {processes} process(es) at most {p.rows_here} each, {p.live} live "
        f"at once; blocks of {block_length}. {config.inner_iterations} optimiser steps a batch, {p.updates} in all, "
        f"scored {config.update_batch_size} decoding steps at a time. Each prompt is used {p.epochs:.2f} times."
    )
    say(
        f"dLLM forward passes (rows): {p.most_passes:,} if every roll-out spends its {gen_length} steps, "
        f"{p.most_passes // 4:,} at a quarter of them; validations {p.validation_passes:,} at most. One pass of a row "
        f"spans prompt + {gen_length} positions."
    )
    if count is None:
        weights = f"the dLLM's weights (the config.json of {model} cannot be read here, so their size is not known)"
    else:
        dtype = dtype_of(config.dtype)
        dtypes = [torch.bfloat16, torch.float32] if isinstance(dtype, str) else [dtype]  # as saved: not known here
        sizes = " or ".join(f"{_bytes(count * d.itemsize)} in {str(d).removeprefix('torch.')}" for d in dtypes)
        weights = f"{sizes} for the dLLM's {count:,} weights"
    say(
        f"Memory of a process, about: {weights}; its activations for {p.live} rows; {_bytes(p.recorded_bytes)} at most "
        f"for recorded steps; {_bytes(p.update_bytes)} for the policy's update ({p.policy_parameters:,} weights)."
    )


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


def card(config: TrainConfig, model: str, task: str, gen_length: int) -> str:
    """The model card of a trained policy."""
    validations = [m for m in read_metrics(Path(config.run) / "metrics.jsonl") if m["stage"] == "validation"]
    reached = max(validations, key=lambda m: m["reward"])
    block = "" if config.block_length is None else f", block_length={config.block_length}"
    where = "full diffusion" if config.block_length is None else f"blocks of {config.block_length}"
    start = f"`{config.init}`" if config.init else "fresh weights"
    start += f", fitted to `{config.clone_from}` in blocks" if config.clones else ""
    done = max(line["iteration"] for line in read_metrics(Path(config.run) / "metrics.jsonl"))
    steered = f" and {len(config.experts)} expert(s)" if config.experts else ""
    learnt = (
        f"""{done} iterations of GRPO, {config.prompts} prompts x {config.group_size} roll-outs{steered}
each, learning rate {config.lr:g}, {config.reward} reward, alpha {config.alpha:g}."""
        if config.iterations
        else "No reinforcement learning followed."
    )
    return f"""---
license: apache-2.0
library_name: unmask
tags: [masked-diffusion, dllm, unmasking-policy]
---

# {Path(config.run).name}

An unmasking policy for the dLLM `{model}` in {where}: one transformer block over the dLLM's confidences
(arXiv 2512.09106). Trained on `{task}`, region {gen_length}, seed {config.seed}, starting from
{start}.
{learnt}
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
        tick.restart()
        console.print(
            f"cloned {metrics['steps']} steps of {metrics['rule']} in blocks of {metrics['block_length']} in "
            f"{metrics['seconds']:.0f} s (it is right on {metrics['expert_correct']:.0%}), loss {metrics['loss']:.3f}",
            highlight=False,
        )
    elif metrics["stage"] in ("collapse", "note"):
        errors.print(metrics["message"], style="yellow", highlight=False)
    else:
        console.print(
            f"validation at {metrics['iteration']:>3}: reward {metrics['reward']:.3f}, "
            f"correct {metrics['correct']:.1%}, NFE {metrics['nfe']:.1f}",
            highlight=False,
        )
