"""`unmask lm-eval`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from unmask.cli.common import Seed, launched
from unmask.cli.console import Ticker, console, errors, ticking
from unmask.decoding.options import CacheKind
from unmask.errors import UnmaskError
from unmask.files import write_text
from unmask.journal import Claim
from unmask.models.config import ModelConfig
from unmask.settings import check_path


def lm_eval(
    *,
    tasks: Annotated[
        list[str],
        Parameter(
            help="Tasks of the harness: names, groups, patterns, or task files.", consume_multiple=True, negative=""
        ),
    ],
    include_path: Annotated[Path | None, Parameter(help="Folder with further task files.")] = None,
    policy: Annotated[
        str | None,
        Parameter(help="Policy: bundled name, folder, or a rule such as confidence_threshold:threshold=0.9."),
    ] = None,
    limit: Annotated[float | None, Parameter(help="Documents of each task, or their share if below 1.")] = None,
    num_fewshot: Annotated[int | None, Parameter(help="Examples in the prompt (default: the task's).")] = None,
    apply_chat_template: Annotated[bool, Parameter(help="Prompts are chats.", negative="")] = False,
    fewshot_as_multiturn: Annotated[bool, Parameter(help="In a chat, each example is a turn of its own.")] = True,
    system_instruction: Annotated[str | None, Parameter(help="What a chat begins with.")] = None,
    gen_length: Annotated[
        int | None, Parameter(help="Positions to generate (default: the task's max_gen_toks, in whole blocks).")
    ] = None,
    block_length: Annotated[
        str | None, Parameter(help="Semi-autoregressive block, or adaptive:default=32 (default: full diffusion).")
    ] = None,
    batch_size: Annotated[int, Parameter(help="Active rows at most.")] = 32,
    temperature: Annotated[float | None, Parameter(help="Of the tokens (default: the task's).")] = None,
    seed: Annotated[Seed, Parameter(help="Of tokens and policies that draw; few-shot examples keep their own.")] = 0,
    stop_at_eos: Annotated[bool, Parameter(help="End a prompt at its EOS (off: NFE as in the paper).")] = True,
    suppress_eos: Annotated[bool, Parameter(help="Confidence 0 for EOS behind masked text.", negative="")] = False,
    speed: Annotated[
        float | None, Parameter(help="Of a policy with a speed: 0 slow and careful, 1 fast (default: 0).")
    ] = None,
    cache: Annotated[
        CacheKind | None,
        Parameter(help="Of keys and values: exact, prefix, dual, adaptive, none (default: a block-causal dLLM's own)."),
    ] = None,
    output: Annotated[str, Parameter(help="Folder for results.json and samples_*.jsonl.")] = "runs/lm-eval",
    log_samples: Annotated[bool, Parameter(help="Write each prompt, text, score, NFE and TPF.", negative="")] = False,
    confirm_run_unsafe_code: Annotated[
        bool, Parameter(help="Let code tasks run what the dLLM wrote, without a sandbox.", negative="")
    ] = False,
    resume: Annotated[bool, Parameter(help="Go on with what a stopped run has answered.", negative="")] = False,
    dllm: Annotated[ModelConfig | None, Parameter(name="*")] = None,
) -> None:
    """Run tasks of the lm-evaluation-harness: its metrics, beside forward passes and tokens per forward pass.

    Example: unmask lm-eval --tasks gsm8k --model GSAI-ML/LLaDA-8B-Instruct --policy runs/mine/best --block-length 32
    """
    check_path(output)
    if confirm_run_unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # read as the harness loads its code tasks
    try:
        import_module("lm_eval")
    except ImportError:
        raise UnmaskError("lm-eval is not installed: pip install 'unmask[eval]'.") from None
    from unmask.integrations.lm_eval import UnmaskLM, evaluate_tasks
    from unmask.integrations.lm_eval_answers import Answered, Answers

    processes, folder, results = launched(), Path(output), None
    claim = partial(Claim, folder, folder / ".lock", "--output") if processes.main else nullcontext
    with processes.together(), claim(), ExitStack() as bar, suppress(Answered):
        answers = Answers(folder, processes, resume=resume)
        config = dllm or ModelConfig()
        ticker: Ticker | None = None

        def on_ended(done: int, total: int) -> None:
            nonlocal ticker
            ticker = ticker or bar.enter_context(ticking("decoding", total, errors))
            ticker(done)
            if done == total:
                bar.close()  # the harness scores

        lm = UnmaskLM(
            config.load(processes.device if config.device_map is None else None),
            policy,
            gen_length=gen_length,
            block_length=block_length,
            batch_size=batch_size,
            temperature=temperature,
            seed=seed,
            stop_at_eos=stop_at_eos,
            suppress_eos=suppress_eos,
            speed=speed,
            cache=cache,
            answers=answers,
            on_ended=on_ended,
        )
        results = evaluate_tasks(
            lm,
            [name for given in tasks for name in ([given] if Path(given).exists() else given.split(",")) if name],
            include_path=include_path,
            limit=limit,
            num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=fewshot_as_multiturn,
            system_instruction=system_instruction,
            log_samples=log_samples,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
        )
        written = _write(results, folder)
        answers.remove()
    if results is not None:
        console.print(_table(results))
        console.print(f"Results: {' and '.join(map(str, written))}.", highlight=False, soft_wrap=True)


def _write(results: dict[str, Any], folder: Path) -> list[Path]:
    from lm_eval.utils import handle_non_serializable

    files = {}
    for task, samples in results.pop("samples", {}).items():
        lines = (json.dumps(sample, default=handle_non_serializable, ensure_ascii=False) + "\n" for sample in samples)
        files[folder / f"samples_{task}.jsonl"] = "".join(lines)
    summary = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False) + "\n"
    files = {folder / "results.json": summary, **files}
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def _table(results: Mapping[str, Any]) -> Table:
    used = results["unmask"]
    policy = " ".join(f"{name}={value}" for name, value in used["policy"].items() if name != "type")
    blocks = f"block_length {used['block_length']}" if used["block_length"] else "full diffusion"
    title = f"{used['model']}, {used['policy']['type']} {policy}, {blocks}".replace(" ,", ",")
    grid = Table(title=title, title_justify="left", header_style="bold")
    for name in ("task", "metric"):
        grid.add_column(name)
    for name in ("shots", "n", "value", "NFE", "TPF"):
        grid.add_column(name, justify="right", no_wrap=True)
    for task, found in {**results["results"], **results.get("groups", {})}.items():
        means = used["tasks"].get(task)
        spent = (f"{means['nfe']:.1f}", f"{means['tpf']:.2f}") if means else ("", "")
        for metric, value in _metrics(found):
            shots, n = results["n-shot"].get(task, ""), found.get("sample_len", "")
            grid.add_row(found.get("alias", task), metric, str(shots), str(n), value, *spent)
    return grid


def _metrics(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """``exact_match (strict-match)`` and ``0.7134 ± 0.0125`` of each metric and filter."""
    for key, value in found.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = found.get(f"{metric}_stderr,{kind}")
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        yield (
            metric if kind == "none" else f"{metric} ({kind})",
            f"{shown} ± {error:.4f}" if isinstance(error, float) else shown,
        )
