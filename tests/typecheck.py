"""The runtime type checker of the tests; an int is as good as a float."""

import random
from collections import Counter
from functools import wraps

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype._check.code import codemain

CALLS = 20
# The items of a list that are checked are drawn; from `random` itself, a finalizer or a thread that another test left
# would change what a test draws, and hypothesis refuses that.
codemain.getrandbits = random.Random(0).getrandbits
_beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped
_calls: Counter[int] = Counter()
_on = True


def begin(on: bool) -> None:
    """A test begins, whose first calls of each function are checked, or none."""
    global _on
    _on = on
    _calls.clear()


def check(checked):
    """Types and shapes of a function, or of what makes a dataclass, at its first calls in each test.

    Functions within functions are left out: they would be decorated anew at each call of the outer one. Shapes are
    those of one call because jaxtyping is around beartype; given beartype, it would check each argument twice.
    """
    if isinstance(checked, type):
        if "__dataclass_fields__" in vars(checked):  # a subclass has the __init__ that was checked
            checked.__init__ = check(checked.__init__)
        return checked
    if "<locals>" in checked.__qualname__:
        return checked
    strict, name = _jaxtyped(_beartyped(checked), typechecker=None), id(checked)

    @wraps(checked)
    def counted(*args, **kwargs):
        if not _on or _calls[name] >= CALLS:
            return checked(*args, **kwargs)
        _calls[name] += 1
        return strict(*args, **kwargs)

    return counted


def instead_of_jaxtyped(*, typechecker):
    """What the import hook puts before each function and class."""
    return check
