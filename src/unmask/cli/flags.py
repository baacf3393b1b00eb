"""Settings in tables as flags: a group for each table, and first of all those that most people need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

from cyclopts import Group, Parameter
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from unmask.settings import OneWord

FIRST, SECOND = Group("Most used", sort_key=0), Group("Start", sort_key=1)  # then the tables


def flags_of(
    name: str,
    tables: Mapping[str, Mapping[str, FieldInfo]],
    flat: Iterable[str],
    first: Mapping[str, str],
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> type[BaseModel]:
    """A model whose fields are tables, for cyclopts to read flags into.

    Args:
        tables: table -> its settings.
        flat: tables whose flags are not prefixed by the table's name, ``--dtype`` instead of ``--model.dtype``.
        first: ``table.setting`` -> its short flag, for those that most people need.
        defaults: by table, where the command's are not those of the settings.

    Returns:
        The model. What was given is what `given` takes from it.
    """
    made: dict[str, Any] = {}
    for number, (table, fields) in enumerate(tables.items(), start=2):
        group = Group(table.capitalize(), sort_key=number)
        own = (defaults or {}).get(table, {})
        found = {
            key: _flag(table, key, field, group, table in set(flat), first, own.get(key, _default(field)))
            for key, field in fields.items()
        }
        model: type[BaseModel] = create_model(f"{name}{table.capitalize()}", **cast(Any, found))
        # Each setting says its whole flag: the table has none, which would take the place of ``--algorithm grpo``.
        made[table] = (Annotated[model | None, Parameter(name="*", group=group)], None)
    return create_model(name, **made)


def _flag(
    table: str, key: str, field: FieldInfo, group: Group, flat: bool, first: Mapping[str, str], default: Any
) -> tuple[Any, Any]:
    plain = "--" + ("" if flat else f"{table}.") + key.replace("_", "-")
    short = first.get(f"{table}.{key}")
    one_word = any(isinstance(each, OneWord) for each in field.metadata)
    own: dict[str, Any] = {"accepts_keys": False, "converter": _first_token} if one_word else {}
    parameter = Parameter(
        name=short or plain,
        group=FIRST if short else group,
        help=_help(field, default),
        show_default=False,
        negative_iterable=(),
        **own,
    )
    kind: Any = Any if one_word else field.annotation
    if field.metadata:
        kind = Annotated[kind, *field.metadata]
    return Annotated[kind, parameter], default


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _first_token(type_: Any, tokens: Any) -> str:
    return str(tokens[0].value)


def _help(field: FieldInfo, default: Any) -> str:
    text = field.description or ""
    told = default is not None and default not in ((), {}, "") and "default" not in text and "off:" not in text
    return f"{text} [default: {default}]" if told else text


def given(flags: BaseModel | None) -> dict[str, dict[str, Any]]:
    """What the user set, by table."""
    if flags is None:
        return {}
    tables = {name: getattr(flags, name) for name in flags.model_fields_set}
    return {
        name: {key: getattr(table, key) for key in table.model_fields_set}
        for name, table in tables.items()
        if table is not None
    }
