"""`unmask decode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmask.cli.common import DecodeFlags, Resume, Seed, launched, note_default_policy, watch
from unmask.cli.console import console, errors
from unmask.cli.parquet import ENDING as PARQUET
from unmask.cli.parquet import ParquetPrompts
from unmask.cli.prompts import (
    Job,
    Prompts,
    as_prompt,
    decode_all,
    from_arguments,
    read_prompts,
    refuse_to_overwrite,
)
from unmask.cli.speed import SpeedFlags, at_speed
from unmask.decoding.generate import generate
from unmask.decoding.options import DecodeConfig
from unmask.errors import UnmaskError
from unmask.files import check_file
from unmask.models.base import MaskedDiffusionModel, Message
from unmask.models.config import ModelConfig
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.provenance import versions
from unmask.rl.processes import Processes


def decode(
    *prompts: Annotated[str, Parameter(help="Prompts, such as 'hall: red blue gold?'; quote each.")],
    input: Annotated[
        str | None,
        Parameter(
            help="JSONL or Parquet file of prompts, or - for JSONL on stdin; other columns are kept.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    output: Annotated[Path | None, Parameter(help="JSONL or Parquet file to write (default: stdout).")] = None,
    resume: Resume = False,
    column: Annotated[str, Parameter(help="Column of the input that holds the prompt.")] = "prompt",
    policy: Annotated[
        str | None,
        Parameter(
            help="Policy: bundled name, folder, or a rule such as confidence_threshold:threshold=0.9; "
            "' | max_reveal:n=4' and the like wrap it."
        ),
    ] = None,
    decoding: Annotated[DecodeFlags | None, Parameter(name="*")] = None,
    speeds: Annotated[SpeedFlags | None, Parameter(name="*")] = None,
    seed: Seed = 0,
    jsonl: Annotated[bool, Parameter(help="Print JSONL for prompts given as arguments too.", negative="")] = False,
    steps: Annotated[bool, Parameter(help="Show each decoding step, coloured.", negative="")] = False,
    chat: Annotated[
        bool, Parameter(help="Each prompt is a user's message: use the dLLM's chat template.", negative="")
    ] = False,
    dllm: Annotated[ModelConfig | None, Parameter(name="*")] = None,
) -> None:
    """Complete prompts with a dLLM, revealing tokens as a policy says."""
    processes = launched()
    with processes.together():
        _check_arguments(prompts, input, output, resume=resume, steps=steps, jsonl=jsonl, processes=processes)
        wanted, config = dllm or ModelConfig(), decoding or DecodeConfig()
        source = _open(prompts, input, output, column)
        model, rule = wanted.load(processes.device if wanted.device_map is None else None), load_policy(policy)
        config = at_speed(config.model_copy(update={"gen_length": config.region(model=model)}), speeds, rule, model)
        if policy is None:
            note_default_policy(wanted.model, "--policy")
        if errors.is_terminal and wanted.model is not None:
            errors.print(model.summary(), style="bright_black", highlight=False, soft_wrap=True)
        if input is None and output is None and not jsonl:
            texts = [as_prompt(text, chat) for text in prompts]
            (_show_steps if steps else _show_texts)(model, rule, texts, config, seed)
            return
        settings = {
            "model": model.name,
            **wanted.model_dump(exclude_defaults=True, exclude={"model"}),
            "chat": chat,
            "policy": {"type": rule.type_name, **rule.config()},
            **config.model_dump(mode="json", exclude={"batch_size"}),
            "seed": seed,
            "policy_name": policy,
            "versions": versions(),
        }
        decode_all(Job(model, rule, source, chat, config, seed, settings), output, processes)


def _open(prompts: Sequence[str], input: str | None, output: Path | None, column: str) -> Prompts:
    """
    Raises:
        UnmaskError: the input cannot be read; it is Parquet and the output is not, or the other way round.
    """
    parquet = input is not None and Path(input).suffix == PARQUET
    if parquet and (output is None or output.suffix != PARQUET):
        raise UnmaskError(f"--input {input} is Parquet: give an --output that ends in {PARQUET}, too.")
    if output is not None and output.suffix == PARQUET and not parquet:
        raise UnmaskError(f"--output {output} is Parquet: give an --input that ends in {PARQUET}, too.")
    if input is None:
        return from_arguments(prompts)
    return ParquetPrompts(input, column) if parquet else read_prompts(input, column)


def _check_arguments(
    prompts: Sequence[str],
    input: str | None,
    output: Path | None,
    *,
    resume: bool,
    steps: bool,
    jsonl: bool,
    processes: Processes,
) -> None:
    """
    Raises:
        UnmaskError: arguments that do not go together; an output that holds something.
    """
    if input is None and not prompts:
        raise UnmaskError('No prompt was given: unmask decode "hall: red blue gold?", or --input prompts.jsonl.')
    if input is not None and prompts:
        raise UnmaskError("Give prompts as arguments or by --input, not both.")
    if resume and output is None:
        raise UnmaskError("--resume needs --output: what goes to stdout is not kept.")
    if processes.size > 1 and (output is None or input in (None, "-")):
        raise UnmaskError(f"{processes.size} processes share the prompts of a file: give --input and --output.")
    if input is not None and output is not None and Path(input).resolve() == output.resolve():
        raise UnmaskError(f"--output {output} is the input: give another --output.")
    if input is not None and steps:
        raise UnmaskError("--steps shows prompts given as arguments: leave out --input.")
    if steps and (output is not None or jsonl):
        raise UnmaskError("--steps shows what --output and --jsonl do not keep: leave out one of them.")
    if output is not None:
        check_file(output, "--output")
    if output is not None and not resume and processes.main:
        refuse_to_overwrite(output)


Texts = Sequence[str | list[Message]]


def _show_texts(model: MaskedDiffusionModel, policy: Policy, prompts: Texts, config: DecodeConfig, seed: int) -> None:
    for done in generate(model, policy, prompts, config, seed=seed):
        line = f"{_text_of(prompts[done.index])}  ->  {done.text}    ({done.nfe} forward passes)"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show_steps(model: MaskedDiffusionModel, policy: Policy, prompts: Texts, config: DecodeConfig, seed: int) -> None:
    for index, prompt in enumerate(prompts):
        lines, done = watch(model, policy, prompt, config, seed=seed, stream=index)
        console.print(f"\n{_text_of(prompt)}", style="bold", markup=False, highlight=False)
        for line in lines:
            console.print(line, soft_wrap=True)
        console.print(f"{done.text}    ({done.nfe} forward passes)", markup=False, highlight=False)


def _text_of(prompt: str | list[Message]) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
