"""Where a training stands, to go on from: the optimiser's moments by parameter name, and its progress.

    optimizer.safetensors   one tensor per parameter and moment, ``<parameter>/<moment>``
    progress.json           what else the training needs: how far it is, what it has spent

The weights are safetensors, too, and whoever trains says where. Nothing is pickled. Learning rates are not kept: they
follow from the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.errors import UnmaskError
from unmask.files import read_object
from unmask.hub import load_strictly, read_weights


def write_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write moments and progress into an existing folder."""
    save_file(moments(module, optimizer), folder / "optimizer.safetensors")
    (folder / "progress.json").write_text(json.dumps(dict(progress)) + "\n", encoding="utf-8")


def read_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor], weights: Path
) -> dict[str, Any]:
    """Put weights and moments back in place.

    Args:
        saved: the module's weights.
        weights: the file they were read from, for messages.

    Returns:
        The progress.

    Raises:
        UnmaskError: a file is missing or damaged, or a tensor does not fit; module and optimiser may have changed.
    """
    path = folder / "progress.json"
    progress = read_object(path, "use another checkpoint")
    load_strictly(module, {name: saved[first] for name, first in _tied(module).items() if first in saved}, str(weights))
    unknown = sorted(saved.keys() - _tied(module).values())
    if unknown:
        raise UnmaskError(f"{weights} holds an unknown tensor {unknown[0]!r}: it was saved from another architecture.")
    load_moments(module, optimizer, read_weights(folder / "optimizer.safetensors"), str(folder))
    return progress


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors, those that are tied once, under the first of their names."""
    tensors = module.state_dict()
    return {name: tensors[name].cpu().contiguous() for name in dict.fromkeys(_tied(module).values())}


def _tied(module: nn.Module) -> dict[str, str]:
    """Name of each tensor -> the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in module.state_dict(keep_vars=True).items()}


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, one tensor per parameter and moment: ``<parameter>/<moment>``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}/{moment}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for moment, value in state.items()
    }


def load_moments(module: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor], where: str) -> None:
    """Put moments back in place of the optimiser's own. A moment is as its parameter is, or a count: one number.

    Raises:
        UnmaskError: naming the first moment that does not fit a parameter, or that others have and one lacks.
    """
    parameters = dict(module.named_parameters())
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in saved.items():
        name, _, moment = key.rpartition("/")
        if name not in parameters:
            raise UnmaskError(f"{where} holds an unknown moment {key!r}: it was saved from another architecture.")
        parameter = parameters[name]
        if value.ndim and value.shape != parameter.shape:
            raise UnmaskError(
                f"{where}: moment {key!r} has shape {tuple(value.shape)}, but its parameter has "
                f"{tuple(parameter.shape)}: it was saved from another architecture."
            )
        if value.ndim and value.dtype != parameter.dtype:
            raise UnmaskError(
                f"{where}: moment {key!r} is {_plain(value.dtype)}, but its parameter is {_plain(parameter.dtype)}: "
                "resume with the same dtype."
            )
        state.setdefault(name, {})[moment] = value.to(parameter.device) if value.ndim else value
    kinds = {moment for each in state.values() for moment in each}
    for name, each in state.items():
        for moment in sorted(kinds - each.keys()):
            raise UnmaskError(f"{where} lacks the moment '{name}/{moment}': it was written by another optimiser.")
    optimizer.state.clear()
    for name, each in state.items():
        optimizer.state[parameters[name]].update(each)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
