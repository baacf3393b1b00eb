"""Type name -> class of every kind of policy, found in the modules of `unmask.policies`: a rule is one file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from inspect import getfile
from types import ModuleType
from typing import Any

from unmask.errors import UnmaskError, nearest
from unmask.policies.base import Policy, Rule

PACKAGE = "unmask.policies"


@cache
def policy_types() -> Mapping[str, type[Policy]]:
    """Every kind of policy by its type name, in alphabetical order. The first call imports their modules.

    Raises:
        UnmaskError: a module cannot be imported, or two classes have one type name.
    """
    found: dict[str, type[Policy]] = {}
    for one in sorted(_classes(), key=lambda one: one.type_name):
        if found.setdefault(one.type_name, one) is not one:
            first, second = (f"{each.__name__} in {getfile(each)}" for each in (found[one.type_name], one))
            raise UnmaskError(f"Two policies have the type name {one.type_name!r}, {first} and {second}: rename one.")
    return found


def _classes() -> Iterator[type[Policy]]:
    """The classes of the package's modules that give themselves a type name."""
    for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}."):
        for value in vars(_module(module.name)).values():
            own = isinstance(value, type) and value.__module__ == module.name  # not one that it imports
            if own and issubclass(value, Policy) and "type_name" in vars(value):
                yield value


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as e:  # a user's file may fail in any way
        spec = find_spec(name)
        raise UnmaskError(
            f"Cannot import {spec.origin if spec else name} ({type(e).__name__}: {e}): mend the file, or move it away."
        ) from e


def tuned_rules() -> dict[str, type[Rule]]:
    """The rules that have a grid of settings, by type name in alphabetical order."""
    return {name: one for name, one in policy_types().items() if issubclass(one, Rule) and one.grid}


def class_of(type_name: str, where: str = "the policy's settings") -> type[Policy]:
    """The class of a kind of policy.

    Raises:
        UnmaskError: an unknown type, with the nearest one.
    """
    known = policy_types()
    if not isinstance(type_name, str) or type_name not in known:
        raise UnmaskError(f"Unknown policy type {type_name!r} in {where}: {nearest(str(type_name), known)}")
    return known[type_name]


def make_policy(settings: Mapping[str, Any], where: str) -> Policy:
    """Build a policy from its config; a learned one comes with fresh weights.

    Raises:
        UnmaskError: an unknown type, an unknown setting, a bad value.
    """
    values = dict(settings)
    made = class_of(values.pop("type", None), where)
    wraps = issubclass(made, Rule) and "policy" in {field.name for field in fields(made)}  # type: ignore[arg-type]
    if wraps and "policy" not in values:
        raise UnmaskError(f"{made.type_name} changes a policy: write it behind one, 'NAME | {made.type_name}'.")
    if "policy" in values and not wraps:
        raise UnmaskError(f"{made.type_name} changes no policy: leave out what is before its bar, in {where}.")
    return made.from_config(values, where)
