"""`unmask export`."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from pprint import pformat
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from safetensors.torch import save

from unmask import __version__
from unmask.cli.common import Seed
from unmask.cli.console import console
from unmask.decoding.options import speeds_of
from unmask.errors import UnmaskError
from unmask.files import written_whole
from unmask.integrations.engine import policy_for
from unmask.policies.auto import load_policy
from unmask.policies.base import Policy

Engine = Literal["transformers", "diffusers", "sglang"]

GENERATE = '''"""Decode with a diffusion language model by an unmasking policy.

    model.generate(**inputs, custom_generate="<this folder>", trust_remote_code=True, max_new_tokens=256)

Written by `unmask export`; the policy is in policy.py. Arguments: `unmask.integrations.transformers.generate`.
"""

from unmask.integrations.transformers import generate as decode
from unmask.integrations.transformers import policy_of

from .policy import CONFIG, WEIGHTS

POLICY = policy_of(CONFIG, WEIGHTS)


def generate(model, input_ids=None, attention_mask=None, policy=POLICY, speed={speed!r}, seed={seed!r}, **options):
    return decode(model, policy, input_ids, attention_mask, speed=speed, seed=seed, **options)
'''

CARD = """---
tags:
- custom_generate
---

# An unmasking policy for diffusion language models

A policy of the Python package `unmask` ({type}) that decides which masked positions to reveal at each
decoding step. After `pip install unmask`:

```python
out = model.generate(**inputs, custom_generate="<this folder or repo>", trust_remote_code=True, max_new_tokens=256)
```

`model` is a diffusion language model: LLaDA, Dream, SDAR, LLaDA2 and others. Further arguments are `block_length`,
`speed` (of a policy with a speed: 0 slow and careful, 1 fast), `temperature`, `seed`; and `mask_id`, `eos_ids`,
`shifted` and `causal_block`, where the model's files do not tell them.
"""


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
    if output.exists():
        raise UnmaskError(f"{output} exists: give a folder that does not, or remove it.")
    options = {"speed": speed, "seed": seed, **given}
    with written_whole(output) as draft:
        told = {"transformers": _transformers, "diffusers": _diffusers, "sglang": _sglang}[engine](
            found, draft, output, options
        )
    console.print(told, markup=False, highlight=False, soft_wrap=True)


def _transformers(policy: Policy, draft: Path, output: Path, options: dict[str, Any]) -> str:
    code = draft / "custom_generate"
    code.mkdir()
    config, weights = {"type": policy.type_name, **policy.config()}, policy.weights()
    text = "" if weights is None else base64.b64encode(save(weights)).decode()
    config = json.loads(json.dumps(config))  # as the folder of a saved policy has it
    (code / "policy.py").write_text(
        f'"""A saved policy: its config.json, and its model.safetensors in base64."""\n\n'
        f"CONFIG = {pformat(config, sort_dicts=False)}\n\nWEIGHTS = {text!r}\n"
    )
    (code / "generate.py").write_text(GENERATE.format(speed=options["speed"], seed=options["seed"]))
    (code / "requirements.txt").write_text(f"unmask>={__version__}\n")
    (draft / "README.md").write_text(CARD.format(type=policy.type_name))
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
