"""`load_algorithm`: an algorithm's name, or a dotted path -> its class. A new algorithm is one module here."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from unmask.errors import UnmaskError, nearest
from unmask.rl.algorithms.base import Algorithm
from unmask.settings import function_of

NOT_ALGORITHMS = ("auto", "base")


def names() -> list[str]:
    """Of the algorithms that come with the package."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name not in NOT_ALGORITHMS)


def load_algorithm(name: str) -> type[Algorithm]:
    """An algorithm's class.

    Args:
        name: of a module of this package, or a class of your own as ``module.Class``.

    Raises:
        UnmaskError: there is none of this name.
    """
    if "." in name or ":" in name:
        found = function_of(name, "algorithm", "module.Class")
    elif name in names():
        found = importlib.import_module(f"unmask.rl.algorithms.{name}").ALGORITHM
    else:
        raise UnmaskError(
            f"Unknown algorithm {name!r}: {nearest(name, names())} One of your own is named as module.Class."
        )
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise UnmaskError(f"The algorithm {name!r} is no subclass of unmask.rl.algorithms.base.Algorithm.")
    return found
