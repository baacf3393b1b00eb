"""The runtime type checker of the tests; an int is as good as a float."""

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """A method that gives back its own class (`Self`) is left as it is: the hook sees it without its class."""
    try:
        return _checked(function)
    except BeartypeDecorHintPep673Exception:
        return function
