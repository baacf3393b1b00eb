"""Frozen settings: read from TOML, overridden by flags, checked by pydantic, refused by name when unknown."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, SupportsIndex, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from unmask.errors import UnmaskError, nearest

T = TypeVar("T")
LARGEST = 2**63 - 1  # of a whole number in a tensor


class OneWord:
    """In a setting's annotation: on the command line it is one word, which the setting itself reads."""


class Settings(BaseModel):
    """Base of every config: frozen, and no key passes unread.

    Attributes:
        closed: its keys are its fields; False where some are settings of another class.
    """

    closed: ClassVar[bool] = True
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **settings: Any) -> None:
        """
        Raises:
            UnmaskError: an unknown setting, with the nearest one; a bad value.
        """
        if self.closed:
            refuse_unknown(settings, set(type(self).model_fields), type(self).__name__)
        try:
            super().__init__(**settings)
        except ValidationError as e:
            raise refusal(e, f"Bad value for {type(self).__name__}") from None

    # As pydantic marks its own: settings within settings are then read without this, and refused with their table.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def known_keys(cls) -> set[str]:
        """What its table in a file may hold."""
        return set(cls.model_fields)

    @field_validator("*", mode="wrap")
    @classmethod
    def _no_truth_as_a_number(cls, value: Any, read: Callable[[Any], Any]) -> Any:
        """``gen_length = true`` is no 1, where the setting itself is no truth value."""
        found = read(value)
        if isinstance(value, bool) and isinstance(found, int | float) and not isinstance(found, bool):
            raise ValueError("give a number")
        return found

    @field_validator("*")
    @classmethod
    def _within_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise ValueError("give a whole number of at most 64 bits")
        return value


S = TypeVar("S", bound=Settings)


def check_seed(seed: Any) -> int:
    """A seed from outside, as a plain number.

    Raises:
        UnmaskError: it is no whole number, or one that does not fit into 64 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex) or not -LARGEST - 1 <= index(seed) <= LARGEST:
        raise UnmaskError(f"The seed is {seed!r}: give a whole number of at most 64 bits.")
    return index(seed)


def check_path(path: str) -> str:
    """A path from outside.

    Raises:
        UnmaskError: it is empty, as an unset variable of a shell is: it would mean the current folder; or no path.
    """
    if not path.strip():
        raise UnmaskError("The path of an output is empty: give one; for the current folder, write a dot.")
    if "\0" in path:
        raise UnmaskError(f"The path {path!r} holds a NUL character, which no file's name may: give another.")
    return path


Output = Annotated[str, AfterValidator(check_path)]
"""Where something is written."""


def build(cls: type[T], values: Mapping[str, Any], *, where: str, known: set[str]) -> T:
    """Validate `values` into `cls` (a pydantic model or dataclass).

    Raises:
        UnmaskError: an unknown key (with the nearest known one) or a value of the wrong kind, naming it.
    """
    tables = {
        name: field.annotation
        for name, field in getattr(cls, "model_fields", {}).items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    for key in values:
        homes = [f"[{name}]" for name, table in tables.items() if key in table.known_keys()]
        if key not in known and homes:
            raise UnmaskError(f"The key {key!r} of {where} belongs into a table: put it under {' or '.join(homes)}.")
    refuse_unknown(values, known, where)
    for name, table in tables.items():
        inside = values.get(name)
        if isinstance(inside, Mapping) and table.closed:
            also = {"name"} if name in table.known_keys() else set()  # of the model, of the task
            refuse_unknown(inside, table.known_keys() | also, f"[{name}] of {where}")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as e:
        raise refusal(e, f"Bad value in {where}") from None


def refuse_unknown(values: Iterable[str], known: set[str], where: str) -> None:
    """
    Raises:
        UnmaskError: a key that is not known, with the nearest known one.
    """
    for key in values:
        if key not in known:
            raise UnmaskError(f"Unknown key {key!r} in {where}: {nearest(key, known)}")


def refusal(error: ValidationError, where: str) -> UnmaskError:
    """The first thing wrong as an error of ours; one that was ours from the start as it is."""
    cause = error.errors(include_url=False)[0].get("ctx", {}).get("error")
    return cause if isinstance(cause, UnmaskError) else UnmaskError(f"{where}: {explain(error)}")


def explain(error: ValidationError) -> str:
    """The first thing wrong, as a sentence; that of an error of ours as it is."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UnmaskError):
        return str(cause)
    leaf = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    if not first["loc"] and first["type"] == "value_error":  # of several settings together: the message names them
        return f"{message}{more}."
    if first["type"] == "dict_type" and isinstance(first["input"], str):  # a flag's
        return f"{leaf} = {first['input']!r}: give each its own, such as {leaf}.NAME=VALUE{more}."
    return f"{leaf} = {first['input']!r} ({message}){more}." if first["type"] != "missing" else f"{leaf} is missing."


def function_of(name: str, what: str, form: str = "module.function") -> Callable[..., Any]:
    """A user's function or class by its dotted path, from the working folder or an installed package.

    Args:
        what: it is for, and how it is spelt, for messages.

    Raises:
        UnmaskError: it cannot be imported, or is no function.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as e:
        raise UnmaskError(f"Cannot import the {what} {name!r} ({e}): give {form}, importable here.") from None
    except Exception as e:  # of the user's own module
        raise UnmaskError(f"Cannot import the {what} {name!r} ({type(e).__name__}: {e}): mend its module.") from e
    if not callable(function):
        raise UnmaskError(f"The {what} {name!r} is no {form.partition('.')[2].lower()}: give {form}.")
    return function


def _ends(value: Any) -> Any:
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("[]()").split(",")]
    if isinstance(value, Sequence):
        return value[0] if len(value) == 1 else tuple(value)
    return value


Ends = Annotated[float | tuple[float, float], BeforeValidator(_ends), OneWord()]
"""A number, or two: at speed 0 and at speed 1, with a geometric mean in between. ``0.01,3`` in one word."""


QUOTED = r'"(?:[^"\\]|\\.)*"'
PAIR = rf'\s*[^=,"\[\]]+=(?:\s*\[(?:{QUOTED}|[^"\[\]])*\]\s*|[^,\[\]]*)'
ITEM = rf'\s*{QUOTED}\s*|[^",]*'


LEAST = 1e-6  # temperature above 0


def divides(temperature: float) -> float:
    """A temperature that scores can be divided by, or 0."""
    if 0 < temperature < LEAST:
        raise ValueError(f"too small to divide by: give 0, which takes the likeliest, or at least {LEAST}")
    return temperature


def parse_spec(spec: str) -> dict[str, Any]:
    """``type:key=value,key=[1,2]`` as a mapping; pydantic reads the values. A list's items may be JSON: ``[".",","]``.

    Raises:
        UnmaskError: a setting without a value, a list that does not end, or an empty item in one.
    """
    type_name, _, settings = spec.strip().partition(":")
    values: dict[str, Any] = {"type": type_name.strip()}
    for pair in _parts(settings, PAIR, spec) if settings else ():
        key, _, value = (part.strip() for part in pair.partition("="))
        if not (key and value):
            raise _unreadable(spec)
        values[key] = _items(value, spec) if value.startswith("[") else value
    return values


def _items(value: str, spec: str) -> list[str]:
    items = [item.strip() for item in _parts(value[1:-1], ITEM, spec)] if value[1:-1].strip() else []
    if not all(items):
        raise UnmaskError(f'Cannot read {spec.strip()!r}: its list {value} has an empty item; quote a comma as ",".')
    try:
        return [json.loads(item) if item.startswith('"') else item for item in items]
    except json.JSONDecodeError:
        raise _unreadable(spec) from None


def _parts(text: str, part: str, spec: str) -> list[str]:
    if not re.fullmatch(f"(?:(?:{part}),)+", text + ","):
        raise _unreadable(spec)
    return re.findall(f"({part}),", text + ",")


def _unreadable(spec: str) -> UnmaskError:
    return UnmaskError(
        f"Cannot read {spec.strip()!r}: write it as type:key=value,key=[item,item], with double quotes around an item "
        "that holds a comma, a bracket or a quote."
    )


def spell_items(items: Iterable[Any]) -> str:
    """A list as `parse_spec` reads it."""
    return "[" + ",".join(map(_spell, map(str, items))) + "]"


def _spell(item: str) -> str:
    plain = item.isprintable() and item == item.strip() and item and not set(item) & set(',[]"')
    return item if plain else json.dumps(item, ensure_ascii=False)


def load_settings(cls: type[S], path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> S:
    """Read a TOML file into `cls` and lay the flags given on the command line over it.

    A file may begin with ``extends = "other.toml"``, a path from its own folder: it then says only what differs.

    Raises:
        UnmaskError: no such file, a file that is not TOML, an unknown key, a bad value.
    """
    values = read_toml(path) if path is not None else {}
    where = "the settings" if path is None else str(path)
    return build(cls, laid_over(values, overrides or {}), where=where, known=set(cls.model_fields))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The values of a TOML file, laid over those of the file that it extends.

    Raises:
        UnmaskError: no such file, or a file that is not TOML.
    """
    return _read_toml(Path(path), [])


def _read_toml(path: Path, inside: list[Path]) -> dict[str, Any]:
    check_path(str(path))
    if path.resolve() in inside:
        raise UnmaskError(f"{path} extends itself: leave out its 'extends'.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UnmaskError(f"No config file at {path}: give the path of a TOML file.") from None
    except OSError as e:
        raise UnmaskError(f"Cannot read the config {path} ({e.strerror}): give the path of a TOML file.") from None
    except RecursionError:
        raise UnmaskError(f"{path} cannot be read: it has brackets within brackets, too deep.") from None
    except ValueError as e:  # of TOML, of UTF-8, of a number of too many digits
        raise UnmaskError(f"{path} is not a TOML file: {str(e).partition(';')[0]}.") from None
    extends = values.pop("extends", None)
    if extends is None:
        return values
    return laid_over(_read_toml(path.parent / str(extends), [*inside, path.resolve()]), values)


def laid_over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Others' values win; tables are merged key by key."""
    merged = dict(values)
    for key, value in others.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = laid_over(merged[key], value) if both else value
    return merged
