"""`unmask quickstart`: train a policy, compare it, and see the difference, in minutes on a laptop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from cyclopts import Parameter
from pydantic import Field

from unmask.cli.common import ConfigFile, DryRun, draw, validator, watch
from unmask.cli.console import Stop, console, duration, ticking
from unmask.cli.train import show
from unmask.decoding.blocks import check_block_length
from unmask.decoding.results import Decoded
from unmask.evaluation.cells import Cell, Contestant, Region, key_of_cell, tuned, weights_digest
from unmask.evaluation.evaluate import evaluate, write_rows
from unmask.evaluation.intervals import Interval
from unmask.evaluation.pareto import paired_difference
from unmask.evaluation.summaries import Summary, best, frontier, outcomes, summarise
from unmask.evaluation.tables import blocks, setting, table
from unmask.files import write_text
from unmask.models.auto import load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.rl.config import TrainConfig
from unmask.rl.rewards import load_reward
from unmask.rl.run import Metrics
from unmask.rl.trainer import Trainer
from unmask.settings import Settings, load_settings
from unmask.tasks.auto import load_task
from unmask.tasks.base import Example, Task

Rows = list[dict[str, Any]]
RULES_IN_BLOCKS = ("confidence_threshold", "top_k_confidence")
RULES = (*RULES_IN_BLOCKS, "random_order")


class QuickstartConfig(Settings):
    """The quick start's settings; training ones are those of `unmask train`."""

    run: Annotated[str, Field(description="Folder for everything it writes.")] = "runs/quickstart"
    seed: Annotated[int, Field(description="Seed of the policy's weights, prompts and actions.")] = 0
    iterations: Annotated[int, Ge(1), Field(description="GRPO iterations.")] = 90
    prompts: Annotated[int, Ge(1), Field(description="Held-out prompts a cell of the full-diffusion grid.")] = 400
    block_lengths: Annotated[
        tuple[int, ...], Field(min_length=1, description="Blocks of the semi-autoregressive grid.")
    ] = (4, 8, 16)


def quickstart(
    *,
    settings: Annotated[QuickstartConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Train an unmasking policy on the bundled dLLM, compare it with the heuristics, and watch both decode.

    Takes a few minutes on two cores; everything it writes is in the run folder.
    """
    started = time.perf_counter()
    resolved = load_settings(QuickstartConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    folder = fresh_folder(Path(resolved.run))
    task = load_task()
    for block_length in resolved.block_lengths:
        check_block_length(task.gen_length, block_length)
    examples = task.examples("test", resolved.prompts, seed=0)
    model = load_model()
    train_config = TrainConfig(run=str(folder / "train"), seed=resolved.seed, iterations=resolved.iterations)
    introduce(model, task, train_config, folder)
    if dry_run:
        return
    seconds = {"model": 0.0, "policy": 0.0, "update": 0.0}

    def clock(metrics: Metrics) -> None:
        for stage in seconds:
            seconds[stage] += metrics.get(f"seconds_{stage}", 0.0)

    def count(out: Decoded) -> None:
        seconds["model"] += out.model_seconds
        seconds["policy"] += out.policy_seconds

    console.rule("1. Train", align="left")
    policy = _train(train_config, model, task, clock)
    if policy is None:
        console.print(f"Stopped. What there is of the training is in {train_config.run}.")
        return
    train_seconds = time.perf_counter() - started

    console.rule("2. Compare on held-out prompts", align="left")
    summaries, rows = _compare(model, task, examples, policy, resolved, train_config, count)
    write_rows(folder / "rows.jsonl", rows)
    learned, cloned, full, semi = (summaries[key] for key in ("policy", "cloned", "full", "blocks"))
    everything = [*learned, *cloned, *full, *semi]
    console.print(table([*learned, *cloned, *full], "Full diffusion (one block as long as the region)"))
    console.print(
        table(frontier(semi), "Blocks: the frontier of threshold and top-k over every setting and block length")
    )
    title = f"{model.name} on {task.name}: {resolved.prompts} held-out prompts, {task.gen_length} positions"
    drawn = draw(everything, folder / "plot", title)

    verdict = judge(learned[0], full, semi, rows)
    for sentence in verdict["sentences"]:
        console.print(f"- {sentence}", highlight=False)
    console.print(f"{drawn} Rows: {folder / 'rows.jsonl'}.", highlight=False)

    console.rule("3. See the difference", align="left")
    thresholds = [s for s in full if s.cell.label.startswith("threshold")]
    _show_example(model, task, examples, rows, best(thresholds), policy)

    total = time.perf_counter() - started
    seconds["rest"] = total - sum(seconds.values())
    console.rule("Time", align="left")
    parts = ", ".join(f"{100 * value / total:.0f}% {name}" for name, value in _stages(seconds))
    console.print(f"{duration(total)} in all ({duration(train_seconds)} to train): {parts}.", highlight=False)
    console.print(f"Your policy: unmask.load_policy('{train_config.run}/best')", highlight=False)
    console.print("Against every rule: unmask sweep --policies " + f"{train_config.run}/best", highlight=False)
    console.print(f"All of it on one page: unmask report {folder} {train_config.run} -o report.html", highlight=False)
    write_text(
        folder / "summary.json",
        json.dumps(
            {
                "config": resolved.model_dump(),
                "total_seconds": total,
                "train_seconds": train_seconds,
                "seconds": seconds,
                "verdict": verdict,
                "summaries": [asdict(s) for s in everything],
            },
            indent=2,
        )
        + "\n",
    )


def fresh_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    candidates = (folder.with_name(f"{folder.name}-{i}") if i > 1 else folder for i in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def introduce(model: MaskedDiffusionModel, task: Task, config: TrainConfig, folder: Path) -> None:
    """Say what is about to happen."""
    example = task.examples("train", 1)[0]
    console.print(
        f"[bold]{model.name}[/bold] is a small masked diffusion language model. It fills {task.gen_length} masked "
        f"positions in any order; which ones to reveal at each forward pass is the unmasking policy's choice. "
        f"The task is {task.name}:\n\n    {example.prompt}  ->  ... the answer is {example.answer}\n\n"
        "It can reason its way to the answer, or guess it. Heuristics that may reveal any position guess. "
        f"This trains a policy in full diffusion (clone a rule that decodes in blocks, then {config.iterations} "
        f"iterations of GRPO), compares it with threshold, top-K and random order and shows one example. "
        f"Results go to {folder}.\n",
        highlight=False,
    )


def _train(
    config: TrainConfig, model: MaskedDiffusionModel, task: Task, clock: Callable[[Metrics], None]
) -> Policy | None:
    validate = validator(
        model,
        task,
        task.examples("validation", config.validation_prompts),
        gen_length=task.gen_length,
        block_length=None,
        reward=load_reward(config.reward, config.alpha),
        batch_size=config.batch_size,
    )
    with ticking("training", config.iterations) as tick, Stop() as stop:

        def log(metrics: Metrics) -> None:
            clock(metrics)
            show(metrics, tick)

        return Trainer(config, model, task, validate, log, tell=tick.stage).run(stop=stop)


def _compare(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    policy: Policy,
    config: QuickstartConfig,
    train_config: TrainConfig,
    count: Callable[[Decoded], None],
) -> tuple[dict[str, list[Summary]], Rows]:
    """Summaries by group (policy, cloned, full, blocks) and all rows."""
    length = task.gen_length
    clone = load_policy(Path(train_config.run) / "start")
    whole = Region(length, length)
    start = whole.cell("before GRPO", clone, "cloned")
    groups: dict[str, list[Contestant]] = {
        "policy": [(whole.cell("cloned, then GRPO", policy), policy)],
        "cloned": [(replace(start, policy={**start.policy, "of": weights_digest(policy)}), clone)],
        "full": tuned(whole, RULES),
        "blocks": [one for n in config.block_lengths for one in tuned(Region(length, n), RULES_IN_BLOCKS)],
    }
    summaries: dict[str, list[Summary]] = {group: [] for group in groups}
    rows: Rows = []
    with ticking("comparing", sum(map(len, groups.values()))) as tick:
        for group, contestants in groups.items():
            for cell, candidate in contestants:
                seeds = range(3 if group == "policy" else 1)
                found = evaluate(model, candidate, task, examples, cell, seeds=seeds, trajectories=4, on_decoded=count)
                summaries[group].append(summarise(cell, found))
                rows += found
                tick(sum(map(len, summaries.values())), f"{cell.label}, blocks: {blocks(cell)}")
    return summaries, rows


def judge(policy: Summary, full: Sequence[Summary], semi: Sequence[Summary], rows: Rows) -> dict[str, Any]:
    """How the policy stands to the best of the rules tried here, in numbers and in sentences."""
    rule = best(full)
    gap = _gap(policy.cell, rule.cell, rows)
    equal = [s for s in semi if s.nfe.mean <= policy.nfe.mean]
    sentences = [
        f"full diffusion: the policy answers {100 * policy.accuracy.mean:.1f}% at {policy.nfe.mean:.1f} forward "
        f"passes; the best rule of those tried here ({rule.cell.label}, {setting(rule.cell)}) "
        f"{100 * rule.accuracy.mean:.1f}% at {rule.nfe.mean:.1f}: {100 * gap.mean:+.1f} points (95% interval "
        f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f})."
    ]
    if equal:
        rival = best(equal)
        difference = _gap(policy.cell, rival.cell, rows)
        sentences.append(
            f"blocks, at no more forward passes than the policy: the best rule tried here ({rival.cell.label}, "
            f"{setting(rival.cell)}, blocks of {blocks(rival.cell)}) answers {100 * rival.accuracy.mean:.1f}% at "
            f"{rival.nfe.mean:.1f}; the policy stands {100 * difference.mean:+.1f} points to it (95% interval "
            f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f})."
        )
    top = best(semi)
    sentences.append(
        f"blocks, at any number of forward passes: {top.cell.label}, {setting(top.cell)}, blocks of "
        f"{blocks(top.cell)} answers {100 * top.accuracy.mean:.1f}% at {top.nfe.mean:.1f}."
    )
    return {"gap": gap.mean, "gap_low": gap.low, "gap_high": gap.high, "sentences": sentences}


def _gap(a: Cell, b: Cell, rows: Rows) -> Interval:
    """Paired difference in accuracy over the same prompts, with its 95% interval."""
    first, second = (outcomes([row for row in rows if key_of_cell(row) == cell.key]).correct for cell in (a, b))
    return paired_difference(first, second)


def _show_example(
    model: MaskedDiffusionModel,
    task: Task,
    examples: Sequence[Example],
    rows: Rows,
    rule: Summary,
    policy: Policy,
) -> None:
    """Decode the first prompt that the rule gets wrong and the policy right, under both."""
    right = {row["prompt"] for row in rows if row["label"] == "policy" and row["seed"] == 0 and row["correct"]}
    wrong = {
        row["prompt"]
        for row in rows
        if not row["correct"] and all(row[key] == value for key, value in asdict(rule.cell).items())
    }
    index = next((i for i, e in enumerate(examples) if e.prompt in right & wrong), 0)
    example = examples[index]
    heuristic = load_policy(rule.cell.policy)
    console.print(f"\n[bold]{example.prompt}[/bold]   (gold answer: {example.answer})", highlight=False)
    contestants = (
        (f"{rule.cell.label}, {setting(rule.cell)}", heuristic, rule.cell.suppress_eos),
        ("the learned policy", policy, False),
    )
    for name, contestant, suppress in contestants:
        lines, text, nfe = watch(
            model,
            contestant,
            example.prompt,
            gen_length=task.gen_length,
            suppress_eos=suppress,
            streams=[index],  # the random stream it had in the comparison
        )
        verdict = "[green]right[/green]" if task.verify(example, text) else "[red]wrong[/red]"
        console.print(f"\n{name}: {verdict}, {nfe} forward passes", highlight=False)
        for line in lines:
            console.print(line, soft_wrap=True)
    console.print("\n· masked   ⏹ end of text   green: revealed at this step\n", highlight=False)


def _stages(seconds: dict[str, float]) -> list[tuple[str, float]]:
    names = {"model": "dLLM forwards", "policy": "policy forwards", "update": "updates", "rest": "the rest"}
    return [(names[stage], value) for stage, value in seconds.items()]
