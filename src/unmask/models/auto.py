"""`load_model`: a bundled dLLM, a local folder or a Hub id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from unmask.errors import UnmaskError
from unmask.hub import bundled, holds_weights
from unmask.models.base import MaskedDiffusionModel
from unmask.models.block_families import blocks_of, load_block_causal
from unmask.models.dream import load_dream, qwen2_config
from unmask.models.llada import llama_config, load_llada
from unmask.models.llada2 import LLADA2
from unmask.models.llada_moe import load_llada_moe, qwen3_moe_config
from unmask.models.loading import config_of, hub_options, load_network, refused
from unmask.models.masked_lm import MaskedLM, first_position
from unmask.models.remote import load_remote
from unmask.models.residual_context import ResidualContext
from unmask.models.sdar import FAST_DLLM, SDAR, SDAR_MOE, STABLE_DIFFCODER

DEFAULT_MODEL = "house-base"
# By config.json's model_type; DiffuCoder calls itself Dream.
FAMILIES = {"llada": load_llada, "llada_moe": load_llada_moe, "Dream": load_dream}
BLOCK_CAUSAL = {
    "sdar": SDAR,
    "sdar_moe": SDAR_MOE,
    "Fast_dLLM_Qwen": FAST_DLLM,
    "llada2_moe": LLADA2,
    "stable_diffcoder": STABLE_DIFFCODER,
}
# Families whose published model_type is another's ("llada" of LLaDA-MoE), or goes by several names.
BY_ARCHITECTURE = {
    **dict.fromkeys(("LLaDAMoEModelLM", "LLaDAMoEModel", "LLaDAMoeModelLM"), "llada_moe"),
    "StableDiffcoderForCausalLM": "stable_diffcoder",
}
SAME_AS = {"lladamoe": "llada_moe"}  # what users are told to write into config.json elsewhere
# A published config in the words of the architecture that the dLLM is.
STOCK = {
    "llada": llama_config,
    "llada_moe": qwen3_moe_config,
    "Dream": qwen2_config,
    **{key: one.stock for key, one in BLOCK_CAUSAL.items()},
}


def load_model(
    name_or_path: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    mask_id: int | None = None,
    compile: bool = False,
    residual_context: bool = False,
    trust_remote_code: bool = False,
    full_attention: bool = False,
    causal_block: int | None = None,
    revises: bool = False,
    **options: Any,
) -> MaskedDiffusionModel:
    """Load a frozen dLLM; its config.json says of which family it is.

    LLaDA (8B Base and Instruct, 1.5, MoE), Dream 7B, DiffuCoder 7B, SDAR and TraDo, LLaDA2.0 and 2.1, Fast-dLLM v2,
    Stable-DiffCoder and any masked language model that transformers knows are read from their published folders,
    without remote code.

    Args:
        name_or_path: a bundled dLLM (None: the default one), a folder in Hugging Face format, or a Hub id.
        dtype: as in transformers, such as ``"bfloat16"``; that of the weights by default.
        device: ``"cuda"`` where there is one, else ``"cpu"``.
        device_map: as in transformers: spreads a dLLM larger than one device, ``"auto"`` for one; instead of `device`.
        attn_implementation: as in transformers: ``"sdpa"`` (the default), ``"flash_attention_2"``, ``"eager"``, ...
        mask_id: where neither config nor tokenizer tell.
        compile: `torch.compile` the forward pass.
        residual_context: the dLLM was trained with Residual Context Diffusion (`ResidualContext`).
        trust_remote_code: load a family not named above by the code published with it. That code runs on this machine.
        full_attention: run that code without a mask even if the family is known to need one between blocks.
        causal_block: block length of a block-causal dLLM, where its files do not tell another than its family's.
        revises: a block-causal dLLM was trained to correct revealed tokens, as LLaDA2.1 was; its files do not tell.
        options: further ones of ``from_pretrained``, such as ``revision`` or ``quantization_config``.

    Raises:
        UnmaskError: no such model, one of an unknown family, or weights that do not fit its config.
    """
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    path = path_of(name)
    # Eager attention is the faster one at the bundled sizes.
    attn_implementation = attn_implementation or ("eager" if name in bundled("models") else None)
    options = {**options, "dtype": dtype_of(dtype), "device": device or default_device()}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if device_map is not None:
        options["device_map"] = device_map
    wants_cuda = any(str(place).startswith("cuda") for place in (options["device"], device_map))
    if wants_cuda and not torch.cuda.is_available():
        raise UnmaskError("There is no CUDA device here that torch can use: leave out device and device_map.")
    published = config_of(name, path, options)
    model = _load(name, path, published, options, mask_id, trust_remote_code, full_attention, causal_block)
    if causal_block is not None and model.block_length is None:
        raise UnmaskError(
            f"causal_block is for block-causal dLLMs, and {name!r} ({model.family}) attends in full: leave it out."
        )
    if revises and model.block_length is None:
        raise UnmaskError(
            f"revises is for block-causal dLLMs that were trained to correct revealed tokens, and {name!r} "
            f"({model.family}) attends in full: leave it out."
        )
    model.revises = revises
    if not model.tokenizer.get_vocab().keys() - set(model.tokenizer.all_special_tokens):  # transformers makes it up
        raise UnmaskError(f"The folder of {name!r} lacks its tokenizer: download all of its files.")
    if residual_context:
        model = ResidualContext(model)
    if compile:
        model.compile()
    return model


def _load(
    name: str,
    path: str,
    published: Mapping[str, Any],
    options: Mapping[str, Any],
    mask_id: int | None,
    trust_remote_code: bool,
    full_attention: bool,
    causal_block: int | None,
) -> MaskedDiffusionModel:
    model_type = kind_of(published)
    if model_type in BLOCK_CAUSAL:  # its own code would need a mask that is not given to it
        family = BLOCK_CAUSAL[model_type]
        return load_block_causal(family, name, path, published, options, mask_id, causal_block)
    if trust_remote_code and "auto_map" in published:
        return load_remote(name, path, published, options, mask_id, full_attention)
    if model_type in FAMILIES:
        return FAMILIES[model_type](name, path, published, options, mask_id)
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        network = load_network(name, path, AutoModelForMaskedLM.from_pretrained, options)
        with refused(name):
            tokenizer = AutoTokenizer.from_pretrained(path, **hub_options(options))
        return MaskedLM(name, network, tokenizer, mask_id)
    remedy = (
        "pass trust_remote_code (--trust-remote-code) to run the code published with it on this machine"
        if "auto_map" in published
        else "load one of these"
    )
    raise UnmaskError(
        f"{name!r} is a {model_type!r}, which is neither a LLaDA, Dream, DiffuCoder, SDAR, LLaDA2, Fast-dLLM v2 or "
        f"Stable-DiffCoder, nor a masked language model that transformers knows: {remedy}."
    )


def kind_of(published: Mapping[str, Any]) -> str:
    """The family's key in these tables: its model_type, but where that is another's."""
    architectures = published.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    told = str(published.get("model_type"))
    return BY_ARCHITECTURE.get(str(first), SAME_AS.get(told, told))


def block_length_of(name_or_path: str | Path | None, causal_block: int | None = None) -> int | None:
    """The blocks of a block-causal dLLM by its config alone; None of one that attends in full, or that is not here."""
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    try:
        published = config_of(name, path_of(name), {})
    except UnmaskError:
        return None  # told when it is loaded
    family = BLOCK_CAUSAL.get(kind_of(published))
    return None if family is None else blocks_of(name, published, family, causal_block)


def path_of(name: str) -> str:
    """Of a local folder, else of the bundled dLLM of this name; a Hub id is its own.

    Results that someone keeps in a folder of a bundled dLLM's name do not hide it: they are no weights.
    """
    shipped = bundled("models").get(name)
    return name if shipped is None or holds_weights(name) else str(shipped)


def default_device() -> str:
    """Where a dLLM goes unless told otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_of(name: torch.dtype | str | None) -> torch.dtype | str:
    """A dtype by its name; ``"auto"``, that of the weights, by default.

    Raises:
        UnmaskError: there is none of this name.
    """
    if name is None or name == "auto":
        return "auto"
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UnmaskError(f"Unknown dtype {name!r}: use auto, float32, bfloat16 or float16.")
    return found


@dataclass(frozen=True)
class Size:
    """A dLLM by its config alone.

    Attributes:
        parameters: how many weights it has.
        hidden_size: of its hidden states.
        dtype: that its weights were saved in; None where the config does not tell.
        positions: of prompt and region together, at most; None where the config does not tell.
    """

    parameters: int
    hidden_size: int
    dtype: torch.dtype | None
    positions: int | None


def size_of(name_or_path: str | Path | None) -> Size | None:
    """What the config of a dLLM tells of its size; None where that cannot be read here."""
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    path = path_of(name)
    try:
        published = config_of(name, path, {})
        model_type = kind_of(published)
        with torch.device("meta"):
            if model_type in STOCK:
                network = AutoModelForCausalLM.from_config(STOCK[model_type](name, published))
            else:
                network = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(path))
    except (UnmaskError, OSError, ValueError, KeyError, ImportError):
        return None
    dtype = getattr(torch, str(published.get("dtype", published.get("torch_dtype"))).removeprefix("torch."), None)
    positions = getattr(network.config, "max_position_embeddings", None)
    if positions is not None and model_type not in STOCK:
        positions -= first_position(network.config)
    return Size(network.num_parameters(), network.config.hidden_size, dtype, positions)
