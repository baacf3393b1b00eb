"""`unmask quickstart`: train a policy, compare it, and see the difference, in minutes on a laptop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from cyclopts import Parameter
from pydantic import Field

from unmask.cli.common import ConfigFile, DryRun, draw, watch
from unmask.cli.comparison import run
from unmask.cli.console import Stop, console, duration, ticking
from unmask.cli.train import show
from unmask.decoding.blocks import check_block_length
from unmask.decoding.session import Totals
from unmask.errors import Stopped
from unmask.evaluation.comparison import Comparison, ComparisonResult
from unmask.evaluation.differences import paired_difference
from unmask.evaluation.entries import Candidate, Entry, candidate, clone_of, decoding, is_full, tuned
from unmask.evaluation.evaluate import Setup
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary, best, frontier, outcomes, summarise
from unmask.evaluation.tables import blocks, setting, table
from unmask.files import write_text
from unmask.models.auto import load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.rl.config import TrainConfig
from unmask.rl.prompts import fitting
from unmask.rl.run import Metrics
from unmask.rl.trainer import Trainer
from unmask.rl.validation import validator
from unmask.settings import Output, Settings, load_settings
from unmask.tasks.auto import load_task
from unmask.tasks.base import Task, verdicts

RULES_IN_BLOCKS = ("confidence_threshold", "top_k_confidence")
RULES = (*RULES_IN_BLOCKS, "random_order")


class QuickstartConfig(Settings):
    """The quick start's settings; training ones are those of `unmask train`."""

    run: Annotated[Output, Field(description="Folder for everything it writes.")] = "runs/quickstart"
    seed: Annotated[int, Field(description="Seed of the policy's weights, prompts and actions.")] = 0
    iterations: Annotated[int, Ge(1), Field(description="GRPO iterations.")] = 90
    prompts: Annotated[int, Ge(1), Field(description="Held-out prompts per entry.")] = 400
    block_lengths: Annotated[
        tuple[int, ...], Field(min_length=1, description="Blocks of the semi-autoregressive grid.")
    ] = (4, 8, 16)


def quickstart(
    *,
    settings: Annotated[QuickstartConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Train an unmasking policy on the bundled dLLM, compare it with the heuristics, and watch both decode."""
    started = time.perf_counter()
    resolved = load_settings(QuickstartConfig, config, settings.model_dump(exclude_unset=True) if settings else {})
    folder = fresh_folder(Path(resolved.run))
    task = load_task()
    for block_length in resolved.block_lengths:
        check_block_length(task.gen_length, block_length)
    setup = Setup(load_model(), task, task.examples("test", resolved.prompts, seed=0), trajectories=4)
    run_table = {"folder": str(folder / "train"), "seed": resolved.seed, "iterations": resolved.iterations}
    train_config = TrainConfig.model_validate({"run": run_table, "algorithm": {"scale_advantages": "batch"}})
    introduce(setup.model, task, resolved.iterations, folder)
    if dry_run:
        return
    seconds = {"model": 0.0, "policy": 0.0, "update": 0.0}

    def clock(metrics: Metrics) -> None:
        for stage in seconds:
            seconds[stage] += metrics.get(f"seconds_{stage}", 0.0)

    console.rule("1. Train", align="left")
    try:
        _train(train_config, setup.model, task, clock)
    except Stopped:
        console.print(f"Stopped. What there is of the training is in {folder / 'train'}.")
        return
    train_seconds = time.perf_counter() - started

    console.rule("2. Compare on held-out prompts", align="left")
    totals = Totals()
    shared = {**resolved.model_dump(mode="json"), "model": setup.model.name, "task": task.name}
    comparison = Comparison(setup, folder, {**shared, "gen_length": task.gen_length})
    candidates = _candidates(str(folder / "train" / "best"), task.gen_length, resolved.block_lengths)
    run(comparison, candidates, "comparing", totals=totals, go_on="")
    found = comparison.finish([entry for entry, _ in candidates])
    assert found is not None  # it is the only process
    summaries = [summarise(entry, rows) for entry, rows in found.results]
    verdict = _show(found, summaries)

    console.rule("3. See the difference", align="left")
    _show_example(setup, found, summaries, candidates[0][1])

    total = time.perf_counter() - started
    seconds["model"] += totals.model_seconds
    seconds["policy"] += totals.policy_seconds
    seconds["rest"] = total - sum(seconds.values())
    _show_time(folder, seconds, total, train_seconds)
    took = {"total_seconds": total, "train_seconds": train_seconds, "seconds": seconds}
    told = {"config": resolved.model_dump(), **took, "verdict": verdict, "summaries": [_plain(s) for s in summaries]}
    write_text(folder / "summary.json", json.dumps(told, indent=2) + "\n")


def fresh_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    folder = folder if folder.name else folder.absolute()  # the current one has no name to count on from
    candidates = (folder.with_name(f"{folder.name}-{i}") if i > 1 else folder for i in range(1, 10_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def introduce(model: MaskedDiffusionModel, task: Task, iterations: int, folder: Path) -> None:
    """Say what is about to happen."""
    example = task.examples("train", 1)[0]
    console.print(
        f"[bold]{model.name}[/bold] is a small masked diffusion language model. It fills {task.gen_length} masked "
        f"positions in any order; which ones to reveal at each forward pass is the unmasking policy's choice. "
        f"The task is {task.name}:\n\n    {example.prompt}  ->  ... the answer is {example.answer}\n\n"
        "It can reason its way to the answer, or guess it. Heuristics that may reveal any position guess. "
        f"This trains a policy in full diffusion (clone a rule that decodes in blocks, then {iterations} "
        f"iterations of GRPO), compares it with threshold, top-K and random order and shows one example. "
        f"Results go to {folder}.\n",
        highlight=False,
    )


def _train(config: TrainConfig, model: MaskedDiffusionModel, task: Task, clock: Callable[[Metrics], None]) -> None:
    """Train into the run's best/.

    Raises:
        Stopped: the user asked for it.
    """
    settings = config.algorithm.settings
    prompts, _ = fitting(model, task.examples("validation", config.task.validation_prompts), task.gen_length)
    validate = validator(model, task, prompts, config.decode, settings)
    with ticking("training", config.run.iterations) as tick, Stop() as stop:

        def log(metrics: Metrics) -> None:
            clock(metrics)
            show(metrics, tick)

        Trainer(config, model, task, validate, log, report=tick.stage).run(stop=stop)


def _candidates(trained: str, gen_length: int, block_lengths: Sequence[int]) -> list[Candidate]:
    """The trained policy, its clone, and rules over their grids in full diffusion and in blocks."""
    whole = decoding(gen_length)
    policy = candidate(trained, whole)
    clone = clone_of(trained, policy[0])
    in_blocks = [one for n in block_lengths for one in tuned(decoding(gen_length, n), RULES_IN_BLOCKS)]
    every = [policy, *([clone] if clone else []), *tuned(whole, RULES), *in_blocks]
    return list({entry.key: (entry, made) for entry, made in every}.values())


def _show(found: ComparisonResult, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Tables, plot, and the verdict."""
    full = [s for s in summaries if is_full(s.entry.decode)]
    semi = [s for s in summaries if not is_full(s.entry.decode)]
    console.print(table(full, "Full diffusion (one block as long as the region)"))
    console.print(
        table(frontier(semi), "Blocks: the frontier of threshold and top-k over every setting and block length")
    )
    drawn = draw(summaries, found.folder / "plot", found.title)
    verdict = judge(full[0], [s for s in full if s.entry.kind == "rule"], semi, found)
    for sentence in verdict["sentences"]:
        console.print(f"- {sentence}", highlight=False)
    console.print(f"{drawn} Rows: {found.folder / 'rows.jsonl'}.", highlight=False)
    return verdict


def judge(policy: Summary, full: Sequence[Summary], semi: Sequence[Summary], found: ComparisonResult) -> dict[str, Any]:
    """The policy against the best of the rules tried here, in numbers and in sentences."""
    correct = {entry.key: outcomes(rows).correct for entry, rows in found.results}

    def gap_to(rule: Entry) -> Interval:
        return paired_difference(correct[policy.entry.key], correct[rule.key])

    rule = best(full)
    gap = gap_to(rule.entry)
    equal = [s for s in semi if s.nfe.mean <= policy.nfe.mean]
    sentences = [
        f"full diffusion: the policy answers {100 * policy.accuracy.mean:.1f}% at {policy.nfe.mean:.1f} forward "
        f"passes; the best rule of those tried here ({rule.entry.label}, {setting(rule.entry)}) "
        f"{100 * rule.accuracy.mean:.1f}% at {rule.nfe.mean:.1f}: {100 * gap.mean:+.1f} points (95% interval "
        f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f})."
    ]
    if equal:
        rival = best(equal)
        difference = gap_to(rival.entry)
        sentences.append(
            f"blocks, at no more forward passes than the policy: the best rule tried here ({rival.entry.label}, "
            f"{setting(rival.entry)}, blocks of {blocks(rival.entry)}) answers {100 * rival.accuracy.mean:.1f}% at "
            f"{rival.nfe.mean:.1f}; the policy gains {100 * difference.mean:+.1f} points over it (95% interval "
            f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f})."
        )
    top = best(semi)
    sentences.append(
        f"blocks, at any number of forward passes: {top.entry.label}, {setting(top.entry)}, blocks of "
        f"{blocks(top.entry)} answers {100 * top.accuracy.mean:.1f}% at {top.nfe.mean:.1f}."
    )
    return {"gap": gap.mean, "gap_low": gap.low, "gap_high": gap.high, "sentences": sentences}


def _show_example(setup: Setup, found: ComparisonResult, summaries: Sequence[Summary], policy: Policy) -> None:
    """Decode the first prompt that the best threshold gets wrong and the policy right, under both."""
    full = [s for s in summaries if is_full(s.entry.decode)]
    rule = best([s for s in full if s.entry.policy["type"] == RULES[0]]).entry
    rows = {entry.key: rows for entry, rows in found.results}
    right, wrong = (
        {row["index"] for row in rows[entry.key] if row["seed"] == 0 and row["correct"] == correct}
        for entry, correct in ((full[0].entry, True), (rule, False))
    )
    index = min(right & wrong, default=0)
    example = setup.examples[index]
    console.print(f"\n[bold]{example.prompt}[/bold]   (gold answer: {example.answer})", highlight=False)
    for name, shown, decode in (
        (f"{rule.label}, {setting(rule)}", load_policy(rule.policy), rule.decode),
        ("the learned policy", policy, full[0].entry.decode),
    ):
        config = decode.model_copy(update={"stop_at_eos": True})
        lines, done = watch(setup.model, shown, example.prompt, config, stream=index)  # as it drew in the comparison
        (correct,) = verdicts(setup.task, [example], [done.text], [done.ended != "budget"])
        verdict = "[green]right[/green]" if correct else "[red]wrong[/red]"
        console.print(f"\n{name}: {verdict}, {done.nfe} forward passes", highlight=False)
        for line in lines:
            console.print(line, soft_wrap=True)
    console.print("\n· masked   ⏹ end of text   green: revealed at this step\n", highlight=False)


def _show_time(folder: Path, seconds: dict[str, float], total: float, train_seconds: float) -> None:
    names = {"model": "dLLM forwards", "policy": "policy forwards", "update": "updates", "rest": "the rest"}
    parts = ", ".join(f"{100 * value / total:.0f}% {names[stage]}" for stage, value in seconds.items())
    trained = folder / "train"
    console.rule("Time", align="left")
    console.print(f"{duration(total)} in all ({duration(train_seconds)} to train): {parts}.", highlight=False)
    console.print(f"Your policy: unmask.load_policy('{trained}/best')", highlight=False)
    console.print(f"Against every rule: unmask sweep --policies {trained}/best", highlight=False)
    console.print(f"All of it on one page: unmask report {folder} {trained} -o report.html", highlight=False)


def _plain(summary: Summary) -> dict[str, Any]:
    accuracy, nfe = ({"mean": one.mean, "low": one.low, "high": one.high} for one in (summary.accuracy, summary.nfe))
    counts = {"prompts": summary.prompts, "seeds": summary.seeds}
    return {"entry": summary.entry.columns(), "accuracy": accuracy, "nfe": nfe, **counts}
