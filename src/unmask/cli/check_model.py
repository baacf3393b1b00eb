"""`unmask check-model`."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from unmask.cli.console import console
from unmask.errors import UnmaskError
from unmask.models.base import MaskedDiffusionModel
from unmask.models.config import ModelConfig
from unmask.testing import check_model as conforms


def check_model(
    path: Annotated[str | None, Parameter(help="Bundled name, folder or Hub id (default: house-base).")] = None,
    *,
    dllm: Annotated[ModelConfig | None, Parameter(name="*")] = None,
) -> None:
    """Load a dLLM, say what was found, and check what decoding relies on.

    Example: unmask check-model GSAI-ML/LLaDA-8B-Instruct --dtype bfloat16
    """
    wanted = dllm or ModelConfig()
    if path is not None and wanted.model is not None:
        raise UnmaskError(f"Which dLLM, {path} or {wanted.model}? Leave out --model.")
    model = (wanted if path is None else wanted.model_copy(update={"model": path})).load()
    table = Table.grid(padding=(0, 2))
    for name, value in found(model).items():
        table.add_row(name, value, style=None if value else "yellow")
    console.print(table)
    start = time.perf_counter()
    conforms(model)
    attention = "attention is full"
    if model.block_length is not None:
        attention += f" within blocks of {model.block_length} and causal between them, with the cache as without"
    console.print(
        f"Checks passed in {time.perf_counter() - start:.1f} s: rows do not change with left padding, with their "
        f"neighbours or with the positions asked about; {attention}; ids fit; logits are finite and frozen.",
        highlight=False,
    )


def found(model: MaskedDiffusionModel) -> dict[str, str]:
    """What a dLLM's files say, by name."""
    weights = list(model.network.parameters()) if model.network is not None else []
    dtypes = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in weights}))
    devices = ", ".join(sorted({str(p.device) for p in weights}))
    return {
        "dLLM": model.name,
        "family": model.family,
        "weights": f"{sum(p.numel() for p in weights):,} in {dtypes} on {devices}",
        "memory": f"{sum(p.nbytes for p in weights) / 2**20:,.1f} MiB of weights",
        "mask": _named(model, [model.mask_id]),
        "EOS": _named(model, model.eos_ids.tolist()),
        "blocks": "none: each position sees all" if model.block_length is None else f"{model.block_length}, causal",
        "caches": ", ".join(model.caches) or "none",
        "padding": _named(model, [model.pad_id]),
        "vocabulary": f"{model.vocab_size:,} logits, {len(model.tokenizer):,} tokens in the tokenizer",
        "positions": "any number" if model.max_length is None else f"{model.max_length:,}",
        "chat template": "yes" if model.has_chat_template else "none: prompts are taken as they are",
    }


def _named(model: MaskedDiffusionModel, ids: list[int]) -> str:
    return ", ".join(f"{i} {token}" for i, token in zip(ids, model.tokenizer.convert_ids_to_tokens(ids), strict=True))
