"""`load_model`: a bundled dLLM, a local folder or a Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from unmask.errors import UnmaskError
from unmask.hub import bundled
from unmask.models.base import MaskedDiffusionModel
from unmask.models.masked_lm import MaskedLM

DEFAULT_MODEL = "house-base"


def load_model(
    name_or_path: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    mask_id: int | None = None,
) -> MaskedDiffusionModel:
    """Load a frozen dLLM.

    Args:
        name_or_path: a bundled dLLM (None: the default one), a folder in Hugging Face format, or a Hub id.
        dtype: as in transformers, such as ``"bfloat16"``; float32 by default.
        device: ``"cuda"`` where there is one, else ``"cpu"``.
        device_map: as in transformers: spreads a dLLM larger than one device, ``"auto"`` for one; instead of `device`.
        mask_id: where the tokenizer does not tell.

    Raises:
        UnmaskError: no such model, or one that is no masked language model.
    """
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    shipped = bundled("models")
    path = shipped.get(name, name) if not Path(name).exists() else name
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype_of(dtype)
    # Eager attention is the faster one at the bundled sizes.
    options: dict[str, Any] = {"attn_implementation": "eager"} if name in shipped else {}
    if device_map is not None:
        options["device_map"] = device_map
    transformers_logging.disable_progress_bar()
    try:
        network, found = AutoModelForMaskedLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
        network = network if device_map is not None else network.to(torch.device(device))
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UnmaskError(
            f"Cannot load the dLLM {name!r} ({reason}): give a folder with config.json, model.safetensors and "
            f"tokenizer.json of a masked language model, a Hub id, or a bundled one ({', '.join(shipped)})."
        ) from None
    if found["missing_keys"]:
        raise UnmaskError(
            f"The weights of {name!r} lack {min(found['missing_keys'])!r}: it was saved without its masked-LM head; "
            "save it from an AutoModelForMaskedLM."
        )
    return MaskedLM(name, network, tokenizer, mask_id)


def dtype_of(name: torch.dtype | str | None) -> torch.dtype:
    """A dtype by its name, float32 by default.

    Raises:
        UnmaskError: there is none of this name.
    """
    found = getattr(torch, name, None) if isinstance(name, str) else name or torch.float32
    if not isinstance(found, torch.dtype):
        raise UnmaskError(f"Unknown dtype {name!r}: use float32, bfloat16 or float16.")
    return found


def parameter_count(name_or_path: str | Path | None) -> tuple[int | None, int | None]:
    """Weights and hidden size of a dLLM by its config alone; None where that cannot be read here."""
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    try:
        config = AutoConfig.from_pretrained(bundled("models").get(name, name))
        with torch.device("meta"):
            network = AutoModelForMaskedLM.from_config(config)
    except (OSError, ValueError, KeyError, ImportError):
        return None, None
    return network.num_parameters(), getattr(config, "hidden_size", None)
