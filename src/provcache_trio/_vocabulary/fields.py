"""The fields of a table's entries: what msgspec knows of each, and the column that holds it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, cast, get_type_hints

from msgspec import inspect

from .checks import check_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

MergeRule: TypeAlias = Literal["newest", "keep", "greatest", "least"]
FieldKind: TypeAlias = Literal[
    "str", "int", "float", "bool", "bytes", "UUID", "Decimal",
    "datetime", "date", "time", "timedelta", "JSON",
]  # fmt: skip


_KIND_OF: Final[dict[type[inspect.Type], FieldKind]] = {
    inspect.StrType: "str",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.BoolType: "bool",
    inspect.BytesType: "bytes",
    inspect.UUIDType: "UUID",
    inspect.DecimalType: "Decimal",
    inspect.DateTimeType: "datetime",
    inspect.DateType: "date",
    inspect.TimeType: "time",
    inspect.TimeDeltaType: "timedelta",
}


class TableField(NamedTuple):
    """One field of a table's entries, and the column that holds it.

    Attributes:
        name: the name of the attribute.
        column: its name in the database.
        kind: the type of its values; "JSON" for everything that is stored as a document; for an
            ``Enum`` or a ``Literal`` the type of its members' values.
        members: the allowed values, by the stored value of each; None: all of the kind.
        is_literal: whether these are the values of a ``Literal``.
        optional: whether None is allowed.
        rule: how two versions of one key are merged in this field.
        annotation: its declared type.
    """

    name: str
    column: str
    kind: FieldKind
    members: Mapping[str | int, object] | None
    is_literal: bool
    optional: bool
    rule: MergeRule
    annotation: object


def fields_of(
    entry_type: type, columns: Mapping[str, str], rules: Mapping[str, str]
) -> Sequence[TableField]:
    if not isinstance(cast("object", entry_type), type):
        kind = type(entry_type).__name__
        raise TypeError(f"entry_type must be a class, not an object of type {kind}")
    called = entry_type.__name__
    try:
        looked_at = inspect.type_info(entry_type)
    except Exception:  # noqa: BLE001  # looking at a user's type may raise anything
        raise TypeError(f"entry_type: msgspec can't decode {called}") from None
    if not isinstance(looked_at, (inspect.StructType, inspect.DataclassType)):
        raise TypeError(
            f"entry_type must be a msgspec.Struct, dataclass or attrs class; {called} is none"
        )
    _check_constructor(entry_type)
    annotations = get_type_hints(entry_type, include_extras=True)
    fields = [
        field_of(one, annotations[one.name], columns.get(one.name, one.name), rules.get(one.name))
        for one in looked_at.fields
    ]
    names = [field.name for field in fields]
    for name in columns:
        if name not in names:
            raise ValueError(f"columns: {called} has no field {name!r}; it has {', '.join(names)}")
    taken: set[str] = set()
    for field in fields:
        check_name(f"columns: the column of field {field.name!r}", field.column)
        if field.column in taken:
            raise ValueError(f"columns: two fields have the column {field.column!r}")
        taken.add(field.column)
    return fields


def _check_constructor(entry_type: type) -> None:
    """Raise unless an entry can be constructed from its fields."""
    if dataclasses.is_dataclass(entry_type):
        for field in dataclasses.fields(entry_type):
            if not field.init:
                raise TypeError(
                    f"entry_type: field {field.name!r} of {entry_type.__name__} has init=False, so "
                    "it can't be read back"
                )


def field_of(field: inspect.Field, annotation: object, column: str, rule: str | None) -> TableField:
    """Return the table field for a field as msgspec describes it."""
    found, optional = without_none(field.type)
    kind = _KIND_OF.get(type(found), "JSON")
    members: dict[str | int, object] | None = None
    if isinstance(found, inspect.EnumType):
        members = {member.value: member for member in found.cls}
    elif isinstance(found, inspect.LiteralType):
        values = found.values
        optional = optional or None in values
        members = {value: value for value in values if value is not None}
    if members is not None:
        kind = _kind_of_members(field.name, members)
    return TableField(
        name=field.name,
        column=column,
        kind=kind,
        members=members,
        is_literal=isinstance(found, inspect.LiteralType),
        optional=optional,
        rule=cast("MergeRule", rule or "newest"),
        annotation=annotation,
    )


def without_none(found: inspect.Type) -> tuple[inspect.Type, bool]:
    """Return the type of a field without None, and whether None is allowed."""
    while isinstance(found, inspect.Metadata):
        found = found.type
    if not isinstance(found, inspect.UnionType):
        return found, isinstance(found, inspect.AnyType)
    others = [one for one in found.types if not isinstance(one, inspect.NoneType)]
    optional = len(others) < len(found.types)
    return (without_none(others[0])[0] if len(others) == 1 else found), optional


def _kind_of_members(name: str, members: Collection[str | int]) -> FieldKind:
    if all(type(value) is str for value in members):
        return "str"
    if all(type(value) is int for value in members):
        return "int"
    raise TypeError(f"entry_type: the values of field {name!r} must all be str, or all int")


def check_name(argument: str, name: object) -> None:
    """Raise unless ``name`` can be a name in a database."""
    check_text(argument, name)
    if "\0" in cast("str", name):
        raise ValueError(f"{argument} must not hold NUL")
    try:
        cast("str", name).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument} must not hold a lone surrogate") from None


def quoted(name: str) -> str:
    """Return ``name``, quoted for a statement of SQLite or PostgreSQL."""
    return '"' + name.replace('"', '""') + '"'
