"""`unmask decode`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from unmask.cli.common import watch
from unmask.cli.console import console
from unmask.decoding.decode import generate
from unmask.errors import UnmaskError
from unmask.models.auto import load_model
from unmask.policies.auto import load_policy
from unmask.tasks.auto import load_task


def decode(
    *prompts: Annotated[str, Parameter(help="Prompts, such as 'hall: red blue gold?'; quote each.")],
    model: Annotated[str | None, Parameter(help="dLLM: bundled name, folder or Hub id (default: house-base).")] = None,
    policy: Annotated[
        str | None,
        Parameter(help="Policy: bundled name, folder, or a rule such as confidence_threshold:threshold=0.9."),
    ] = None,
    gen_length: Annotated[
        int | None, Parameter(help="Positions to generate (default: 32, as the bundled tasks).")
    ] = None,
    block_length: Annotated[int | None, Parameter(help="Semi-autoregressive block (default: full diffusion).")] = None,
    batch_size: Annotated[int, Parameter(help="Live rows at most.")] = 32,
    seed: Annotated[int, Parameter(help="Seed of policies that draw.")] = 0,
    suppress_eos: Annotated[bool, Parameter(help="Hold EOS back while text before it is masked.", negative="")] = False,
    steps: Annotated[bool, Parameter(help="Show each decoding step, coloured.", negative="")] = False,
) -> None:
    """Complete prompts with a dLLM, revealing tokens as a policy says.

    Example: unmask decode "hall: red blue gold green?" --steps
    """
    if not prompts:
        raise UnmaskError('No prompt was given: unmask decode "hall: red blue gold?"')
    dllm, rule = load_model(model), load_policy(policy)
    length = load_task().gen_length if gen_length is None else gen_length
    options: dict[str, Any] = {"block_length": block_length, "seed": seed, "suppress_eos": suppress_eos}
    if steps:
        for row, prompt in enumerate(prompts):
            lines, text, nfe = watch(dllm, rule, prompt, gen_length=length, first_row=row, **options)
            console.print(f"\n{prompt}", style="bold", markup=False, highlight=False)
            for line in lines:
                console.print(line)
            console.print(f"{text}    ({nfe} forward passes)", markup=False, highlight=False)
        return
    out = generate(dllm, rule, prompts, gen_length=length, batch_size=batch_size, **options)
    for prompt, text, nfe in zip(prompts, out.texts, out.nfe.tolist(), strict=True):
        console.print(f"{prompt}  ->  {text}    ({nfe} forward passes)", markup=False, highlight=False, soft_wrap=True)
