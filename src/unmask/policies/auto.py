"""`load_policy`: from a folder, a name, a spec string or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.hub import find_policy_folder, read_config, read_weights, weights_digest
from unmask.policies.base import LearnedPolicy, Policy
from unmask.policies.calibration import read_calibrations
from unmask.policies.registry import make_policy, policy_types
from unmask.policies.released import from_released, is_released
from unmask.settings import parse_spec

DEFAULT_POLICY = "house-base-full"


def load_policy(name_or_path: str | Path | Mapping[str, Any] | None = None, *, revision: str | None = None) -> Policy:
    """Load a policy of any kind.

    Args:
        name_or_path: None for the bundled default; a bundled name; a folder that `Policy.save` wrote; a safetensors
            file, or a folder with one, in the layout of the paper's released checkpoints, such as its trainer's
            ``checkpoint-100``; a Hub id, ``"user/repo"`` or ``"user/repo@revision"``; any of these with settings that
            its tensors do not tell, ``"checkpoint-100?actions=dpls&stop_logit=0.5"``; a rule with its settings,
            ``"confidence_threshold:threshold=0.8"`` or ``{"type": ..., "threshold": 0.8}``; any of these in wrappers,
            inside out, ``"house-base-full | temperature:tau=0.5 | max_reveal:n=8"``.
        revision: of a Hub id: a branch, a tag or a commit.

    Raises:
        UnmaskError: no such policy, an unknown type or setting, a corrupt or foreign checkpoint.
    """
    name_or_path = _at(name_or_path, revision)
    if isinstance(name_or_path, Mapping):
        return make_policy(name_or_path, "the policy's settings")
    name = DEFAULT_POLICY if name_or_path is None else str(name_or_path)
    if not name.strip():
        raise UnmaskError("The name of the policy is empty: give a name, a folder or a rule.")
    inside, bar, wrapper = name.rpartition("|")
    if bar and not Path(name).exists():
        return make_policy({**parse_spec(wrapper), "policy": inside.strip()}, f"the policy {name!r}")
    base, mark, settings = name.rpartition("?")
    if mark and not Path(name).exists():
        return _with_settings(load_policy(base), settings, name)
    if name.partition(":")[0] in policy_types() and not Path(name).exists():
        if issubclass(policy_types()[name.partition(":")[0]], LearnedPolicy):
            raise UnmaskError(
                f"{name!r} is a network without weights: give the folder of a trained policy, or train one with unmask "
                "tune."
            )
        return make_policy(parse_spec(name), f"the policy {name!r}")
    if ":" in name:
        type_name = name.partition(":")[0]
        raise UnmaskError(f"Unknown policy type {type_name!r}: {nearest(type_name, policy_types())}")
    if name.endswith(".safetensors") and Path(name).is_file():
        return _load_released(Path(name))
    try:
        folder = find_policy_folder(name)
    except UnmaskError as e:
        hint = nearest(name, policy_types())
        raise UnmaskError(f"{e} For a rule, {hint}" if hint.startswith("did you mean") else str(e)) from None
    config = read_config(folder) if (folder / "config.json").exists() else None
    if config is None or "type" not in config:
        weights = _only_weights(folder)
        if weights is not None:
            return _load_released(weights)
        if config is not None:
            raise UnmaskError(
                f"{folder / 'config.json'} names no policy's type: give a folder that `policy.save` wrote."
            )
    policy = make_policy(read_config(folder) if config is None else config, str(folder / "config.json"))
    weights = folder / "model.safetensors"
    if policy.weights() is not None or weights.exists():
        policy.load_weights(read_weights(weights), str(weights))
    if isinstance(policy, LearnedPolicy):
        own = weights_digest(policy.weights())
        policy.calibrations = tuple(table for table in read_calibrations(folder) if table.weights == own)
    return policy


def _at(name: str | Path | Mapping[str, Any] | None, revision: str | None) -> str | Path | Mapping[str, Any] | None:
    if revision is None:
        return name
    if not isinstance(name, str) or Path(name).exists():
        raise UnmaskError(f"revision is for policies of the Hub, and {name} is none: leave it out.")
    return f"{name}@{revision}"


def _only_weights(folder: Path) -> Path | None:
    usual = folder / "model.safetensors"
    found = [usual] if usual.exists() else sorted(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None


def _with_settings(policy: Policy, settings: str, name: str) -> Policy:
    """The same weights under other settings; what was measured with the old ones is left behind.

    Raises:
        UnmaskError: a rule; an unknown setting or a bad value; a setting that asks for other weights.
    """
    if not isinstance(policy, LearnedPolicy):
        raise UnmaskError(
            f"{name!r} changes settings of {policy.type_name}, which has no weights: write them behind a colon."
        )
    if not settings.strip():
        raise UnmaskError(f"{name!r} names no setting behind its question mark: write it as name?key=value&key=value.")
    given = parse_spec(f"{policy.type_name}:{settings.replace('&', ',')}")
    known = {**policy.config(), "speed_axis": (), **given}
    changed = make_policy({**known, "type": policy.type_name}, f"the policy {name!r}")
    try:
        changed.load_weights(policy.weights(), name)
    except UnmaskError:
        raise UnmaskError(
            f"{name!r}: these settings ask for other weights than the policy has: leave them out."
        ) from None
    return changed


def _load_released(path: Path) -> Policy:
    weights = read_weights(path)
    if not is_released(weights):
        raise UnmaskError(
            f"{path} has no config.json beside it that names a policy's type, and its tensors are not named as in a "
            "released checkpoint ('base_policy.'...): give a folder that `policy.save` wrote."
        )
    config, ours = from_released(weights, str(path))
    policy = make_policy(config, str(path))
    policy.load_weights(ours, str(path))
    return policy
