"""The recipe of a small dLLM."""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Field, model_validator

from unmask.settings import Output, Settings


def _named(output: str) -> str:
    """Without a slash or dot at its end: the checkpoint lies beside it."""
    path = normpath(output)
    if Path(path).name in ("", ".."):
        raise ValueError(f"the output {output!r} has no name of its own: give that of a new folder")
    return path


class PretrainConfig(Settings):
    """Recipe of a small dLLM: a RoBERTa with full attention (pre-norm), or a block-causal Qwen3."""

    output: Annotated[Output, AfterValidator(_named), Field(description="New folder that the dLLM is written to.")] = (
        "runs/dllm"
    )
    layers: Annotated[int, Ge(1), Field(description="Transformer layers.")] = 3
    width: Annotated[int, Ge(8), Field(description="Hidden size; the feed-forward is four times as wide.")] = 128
    heads: Annotated[int, Ge(1), Field(description="Attention heads.")] = 4
    block_length: Annotated[
        int | None,
        Ge(2),
        Field(description="Blocks of a block-causal dLLM, in SDAR's layout (default: full attention)."),
    ] = None
    start: Annotated[
        str | None, Field(description="dLLM of the same shape and words whose weights training begins with.")
    ] = None
    edits: Annotated[
        float,
        Ge(0),
        Le(1),
        Field(
            description="Share of the steps at which masked tokens are filled by the dLLM's own draws, which it learns "
            "to correct (LLaDA2.1's token editing, arXiv 2602.08676); for block-causal dLLMs."
        ),
    ] = 0.0
    tasks: Annotated[
        dict[str, Annotated[float, Gt(0)]], Field(min_length=1, description="Task name -> share of the training text.")
    ] = {"house": 1.0}
    lengths: Annotated[
        tuple[float, ...], Field(min_length=1, description="Weights of problems of 1, 2, 3, ... steps.")
    ] = (1, 1, 2, 3, 3, 3, 1, 1)
    styles: Annotated[dict[str, float], Field(min_length=1, description="Answer style -> weight.")] = {"full": 1.0}
    curriculum: Annotated[
        float, Ge(0), Le(1), Field(description="Share of the steps over which the longest problem grows from 1 step.")
    ] = 0.4
    gen_length: Annotated[int, Ge(4), Le(4096), Field(description="Region length L.")] = 32
    double_share: Annotated[float, Ge(0), Le(1), Field(description="Share of batches at region length 2L.")] = 0.15
    max_prompt: Annotated[int, Ge(1), Field(description="Positions kept for the prompt.")] = 32
    aligned: Annotated[
        bool,
        Field(description="Position embeddings of positions about the same thing begin alike; for puzzles."),
    ] = False
    steps: Annotated[int, Ge(1), Field(description="Optimiser steps.")] = 10000
    batch_size: Annotated[int, Ge(1), Field(description="Examples a step (half as many at 2L).")] = 256
    lr: Annotated[float, Gt(0), Field(description="Peak learning rate (AdamW, linear warm-up, then to 0).")] = 1e-3
    warmup: Annotated[int, Ge(0), Field(description="Warm-up steps.")] = 200
    weight_decay: Annotated[float, Ge(0), Field(description="AdamW weight decay.")] = 0.01
    bf16: Annotated[bool | None, Field(description="Autocast to bfloat16 (default: where this CPU has AVX-512).")] = (
        None
    )
    stored: Annotated[
        Literal["float32", "bfloat16"], Field(description="Weights in the file; they are loaded as float32.")
    ] = "float32"
    seed: Annotated[int, Field(description="Seed of weights, text and masks.")] = 0
    save_every: Annotated[int, Ge(1), Field(description="Steps between checkpoints.")] = 500

    @property
    def room(self) -> int:
        """Positions of a dLLM of full attention."""
        return self.max_prompt + 2 * self.gen_length

    @model_validator(mode="after")
    def _blocks_fill_the_region(self) -> PretrainConfig:
        if self.block_length is not None and self.gen_length % self.block_length:
            raise ValueError(f"block_length {self.block_length} does not divide gen_length {self.gen_length}")
        if not self.lengths[0] > 0 or min(self.lengths) < 0:
            raise ValueError(
                "lengths are weights from problems of 1 step on, where the curriculum begins: the first above 0"
            )
        if not min(self.styles.values()) > 0:
            raise ValueError("styles are weights: give each above 0, or leave it out")
        if self.edits and self.block_length is None:
            raise ValueError("edits is for block-causal dLLMs: set block_length, or leave it out")
        return self
