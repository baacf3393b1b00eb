"""`unmask pretrain`."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from unmask.cli.common import ConfigFile, DryRun, Resume
from unmask.cli.console import Stop, console, duration, ticking
from unmask.decoding.memo import memo_of
from unmask.errors import UnmaskError
from unmask.evaluation.bounds import decode_in_order
from unmask.evaluation.differences import Outcomes
from unmask.evaluation.entries import candidate, decoding, tuned
from unmask.evaluation.evaluate import Setup, evaluate
from unmask.evaluation.intervals import Interval
from unmask.evaluation.summaries import Summary, best, summarise, summary
from unmask.evaluation.tables import setting, table
from unmask.files import write_text
from unmask.models.auto import load_model
from unmask.pretrain import PretrainConfig, PretrainProgress, check_recipe, settled
from unmask.pretrain import pretrain as pretrain_dllm
from unmask.settings import load_settings
from unmask.tasks.auto import load_task
from unmask.tasks.puzzle import Puzzle

TEST_PROMPTS = 1000


def pretrain(
    *,
    settings: Annotated[PretrainConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    test_prompts: Annotated[int, Parameter(help="Held-out prompts for the model card's numbers.")] = TEST_PROMPTS,
    threads: Annotated[int | None, Parameter(help="CPU threads.")] = None,
    resume: Resume = False,
    dry_run: DryRun = False,
) -> None:
    """Train a small dLLM, then measure it for its card."""
    for flag, value in (("--test-prompts", test_prompts), ("--threads", threads)):
        if value is not None and value < 1:
            raise UnmaskError(f"{flag} is {value}: give a whole number from 1.")
    overrides = settings.model_dump(exclude_unset=True) if settings else {}
    resolved = settled(load_settings(PretrainConfig, config, overrides), resume=resume)
    console.print(
        f"Train a dLLM of {resolved.layers} layers, width {resolved.width}, on {', '.join(resolved.tasks)}: "
        f"{resolved.steps} steps of {resolved.batch_size} examples, to {resolved.output}.",
        highlight=False,
    )
    check_recipe(resolved)
    for name in resolved.tasks:
        try:
            load_task(name).examples("test", test_prompts)  # for the card; refused before the training
        except UnmaskError as e:
            raise UnmaskError(f"{e} (--test-prompts, of the model card)") from None
    if dry_run:
        console.print(resolved.model_dump_json(indent=2))
        return
    if threads is not None:
        torch.set_num_threads(threads)
    smooth = 0.0

    with ticking("pretraining", resolved.steps) as tick, Stop() as stop:

        def on_step(progress: PretrainProgress) -> None:
            nonlocal smooth
            smooth = progress.loss if not smooth else 0.99 * smooth + 0.01 * progress.loss
            tick(progress.step, f"loss {smooth:.4f}")

        seconds = pretrain_dllm(resolved, resume=resume, on_step=on_step, stop=stop)
    if not (Path(resolved.output) / "README.md").exists():
        try:
            with Stop() as stop:
                write_card(resolved, seconds, test_prompts, _command(config, overrides, test_prompts), stop)
        except KeyboardInterrupt:
            console.print(f"{resolved.output} is ready but for its card: make that with --resume.", highlight=False)
            raise
    console.print(f"{resolved.output} is ready after {duration(seconds)} of training; its README.md has the numbers.")


def _command(config: str | Path | None, overrides: Mapping[str, Any], test_prompts: int) -> str:
    """That makes the same dLLM and the same card, wherever they are written to."""
    words = ["unmask", "pretrain", *([] if config is None else ["--config", str(config)])]
    for name, value in overrides.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            words += [f"{flag}.{key}={one}" for key, one in value.items()]
        elif name not in ("output", "save_every"):
            words += [f"{flag}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    words += [] if test_prompts == TEST_PROMPTS else [f"--test-prompts={test_prompts}"]
    return shlex.join(words)


CARD_RULES = ("confidence_threshold", "top_k_confidence", "random_order")


def write_card(
    config: PretrainConfig, seconds: float, prompts: int, command: str, stop: Callable[[], bool] = lambda: False
) -> None:
    """Measure the dLLM on held-out prompts and write its model card.

    Args:
        command: that has made the dLLM.

    Raises:
        KeyboardInterrupt: stopped, and no card is written.
    """
    model = load_model(config.output)
    results: list[str] = []
    main_task = max(config.tasks, key=lambda name: config.tasks[name])
    for name in config.tasks:
        task = load_task(name)
        examples = task.examples("test", prompts)
        puzzle = isinstance(task, Puzzle)
        lengths = (task.gen_length,) if puzzle else (config.gen_length, 2 * config.gen_length)
        rule, blocks = "confidence_threshold:threshold=0.9", config.block_length or task.block_length
        blockwise = [candidate(rule, decoding(length, blocks)) for length in lengths]
        full = tuned(decoding(lengths[0], config.block_length), CARD_RULES) if name == main_task else []
        done: list[Summary] = []
        setup = Setup(model, task, examples)
        memo = memo_of(model, [policy for _, policy in [*blockwise, *full]])
        with ticking(f"evaluating on {name}", len(blockwise) + len(full)) as tick:
            for entry, policy in [*blockwise, *full]:
                done.append(summarise(entry, evaluate(setup, entry, policy, memo=memo, stop=stop)))
                tick(len(done), entry.label)
        console.print(table(done, f"{model.name} on {name}, {prompts} test prompts"))
        if isinstance(task, Puzzle) and task.order(examples[0]) is not None:
            known = decode_in_order(model, task, examples, [task.order(one) or [] for one in examples])
            right, nfe = summary(Outcomes(known.correct[None].float(), known.nfe[None].float()))
            results.append(_row(name, f"region {lengths[0]}, in the task's own order", right, nfe.mean))
        for length, found in zip(lengths, done, strict=False):
            how = f"region {length}, blocks of {blocks}, threshold 0.9"
            results.append(_row(name, how, found.accuracy, found.nfe.mean))
        for label in dict.fromkeys(entry.label for entry, _ in full):
            top = best([s for s in done[len(lengths) :] if s.entry.label == label])
            where = f"blocks of {blocks}" if config.block_length else "full diffusion"
            how = f"{where}, best {label} ({setting(top.entry)})"
            results.append(_row(name, how, top.accuracy, top.nfe.mean))
    assert model.network is not None
    parameters = sum(p.numel() for p in model.network.parameters())
    write_text(Path(config.output) / "README.md", card(config, seconds, prompts, parameters, results, command))


GUESSES = (
    " So the model can answer before it has reasoned, and is less sure of any word of\n"
    "its reasoning than of a guess at the answer. That is why decoding in full diffusion by confidence fails here: it\n"
    "guesses first. It is made so on purpose, to show in small what happens to large dLLMs."
)


def _of_full_attention(config: PretrainConfig) -> tuple[str, str, str]:
    """What it is, its shape, its objective."""
    share = f"{100 * config.double_share:.0f}% of the batches"
    longer = f", and {2 * config.gen_length} in {share}" if config.double_share else ""
    return (
        "It is a stock RoBERTa (pre-norm) with a masked-LM head:\n`AutoModelForMaskedLM.from_pretrained` loads it.",
        f"feed-forward {4 * config.width}, learned positions",
        "- LLaDA's objective: l ~ U{1..L} positions masked, cross-entropy weighted L / l, EOS padding trained as ordinary "
        f"tokens\n- region length {config.gen_length}{longer}",
    )


def _of_blocks(config: PretrainConfig) -> tuple[str, str, str]:
    """The same of a block-causal dLLM."""
    return (
        f"It is a stock Qwen3 in SDAR's layout, block-causal in blocks of {config.block_length}:\n"
        "a position sees its own block and those before it, and finished blocks are cached.",
        f"feed-forward {3 * config.width}, rotary positions",
        f"- block diffusion (arXiv 2503.09573): each block of {config.block_length} is noised given the clean ones before "
        "it, l ~ U{1..B} of its positions\n  masked, cross-entropy weighted B / l, all blocks in one pass\n"
        f"- region length {config.gen_length}",
    )


def _row(task: str, how: str, accuracy: Interval, nfe: float) -> str:
    interval = f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"
    return f"| {task} | {how} | {100 * accuracy.mean:.1f} | {interval} | {nfe:.1f} |"


def _purpose(config: PretrainConfig, guesses: str) -> tuple[str, str, str]:
    """An example, what the dLLM is for, and its texts."""
    tasks = [load_task(name) for name in config.tasks]
    own = next((task for task in tasks if isinstance(task, Puzzle)), None)
    shares = ", ".join(
        f"{100 * share / sum(config.tasks.values()):.0f}% {task}" for task, share in config.tasks.items()
    )
    if own is not None:
        told = inspect.getdoc(sys.modules[type(own).__module__]) or ""
        title, example, why = told.split("\n\n", 2)
        curriculum = f"; easier at first, over {100 * config.curriculum:.0f}% of the steps" if config.curriculum else ""
        aligned = "; position embeddings of positions about the same thing begin alike" if config.aligned else ""
        return inspect.cleandoc(example), f"{title}\n\n{why}", shares + curriculum + aligned
    styles = ", ".join(
        f"{100 * share / sum(config.styles.values()):.0f}% {style}" for style, share in config.styles.items()
    )
    lengths = ", ".join(f"{n}: {weight:g}" for n, weight in enumerate(config.lengths, 1))
    what = (
        f"The training text mixes answer styles, as instruction data does: {styles}. A room goes by any of three names "
        f"in the worked\nsteps, and by the first one in the answer.{guesses}"
    )
    return (
        "hall: red blue?   ->   go red veranda, blue lobby. the answer is hall",
        what,
        f"{shares}; steps of a problem -> weight: {lengths}",
    )


def card(
    config: PretrainConfig, seconds: float, prompts: int, parameters: int, results: list[str], command: str
) -> str:
    """The model card."""
    name = Path(config.output).name
    table_rows = "\n".join(results)
    stored = "; weights stored in bfloat16" if config.stored == "bfloat16" else ""
    guesses = GUESSES if config.block_length is None else ""
    example, purpose, texts = _purpose(config, guesses)
    about, shape, objective = _of_full_attention(config) if config.block_length is None else _of_blocks(config)
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: fill-mask
tags: [masked-diffusion, dllm, unmask]
---

# {name}

A masked diffusion language model of {parameters:,} parameters, trained from scratch on procedural problems, small enough
to study decoding on a laptop. {about}

```
{example}
```

## What it is for, and what is built into it

{purpose}

## Recipe

- text: {texts}
- {config.layers} layers, width {config.width}, {config.heads} heads, {shape}
{objective}
- AdamW, lr {config.lr:g} with {config.warmup} warm-up steps, then linear to 0; batch {config.batch_size}; {config.steps} \
steps; {"bf16 autocast" if config.bf16 else "float32"}; seed {config.seed}{stored}
- {duration(seconds)} on CPU; command: `{command}`

## Numbers

{prompts} test prompts (a split by hash that the training text never sees), accuracy with 95% bootstrap intervals. Printed
by the command above.

| task | decoding | accuracy % | 95% interval | NFE |
|---|---|---|---|---|
{table_rows}
"""
