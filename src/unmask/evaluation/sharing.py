"""A policy's folder as it goes to the Hub: its files, a picture of its curve, and a card that says how to use it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from unmask.errors import UnmaskError
from unmask.evaluation.calibrate import in_markdown
from unmask.evaluation.figures import plot_speeds
from unmask.policies.auto import load_policy
from unmask.policies.base import LearnedPolicy, Policy
from unmask.policies.calibration import Calibration

PICTURE = "curve.png"
USE = "## Use it"
OLD = re.compile(rf"^{USE}\n.*?(?=^#{{1,2}} |\Z)", re.M | re.S)  # the section of an earlier push, and no other
TAGS = ("unmask", "unmasking-policy", "masked-diffusion", "dllm")


def prepare(folder: Path, repo: str, target: Path) -> Policy:
    """Write what is to be uploaded.

    Args:
        folder: of a policy; in a run's folder, the run's picture is taken.
        repo: ``user/name``, for the card.
        target: an empty folder to write to.

    Raises:
        UnmaskError: the folder is no policy's; matplotlib is not installed.
    """
    policy = load_policy(folder)
    policy.save(target)
    tables = policy.calibrations if isinstance(policy, LearnedPolicy) else ()
    if (folder.parent / PICTURE).exists():  # of the run, with the rules
        shutil.copy(folder.parent / PICTURE, target / PICTURE)
    elif tables:
        plot_speeds(tables[0], target / PICTURE)
        (target / PICTURE).with_suffix(".svg").unlink()
    readme = folder / "README.md"
    try:
        card = ModelCard(readme.read_text(encoding="utf-8") if readme.exists() else f"# {repo.partition('/')[2]}\n")
    except Exception as e:  # whatever a reader of YAML raises
        told = " ".join(str(e).split())
        raise UnmaskError(f"{readme} is no model card ({told}): correct what stands between its first ---.") from None
    told = card.data.to_dict()
    tags = list(dict.fromkeys([*(told.get("tags") or []), *TAGS]))
    card.data = ModelCardData(**{**told, "library_name": "unmask", "tags": tags, **_based_on(tables)})
    text = OLD.sub("", card.text).rstrip()
    if tables and "| speed | forward passes |" not in text:
        text += f"\n\n## Every speed\n\n{in_markdown(tables[0])}"
    if (target / PICTURE).exists() and PICTURE not in text:
        text += f"\n\n![Accuracy against forward passes at each speed]({PICTURE})"
    card.text = f"{text}\n\n{_use(repo, tables[0] if tables else None)}\n"
    card.save(target / "README.md")
    return policy


def _based_on(tables: Sequence[Calibration]) -> dict[str, str]:
    """The dLLM, where it is one of the Hub's."""
    name = tables[0].model if tables else ""
    return {"base_model": name} if "/" in name and not Path(name).exists() else {}


def _use(repo: str, table: Calibration | None) -> str:
    model = f'"{table.model}"' if table is not None else '"the dLLM"'
    length, blocks, speed = "", "", ""
    if table is not None:
        length = f", gen_length={table.gen_length}"
        blocks = "" if table.block_length == table.gen_length else f", block_length={table.block_length!r}"
        speed = ", speed=0.5"
    return f"""{USE}

```python
import unmask  # pip install unmask

model, policy = unmask.load_model({model}), unmask.load_policy("{repo}")
out = unmask.generate(model, policy, prompts{length}{blocks}{speed})
```

| in | |
|---|---|
| an OpenAI-compatible server | `unmask serve --model MODEL --policy {repo}` |
| SGLang | `unmask export --engine sglang {repo} OUT` |
| diffusers | `unmask export --engine diffusers {repo} OUT` |
| transformers | `unmask export --engine transformers {repo} OUT`, then `model.generate(..., custom_generate=OUT)` |"""
