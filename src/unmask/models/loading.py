"""What all families share on the way from a folder to a network: options, refusals, names of tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from unmask.errors import UnmaskError, is_out_of_memory
from unmask.hub import bundled, is_finite

Loader = Callable[..., Any]  # a from_pretrained
# What from_pretrained raises for what a user can mend.
REFUSALS = (
    *(OSError, ValueError, RuntimeError, ImportError, TypeError, SafetensorError),
    *(LookupError, ArithmeticError, AttributeError, AssertionError, StrictDataclassError),  # a config with odd values
)
MOST_LAYERS = 10_000

# Published tensors that no dLLM needs: buffers that follow from the config, and heads of BERT's other objectives.
HARMLESS = re.compile(
    r"(^|\.)((inv_freq|position_ids|token_type_ids)$|(pooler|seq_relationship|sop_classifier|mask_predictions)\.)"
)


class Names:
    """Tensor names as published beside those of the stock architecture; ``{}`` stands for a layer."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._pairs = pairs

    def key_mapping(self) -> dict[str, str]:
        """As from_pretrained takes it: pattern -> replacement."""
        return {_pattern(published): stock.replace("{}", r"\1") for published, stock in self._pairs.items()}

    def published(self, stock_name: str) -> str:
        """A stock name as the checkpoint has it."""
        for published, stock in self._pairs.items():
            found = re.match(_pattern(stock), stock_name)
            if found:
                return published.format(*found.groups()) + stock_name[found.end() :]
        return stock_name


def _pattern(name: str) -> str:
    return "^" + re.escape(name).replace(r"\{\}", r"(\d+)")


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that say where files are; config and tokenizer want them as well."""
    names = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download")
    return {name: options[name] for name in names if name in options}


def config_of(name: str, path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The published config.json, whatever family it is of.

    Raises:
        UnmaskError: there is none.
    """
    with refused(name):
        found = PreTrainedConfig.get_config_dict(path, **hub_options(options))[0]
        if not found:
            raise OSError(f"{path} has no config.json")
        for key in ("num_hidden_layers", "n_layers"):
            if isinstance(found.get(key), int) and found[key] > MOST_LAYERS:
                raise ValueError(f"config.json asks for {found[key]:,} layers")
    return dict(found)


@dataclass(frozen=True)
class GenerationIds:
    """What a folder's generation_config.json says beside its config.json.

    Attributes:
        ends: each ends a text.
        mask: None where it does not say.
    """

    ends: tuple[int, ...] = ()
    mask: int | None = None


def generation_ids(path: str, options: Mapping[str, Any]) -> GenerationIds:
    """The ids of generation_config.json; none where there is no such file, or none that can be read."""
    try:
        file = cached_file(path, "generation_config.json", **hub_options(options))
        found = json.loads(Path(file).read_text(encoding="utf-8-sig")) if file else {}
    except (OSError, ValueError):
        return GenerationIds()
    ends = found.get("eos_token_id") if isinstance(found, dict) else None
    ends = ends if isinstance(ends, list) else [ends]
    mask = found.get("mask_token_id") if isinstance(found, dict) else None
    return GenerationIds(tuple(end for end in ends if _is_id(end)), mask if _is_id(mask) else None)


def check_told(name: str, published: Mapping[str, Any], *keys: str) -> None:
    """What no shape of a tensor tells must be in the config: a stock default in its place gives wrong logits silently.

    Raises:
        UnmaskError: naming the setting that is missing.
    """
    for key in keys:
        if published.get(key) is None:
            raise UnmaskError(f"config.json of {name!r} lacks {key!r}: take the one published with it.")


def rope_of(name: str, published: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """How positions are turned, as transformers takes it: from ``rope_parameters``, or a config of before those.

    Args:
        others: settings beside the base that a config of before ``rope_parameters`` may hold.

    Raises:
        UnmaskError: no base: another than the dLLM was trained with gives wrong logits without a word.
    """
    known = published.get("rope_parameters") or {}
    older = {key: published[key] for key in ("rope_theta", *others) if key in published}
    found = {"rope_type": "default", **older, **(known if isinstance(known, Mapping) else {})}
    base = found.get("rope_theta")
    if base is None:
        raise UnmaskError(f"config.json of {name!r} lacks 'rope_theta': take the one published with it.")
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < math.inf:
        raise UnmaskError(f"config.json of {name!r} has rope_theta = {base!r}: take the one published with it.")
    return found


def plain_rope_of(name: str, published: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """`rope_of` in a family whose published code stretches no positions.

    Raises:
        UnmaskError: no base, or another kind than the default.
    """
    found = rope_of(name, published, *others)
    if found["rope_type"] != "default":
        raise UnmaskError(
            f"config.json of {name!r} has rope_type = {found['rope_type']!r}, which its family was not published with "
            "('default'): take the one published with it."
        )
    for key in found.keys() - {"rope_type", "rope_theta", *others}:
        raise UnmaskError(
            f"config.json of {name!r} has {key} = {found[key]!r} in rope_parameters, which its family was not "
            "published with: take the one published with it."
        )
    return found


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@contextmanager
def refused(name: str) -> Iterator[None]:
    """Turn what transformers raises into one sentence, and keep its progress bars and reports to itself."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except Exception as e:
        if not isinstance(e, REFUSALS) and type(e) is not Exception:  # which is what tokenizers raises
            raise
        if is_out_of_memory(e):
            raise UnmaskError(
                f"There is too little memory for the weights of {name!r}: load it with dtype bfloat16, in fewer bits "
                "(quantization), or over several devices (device_map auto)."
            ) from None
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UnmaskError(
            f"Cannot load the dLLM {name!r} ({reason.rstrip('.')}): give a folder with config.json, model.safetensors "
            f"and a tokenizer, a Hub id, or a bundled dLLM ({', '.join(bundled('models'))})."
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_network(
    name: str, path: str, loader: Loader, options: Mapping[str, Any], names: Names | None = None
) -> PreTrainedModel:
    """The network with all its weights, or a refusal that names the tensor.

    Args:
        loader: the class's from_pretrained.
        options: of from_pretrained; ``device`` moves the network where no ``device_map`` is given.

    Raises:
        UnmaskError: it cannot be read; a tensor is missing, has another shape than config.json says or no place in the
            architecture, or holds NaN or infinity.
    """
    options = dict(options)
    device = options.pop("device")
    with refused(name):
        network, found = loader(
            path,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            key_mapping=names.key_mapping() if names else None,
            **options,
        )
    named = names.published if names else str
    _refuse_mismatched(name, [(named(key), was, wanted) for key, was, wanted in found["mismatched_keys"]])
    unexpected = sorted(map(named, found["unexpected_keys"]))
    _refuse_missing(name, sorted(map(named, found["missing_keys"])), unexpected)
    quantized = getattr(network, "quantization_method", None) is not None
    if not quantized:  # else its tensors are not the published ones
        _refuse_unexpected(name, [key for key in unexpected if not HARMLESS.search(key)])
        _refuse_broken(name, network, named)
    if "device_map" in options or quantized:
        return network
    with refused(name):
        return network.to(torch.device(device))


def _refuse_mismatched(name: str, mismatched: Sequence[tuple[str, Any, Any]]) -> None:
    if mismatched:
        key, was, wanted = min(mismatched, key=lambda entry: entry[0])
        raise UnmaskError(
            f"The tensor {key!r} of {name!r} has the shape {tuple(was)}, but its config.json asks for {tuple(wanted)}: "
            "config and weights are of different dLLMs; download both again."
        )


def _refuse_missing(name: str, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        instead = f" (it has {unexpected[0]!r}, which has no place)" if unexpected else ""
        head = " or save it with its masked-LM head," if any("head" in key or "cls." in key for key in missing) else ""
        raise UnmaskError(
            f"The weights of {name!r} lack {missing[0]!r}{more}{instead}:{head} download all of its files again."
        )


def _refuse_unexpected(name: str, unexpected: Sequence[str]) -> None:
    if unexpected:
        more = f" and {len(unexpected) - 1} more tensors" if len(unexpected) > 1 else ""
        raise UnmaskError(
            f"The weights of {name!r} hold {unexpected[0]!r}{more}, for which its config.json has no place: config and "
            "weights are of different dLLMs; download both again."
        )


def _refuse_broken(name: str, network: PreTrainedModel, named: Callable[[str], str]) -> None:
    for key, tensor in network.named_parameters():
        if not tensor.is_meta and not is_finite(tensor.detach()):  # meta: left on the disk by device_map
            raise UnmaskError(
                f"The tensor {named(key)!r} of {name!r} holds NaN or infinity: download it again, or take an earlier "
                "checkpoint."
            )
