"""`unmask export`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from unmask.cli.common import Seed
from unmask.cli.console import console
from unmask.decoding.options import speeds_of
from unmask.errors import UnmaskError
from unmask.files import written_whole
from unmask.integrations.engine import policy_for
from unmask.integrations.transformers import write_folder
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy

Engine = Literal["transformers", "diffusers", "sglang"]


def export(
    policy: Annotated[str, Parameter(help="Policy: folder of unmask tune or train, bundled name, Hub id, or a rule.")],
    output: Annotated[Path, Parameter(help="Folder to write.")],
    *,
    engine: Annotated[Engine, Parameter(help="Where the policy is to decode.")],
    speed: Annotated[
        float | None, Parameter(help="Of a policy with a speed: 0 slow and careful, 1 fast (default: 0).")
    ] = None,
    seed: Seed = 0,
    gen_length: Annotated[
        int | None, Parameter(help="diffusers: region that the policy decides in (default: each block is one).")
    ] = None,
    block_length: Annotated[
        int | None, Parameter(help="sglang, diffusers: of the dLLM's blocks (default: its family's).")
    ] = None,
    mask_id: Annotated[int | None, Parameter(help="sglang: of the mask token (default: its family's).")] = None,
) -> None:
    """Write what another engine needs to decode by a policy."""
    found = load_policy(policy)
    speeds_of(found.needs, speed, None, 1)
    only = {"gen_length": ("diffusers",), "block_length": ("sglang", "diffusers"), "mask_id": ("sglang",)}
    given = {"gen_length": gen_length, "block_length": block_length, "mask_id": mask_id}
    for name, least in (("gen_length", 1), ("block_length", 1), ("mask_id", 0)):
        value = given[name]
        if value is not None and value < least:
            raise UnmaskError(f"--{name.replace('_', '-')} is {value}: give a whole number from {least}.")
    for name, engines in only.items():
        if given[name] is not None and engine not in engines:
            raise UnmaskError(f"--{name.replace('_', '-')} is for {' and '.join(engines)}: leave it out.")
    if gen_length and block_length and gen_length % block_length:
        raise UnmaskError(f"--block-length {block_length} does not divide --gen-length {gen_length}: give a divisor.")
    if output.exists():
        raise UnmaskError(f"{output} exists: give a folder that does not, or remove it.")
    options = {"speed": speed, "seed": seed, **given}
    with written_whole(output) as draft:
        told = {"transformers": _transformers, "diffusers": _diffusers, "sglang": _sglang}[engine](
            found, draft, output, options
        )
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def _transformers(policy: Policy, draft: Path, output: Path, options: dict[str, Any]) -> str:
    write_folder(policy, draft, options["speed"], options["seed"])
    where = json.dumps(str(output))
    return f"model.generate(**inputs, custom_generate={where}, trust_remote_code=True, max_new_tokens=256)"


def _diffusers(policy: Policy, draft: Path, output: Path, options: dict[str, Any]) -> str:
    from unmask.integrations.diffusers import UnmaskScheduler  # what it needs is an extra

    policy.save(draft / "policy")
    settings = {name: options[name] for name in ("speed", "seed", "gen_length", "block_length")}
    scheduler = UnmaskScheduler(str(draft / "policy"), **{k: v for k, v in settings.items() if v is not None})
    scheduler.register_to_config(policy="policy")  # beside the config, wherever the folder goes
    scheduler.save_pretrained(draft)
    return (
        "from unmask.integrations.diffusers import UnmaskScheduler\n"
        f"scheduler = UnmaskScheduler.from_pretrained({json.dumps(str(output))})\n"
        "LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=tokenizer)"
    )


def _sglang(policy: Policy, draft: Path, output: Path, options: dict[str, Any]) -> str:
    policy_for("SGLang", policy)
    policy.save(draft / "policy")
    values = {"policy": str(output.resolve() / "policy"), "speed": options["speed"], "seed": options["seed"]}
    values |= {"block_size": options["block_length"], "mask_id": options["mask_id"]}
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in values.items() if value is not None]
    (draft / "unmask.yaml").write_text("".join(lines))  # each value of JSON is one of YAML
    return (
        "python -m sglang.launch_server --model-path MODEL --trust-remote-code --dllm-algorithm Unmask "
        f"--dllm-algorithm-config {shlex.quote(str(output / 'unmask.yaml'))}"
    )
