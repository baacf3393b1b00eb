"""Mixtures of experts as they are published, an expert each: transformers stacks what it finds, in its order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils.hub import cached_file

from unmask.errors import UnmaskError
from unmask.models.loading import hub_options, refused


def check_choice(name: str, experts: Any, chosen: Any) -> None:
    """
    Raises:
        UnmaskError: there are not so many experts as a token is given to.
    """
    for value in (experts, chosen):
        if type(value) is not int or value < 1:
            raise UnmaskError(f"config.json of {name!r} has {value!r} experts: give whole numbers from 1.")
    if chosen > experts:
        raise UnmaskError(
            f"config.json of {name!r} chooses {chosen} of {experts} experts: take the one published with it."
        )


def check_experts(name: str, path: str, options: Mapping[str, Any], layers: Iterable[int], experts: int) -> None:
    """See that every expert is there before the weights are read.

    Args:
        layers: that have experts.
        experts: in each of them.

    Raises:
        UnmaskError: naming the first tensor that is missing.
    """
    with refused(name):
        index = cached_file(
            path,
            "model.safetensors.index.json",
            _raise_exceptions_for_missing_entries=False,
            **hub_options(options),
        )
        if index is not None:
            names = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
        else:
            with safe_open(cached_file(path, "model.safetensors", **hub_options(options)), "pt") as file:
                names = set(file.keys())
    for layer in layers:
        root = f"model.layers.{layer}.mlp.experts."
        wanted = {f"{root}{i}.{part}_proj.weight" for i in range(experts) for part in ("gate", "up", "down")}
        missing = sorted(wanted - names)
        extra = sorted(one for one in names - wanted if one.startswith(root))
        if missing:
            instead = f" (it has {extra[0]!r}, which has no place)" if extra else ""
            raise UnmaskError(f"The weights of {name!r} lack {missing[0]!r}{instead}: download all of its files again.")
