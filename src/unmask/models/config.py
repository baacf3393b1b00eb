"""How a dLLM is to be loaded, as settings that commands and configs share."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pydantic import Field
from transformers import BitsAndBytesConfig, TorchAoConfig

from unmask.errors import UnmaskError
from unmask.models.auto import block_length_of, load_model
from unmask.models.base import MaskedDiffusionModel
from unmask.settings import Settings

Quantization = Literal["8bit", "4bit", "torchao-int8", "torchao-int4"]


class ModelConfig(Settings):
    """Of `unmask.load_model`."""

    model: Annotated[str | None, Field(description="dLLM: bundled name, folder or Hub id (default: house-base).")] = (
        None
    )
    dtype: Annotated[str | None, Field(description="Of the dLLM, such as bfloat16 (default: as saved).")] = None
    device_map: Annotated[
        str | None, Field(description="Spread a dLLM over devices, as in transformers, such as auto.")
    ] = None
    attn_implementation: Annotated[
        str | None, Field(description="sdpa (default), flash_attention_2, eager, as in transformers.")
    ] = None
    quantization: Annotated[
        Quantization | None, Field(description="Weights in fewer bits, by bitsandbytes (8bit, 4bit) or torchao.")
    ] = None
    mask_id: Annotated[int | None, Field(description="Mask token, where the dLLM's files do not tell.")] = None
    compile: Annotated[bool, Field(description="torch.compile the dLLM.")] = False
    residual_context: Annotated[bool, Field(description="The dLLM was trained with Residual Context Diffusion.")] = (
        False
    )
    trust_remote_code: Annotated[
        bool, Field(description="Run the code published with a dLLM of an unknown family, on this machine.")
    ] = False
    full_attention: Annotated[
        bool, Field(description="Run that code without a mask even if its family is known to need one between blocks.")
    ] = False

    causal_block: Annotated[
        int | None, Ge(1), Field(description="Block length of a block-causal dLLM, if not its family's.")
    ] = None
    revises: Annotated[
        bool, Field(description="A block-causal dLLM was trained to correct revealed tokens, as LLaDA2.1 was.")
    ] = False

    @property
    def own_blocks(self) -> int | None:
        """Block length of a block-causal dLLM, whose blocks are the default of all decoding."""
        return block_length_of(self.model, self.causal_block)

    def usual_blocks(self, gen_length: int) -> int:
        """Block length where the user names none: a block-causal dLLM's own, or else the whole region."""
        own = self.own_blocks
        return own if own is not None and gen_length % own == 0 else gen_length

    def load(self, device: torch.device | str | None = None) -> MaskedDiffusionModel:
        """
        Raises:
            UnmaskError: as `unmask.load_model`.
        """
        options: dict[str, Any] = {}
        if self.quantization is not None:
            options["quantization_config"] = quantization_config(self.quantization)
        return load_model(
            self.model,
            dtype=self.dtype,
            device=device,
            device_map=self.device_map,
            attn_implementation=self.attn_implementation,
            mask_id=self.mask_id,
            compile=self.compile,
            residual_context=self.residual_context,
            trust_remote_code=self.trust_remote_code,
            full_attention=self.full_attention,
            causal_block=self.causal_block,
            revises=self.revises,
            **options,
        )


def quantization_config(name: Quantization) -> Any:
    """The config that transformers wants.

    Raises:
        UnmaskError: its library is not installed.
    """
    library = "torchao" if name.startswith("torchao") else "bitsandbytes"
    if find_spec(library) is None:
        raise UnmaskError(f"quantization {name} needs {library}: pip install {library}.")
    if library == "bitsandbytes":
        return BitsAndBytesConfig(load_in_8bit=name == "8bit", load_in_4bit=name == "4bit")
    quantization = import_module("torchao.quantization")
    return TorchAoConfig(
        quantization.Int8WeightOnlyConfig() if name == "torchao-int8" else quantization.Int4WeightOnlyConfig()
    )
