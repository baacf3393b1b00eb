"""Frozen settings: read from TOML, overridden by flags, checked by pydantic, refused by name when unknown."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unmask.errors import UnmaskError, nearest

T = TypeVar("T")


class Settings(BaseModel):
    """Base of every config: frozen, and no key passes unread."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def build(cls: type[T], values: Mapping[str, Any], *, where: str, known: set[str]) -> T:
    """Validate `values` into `cls` (a pydantic model or dataclass).

    Raises:
        UnmaskError: an unknown key (with the nearest known one) or a value of the wrong kind, naming it.
    """
    for key in values:
        if key not in known:
            raise UnmaskError(f"Unknown key {key!r} in {where}: {nearest(key, known)}")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as e:
        raise refusal(e, f"Bad value in {where}") from None


def refusal(error: ValidationError, where: str) -> UnmaskError:
    """The first thing wrong as an error of ours; one that was ours from the start as it is."""
    cause = error.errors(include_url=False)[0].get("ctx", {}).get("error")
    return cause if isinstance(cause, UnmaskError) else UnmaskError(f"{where}: {explain(error)}")


def explain(error: ValidationError) -> str:
    """The first thing wrong, as a sentence."""
    first = error.errors(include_url=False)[0]
    leaf = ".".join(str(part) for part in first["loc"]) or "value"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{leaf} = {first['input']!r}: {message}{more}." if first["type"] != "missing" else f"{leaf} is missing."


def load_settings(cls: type[S], path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> S:
    """Read a TOML file into `cls` and lay the flags given on the command line over it.

    Raises:
        UnmaskError: no such file, a file that is not TOML, an unknown key, a bad value.
    """
    values: dict[str, Any] = {}
    where = "the settings"
    if path is not None:
        where = str(path)
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UnmaskError(f"No config file at {path}: give the path of a TOML file.") from None
        except OSError as e:
            raise UnmaskError(f"Cannot read the config {path} ({e.strerror}): give the path of a TOML file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise UnmaskError(f"{path} is not a TOML file: {e}.") from None
    return build(cls, {**values, **(overrides or {})}, where=where, known=set(cls.model_fields))
