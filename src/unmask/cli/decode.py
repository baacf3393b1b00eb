"""`unmask decode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unmask.cli.common import Resume, watch
from unmask.cli.console import console, errors
from unmask.cli.prompts import as_prompt, decode_all, from_arguments, read_prompts, refuse_to_overwrite
from unmask.decoding.blocks import parse_block_length
from unmask.decoding.decode import DecodeOptions, generate
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy
from unmask.provenance import versions

LONG, SHORT = 256, 32  # positions to generate unless told


def decode(
    *prompts: Annotated[str, Parameter(help="Prompts, such as 'hall: red blue gold?'; quote each.")],
    input: Annotated[
        str | None,
        Parameter(help="JSONL file of prompts, or - for stdin; other columns are kept.", allow_leading_hyphen=True),
    ] = None,
    output: Annotated[Path | None, Parameter(help="JSONL file to write (default: stdout).")] = None,
    resume: Resume = False,
    column: Annotated[str, Parameter(help="Column of the input that holds the prompt.")] = "prompt",
    policy: Annotated[
        str | None,
        Parameter(
            help="Policy: bundled name, folder, or a rule such as confidence_threshold:threshold=0.9; "
            "' | max_reveal:n=4' and the like wrap it."
        ),
    ] = None,
    gen_length: Annotated[
        int | None, Parameter(help="Positions to generate (default: 256; 32 for a dLLM of few positions).")
    ] = None,
    block_length: Annotated[
        str | None,
        Parameter(
            help="Semi-autoregressive block, or adaptive:default=32,threshold=0.3,delimiters=[.] "
            "(default: full diffusion)."
        ),
    ] = None,
    batch_size: Annotated[int, Parameter(help="Live rows at most.")] = 32,
    temperature: Annotated[float, Parameter(help="Of the tokens; 0 takes the likeliest.")] = 0.0,
    seed: Annotated[int, Parameter(help="Of tokens that are drawn and policies that draw.")] = 0,
    max_steps: Annotated[int | None, Parameter(help="Forward passes a prompt at most (default: gen_length).")] = None,
    stop_at_eos: Annotated[bool, Parameter(help="End a prompt once its text and the EOS behind it stand.")] = True,
    suppress_eos: Annotated[bool, Parameter(help="Confidence 0 for EOS behind masked text.", negative="")] = False,
    jsonl: Annotated[bool, Parameter(help="Print JSONL for prompts given as arguments too.", negative="")] = False,
    steps: Annotated[bool, Parameter(help="Show each decoding step, coloured.", negative="")] = False,
    chat: Annotated[
        bool, Parameter(help="Each prompt is a user's message: use the dLLM's chat template.", negative="")
    ] = False,
    dllm: Annotated[ModelConfig | None, Parameter(name="*")] = None,
) -> None:
    """Complete prompts with a dLLM, revealing tokens as a policy says.

    Example: unmask decode "hall: red blue gold green?" --steps

    Example: unmask decode --input prompts.jsonl --output out.jsonl --block-length 8
    """
    if input is None and not prompts:
        raise UnmaskError('No prompt was given: unmask decode "hall: red blue gold?", or --input prompts.jsonl.')
    if input is not None and prompts:
        raise UnmaskError("Give prompts as arguments or by --input, not both.")
    if resume and output is None:
        raise UnmaskError("--resume needs --output: what goes to stdout is not kept.")
    if input is not None and output is not None and Path(input).resolve() == output.resolve():
        raise UnmaskError(f"--output {output} is the input: give another --output.")
    if input is not None and steps:
        raise UnmaskError("--steps shows prompts given as arguments: leave out --input.")
    if steps and (output is not None or jsonl):
        raise UnmaskError("--steps shows what --output and --jsonl do not keep: leave out one of them.")
    if output is not None and not resume:
        refuse_to_overwrite(output)
    wanted = dllm or ModelConfig()
    options: DecodeOptions = {
        "gen_length": SHORT if gen_length is None else gen_length,
        "block_length": parse_block_length(block_length),
        "batch_size": batch_size,
        "temperature": temperature,
        "seed": seed,
        "max_steps": max_steps,
        "stop_at_eos": stop_at_eos,
        "suppress_eos": suppress_eos,
    }
    source = from_arguments(prompts) if input is None else read_prompts(input, column)
    model, rule = wanted.load(), load_policy(policy)
    if gen_length is None and (model.max_length is None or model.max_length >= 4 * LONG):
        options["gen_length"] = LONG
    if errors.is_terminal and wanted.model is not None:
        errors.print(model.summary(), style="bright_black", highlight=False, soft_wrap=True)
    if steps:
        _show_steps(model, rule, prompts, chat, options)
    elif input is None and output is None and not jsonl:
        out = generate(model, rule, [as_prompt(text, chat) for text in prompts], **options)  # type: ignore[misc]
        for done in out:
            console.print(
                f"{prompts[done.index]}  ->  {done.text}    ({done.nfe} forward passes)",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    else:
        settings = {
            "model": model.name,
            **wanted.model_dump(exclude_defaults=True, exclude={"model"}),
            "chat": chat,
            "policy": {"type": rule.type_name, **rule.config()},
            **{name: value for name, value in options.items() if name != "batch_size"},
            "block_length": block_length,  # as the user wrote it
            "policy_name": policy,
            "versions": versions(),
        }
        decode_all(model, rule, source, chat, options, settings, output)


def _show_steps(
    model: MaskedDiffusionModel, policy: Policy, prompts: Sequence[str], chat: bool, options: DecodeOptions
) -> None:
    settings: dict[str, Any] = {name: value for name, value in options.items() if name != "batch_size"}
    for row, prompt in enumerate(prompts):
        lines, text, nfe = watch(model, policy, as_prompt(prompt, chat), streams=[row], **settings)
        console.print(f"\n{prompt}", style="bold", markup=False, highlight=False)
        for line in lines:
            console.print(line, soft_wrap=True)
        console.print(f"{text}    ({nfe} forward passes)", markup=False, highlight=False)
