"""The runtime type checker of the tests; an int is as good as a float."""

from dataclasses import is_dataclass

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def check(checked):
    """Types and shapes of a function, or of what makes a dataclass, at each call.

    Functions within functions are left out: they would be decorated anew at each call of the outer one. Shapes are
    those of one call because jaxtyping is around beartype; given beartype, it would check each argument twice.
    """
    if isinstance(checked, type):
        if is_dataclass(checked):
            checked.__init__ = check(checked.__init__)
        return checked
    if "<locals>" in checked.__qualname__:
        return checked
    try:
        return _jaxtyped(_beartyped(checked), typechecker=None)
    except BeartypeDecorHintPep673Exception:  # it gives back its own class (`Self`), which is not known here
        return checked


def instead_of_jaxtyped(*, typechecker):
    """What the import hook puts before each function and class."""
    return check
