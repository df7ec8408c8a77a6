"""A table of the user's own: what its entries are, and which of two versions of one key is kept."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    cast,
    final,
    get_type_hints,
)

import msgspec
from msgspec import inspect

from .checks import check_text
from .protocols import E

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

Value: TypeAlias = Any  # of a field, of whatever type
MergeRule: TypeAlias = Literal["newest", "keep", "greatest", "least"]
FieldKind: TypeAlias = Literal[
    "str", "int", "float", "bool", "bytes", "UUID", "Decimal",
    "datetime", "date", "time", "timedelta", "JSON",
]  # fmt: skip

_RULES: Final = ("newest", "keep", "greatest", "least")
_KINDS: Final[dict[type[inspect.Type], FieldKind]] = {
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
_AS_KEYS: Final = frozenset({"str", "int", "bool", "bytes", "UUID", "date", "datetime"})
_ORDERED: Final = frozenset({"str", "int", "date", "datetime", "Decimal"})


class TableField(NamedTuple):
    """One field of a table's entries, and the column that holds it.

    Attributes:
        name: of the attribute.
        column: its name in the database.
        kind: what its values are; "JSON" for whatever is stored as a document. The values of an
            ``Enum`` and of a ``Literal`` are of their kind.
        members: what values are allowed, by what is stored for each; None: all of the kind.
        is_literal: whether these are of a ``Literal``.
        optional: whether None is allowed.
        rule: which of two versions of one key it is taken from.
        annotation: its type, as it is declared.
    """

    name: str
    column: str
    kind: FieldKind
    members: Mapping[str | int, object] | None
    is_literal: bool
    optional: bool
    rule: MergeRule
    annotation: object


@final
class Table(Generic[E]):
    """Says how entries of any type are stored: in memory, SQLite and PostgreSQL alike.

    ::

        PAGE_VIEWS = Table(PageView, "page_view", key="id", newer="seen_at")

        async with open_sqlite_repository("views.db", table=PAGE_VIEWS, create=True) as repository:
            async with open_write_behind_queue(repository) as queue:
                await queue.enqueue(PageView(...))

    Of two versions of one key one row is kept. ``newer`` and ``merge`` decide what it holds, by
    the same rule wherever versions meet, so that it does not matter when they do. There are no
    sums: after an unknown outcome a batch is written again, and would be counted twice.

    To delete a row, store a version that says so: a newer one that has expired, or one with a
    field ``deleted``. It keeps its order among the versions, which a DELETE would not.

    Fields may be str, int, float, bool, bytes, UUID, Decimal, aware datetime, date, time,
    timedelta, an Enum or a Literal of str or of int, each of these or None; and whatever else
    msgspec writes as JSON and reads back as it was.

    Args:
        entry_type: a ``msgspec.Struct``, dataclass or attrs class.
        name: the table's name, exactly as the database has it.
        schema: the schema of PostgreSQL that holds it, likewise; None: the first in the search
            path that has such a table. SQLite ignores it.
        key: the field that identifies an entry, or a tuple of fields: a str, int, bool, bytes,
            UUID, date, aware datetime or Enum, never None.
        newer: the field that says which of two versions is newer: the one with the larger value,
            and of two with the same value the one that arrived later. An int, date, aware
            datetime, Decimal or str; None is smaller than every other value. Without ``newer``
            the one that arrived later is the newer one.
        merge: for fields that are not taken from the newer version (``"newest"``): ``"keep"``
            the value of the version that arrived first, even if it is None; or the
            ``"greatest"`` or ``"least"`` of both, None left out. str are compared by code point.
        columns: names of columns that are not those of their fields.
        expires: the field that says when a row may be deleted, an aware datetime or None.

    Raises:
        TypeError: an argument has the wrong type, or a field has a type that can't do what is
            asked of it; the message names the field.
        ValueError: there is no such field, or a name is empty, or occurs twice.

    Attributes:
        entry_type: the class of the entries.
        name: the table's name.
        schema: the name of its schema, or None.
        fields: all of them, in their order.
    """

    def __init__(
        self,
        entry_type: type[E],
        name: str,
        *,
        schema: str | None = None,
        key: str | Sequence[str],
        newer: str | None = None,
        merge: Mapping[str, MergeRule] | None = None,
        columns: Mapping[str, str] | None = None,
        expires: str | None = None,
    ) -> None:
        check_name("name", name)
        if schema is not None:
            check_name("schema", schema)
        self.entry_type: type[E] = entry_type
        self.name: str = name
        self.schema: str | None = schema
        self.fields: tuple[TableField, ...] = tuple(
            _fields_of(entry_type, _mapping("columns", columns), _mapping("merge", merge))
        )
        self._by_name = {field.name: field for field in self.fields}
        self.key_fields: tuple[TableField, ...] = self._read_key(key)
        self.newer_field: TableField | None = self._ordering("newer", newer)
        self.expires_field: TableField | None = self._expiry(expires)
        self._check_merge(merge or {})
        self.key: Callable[[E], Hashable] = attrgetter(*(field.name for field in self.key_fields))
        self.values: Callable[[E], tuple[Any, ...]] = _getter(self.fields)
        self._of_newer = None if self.newer_field is None else attrgetter(self.newer_field.name)
        self._ruled: tuple[tuple[str, MergeRule], ...] = tuple(
            (field.name, field.rule) for field in self.fields if field.rule != "newest"
        )

    def __repr__(self) -> str:
        return f"<Table {self.name!r} of {self.entry_type.__name__}>"

    def field(self, name: object) -> TableField:
        """Return the field of that name.

        Raises:
            TypeError: ``name`` is no str.
            ValueError: there is none; the message names those that there are.
        """
        if not isinstance(name, str):
            raise TypeError(f"a field's name must be a str, not {type(name).__name__}")
        found = self._by_name.get(name)
        if found is None:
            raise ValueError(
                f"{self.entry_type.__name__} has no field {name!r}; it has "
                f"{', '.join(self._by_name)}"
            )
        return found

    def merge(self, older: E, later: E) -> E:
        """Return what is kept of two versions of one key.

        Args:
            older: the version that arrived first.
            later: the version that arrived later.

        Returns:
            One of the two objects, if it is the result; else a copy of the newer one.

        Raises:
            ValueError: the two have different keys.
            TypeError: values that have to be compared can't be.
        """
        if self.key(older) != self.key(later):
            raise ValueError("older and later must have the same key")
        winner, loser = later, older
        if self._of_newer is not None and is_less(self._of_newer(later), self._of_newer(older)):
            winner, loser = older, later
        changes: dict[str, object] = {}
        for name, rule in self._ruled:
            mine = getattr(winner, name)
            if rule == "keep":
                kept = getattr(older, name)
            else:
                kept = _of_both(rule, mine, getattr(loser, name))
            if kept is not mine:
                changes[name] = kept
        return _changed(winner, changes) if changes else winner

    def make(self, values: Sequence[object]) -> E:
        """Return the entry whose fields have these values, in the order of ``fields``.

        Raises:
            Exception: whatever the class raises.
        """
        names = (field.name for field in self.fields)
        return self.entry_type(**dict(zip(names, values, strict=True)))

    # Looking at what was declared

    def _read_key(self, key: object) -> tuple[TableField, ...]:
        names: tuple[object, ...] = (key,)
        if not isinstance(key, str):
            if not isinstance(key, (tuple, list)):
                raise TypeError(f"key must be a str or a tuple of str, not {type(key).__name__}")
            names = tuple(cast("tuple[object, ...]", key))
        if not names:
            raise ValueError("key must name at least one field")
        if len(set(names)) < len(names):
            raise ValueError("key must name no field twice")
        fields = tuple(self.field(name) for name in names)
        for field in fields:
            if field.kind not in _AS_KEYS or field.is_literal:
                raise TypeError(
                    f"key: field {field.name!r} must be a str, int, bool, bytes, UUID, date, "
                    f"datetime or Enum, and is {_described(field)}"
                )
            if field.optional:
                raise TypeError(f"key: field {field.name!r} must not allow None")
        return fields

    def _ordering(self, argument: str, name: str | None) -> TableField | None:
        if name is None:
            return None
        field = self.field(name)
        if field.kind not in _ORDERED or field.members is not None:
            raise TypeError(
                f"{argument}: field {name!r} must be an int, date, datetime, Decimal or str, and "
                f"is {_described(field)}"
            )
        if field in self.key_fields:
            raise ValueError(f"{argument}: field {name!r} is part of the key")
        return field

    def _expiry(self, name: str | None) -> TableField | None:
        if name is None:
            return None
        field = self.field(name)
        if field.kind != "datetime":
            raise TypeError(
                f"expires: field {name!r} must be a datetime, and is {_described(field)}"
            )
        return field

    def _check_merge(self, merge: Mapping[str, MergeRule]) -> None:
        for name, rule in merge.items():
            self.field(name)
            if rule not in _RULES:
                raise ValueError(f"merge: the rule for {name!r} must be one of {_listed(_RULES)}")
            if rule in {"greatest", "least"}:
                self._ordering("merge", name)
            if self._by_name[name] in self.key_fields:
                raise ValueError(f"merge: field {name!r} is part of the key")
            if self.newer_field is not None and name == self.newer_field.name:
                raise ValueError(f"merge: field {name!r} says which version is newer")


def check_name(argument: str, name: object) -> None:
    """Raise unless a database can have something of that name."""
    check_text(argument, name)
    if "\0" in cast("str", name):
        raise ValueError(f"{argument} must not hold NUL")
    try:
        cast("str", name).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument} must not hold a lone surrogate") from None


def _mapping(argument: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a mapping, not {type(value).__name__}")
    items = dict(cast("Mapping[object, object]", value))
    for name, of_it in items.items():
        if not (isinstance(name, str) and isinstance(of_it, str)):
            raise TypeError(f"{argument} must map str to str")
    return cast("dict[str, str]", items)


def _fields_of(
    entry_type: type, columns: dict[str, str], rules: dict[str, str]
) -> Sequence[TableField]:
    if not isinstance(cast("object", entry_type), type):
        kind = type(entry_type).__name__
        raise TypeError(f"entry_type must be a class, not an object of type {kind}")
    called = entry_type.__name__
    try:
        looked_at = inspect.type_info(entry_type)
    except Exception:  # noqa: BLE001  # whatever looking at somebody's type raises
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
    """Raise if an entry can't be made of its fields."""
    if dataclasses.is_dataclass(entry_type):
        for field in dataclasses.fields(entry_type):
            if not field.init:
                raise TypeError(
                    f"entry_type: field {field.name!r} of {entry_type.__name__} has init=False, so "
                    "it can't be read back"
                )


def field_of(field: inspect.Field, annotation: object, column: str, rule: str | None) -> TableField:
    """Return what msgspec knows about a field, as we need it."""
    found, optional = without_none(field.type)
    kind = _KINDS.get(type(found), "JSON")
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
    """Return what a field is when it is not None, and whether it may be None."""
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


def _getter(fields: Sequence[TableField]) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field in fields]
    if len(names) > 1:
        return attrgetter(*names)
    (name,) = names  # a key is among them
    return lambda entry: (getattr(entry, name),)


def _described(field: TableField) -> str:
    if field.members is not None:
        return "a Literal" if field.is_literal else "an Enum"
    article = "an" if field.kind == "int" else "a"
    return f"{article} {field.kind}" if field.kind != "JSON" else "of another type"


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)


# Comparing and merging


def _instant(value: Value) -> Value:
    # Two datetimes of one zone are compared by their wall clocks, which go back once a year.
    if isinstance(value, datetime) and value.tzinfo is not UTC:
        return value.astimezone(UTC)
    return value


def is_less(one: Value, other: Value) -> bool:
    """Return whether ``one`` is less than ``other``; None is less than everything else."""
    if one is None or other is None:
        return one is None and other is not None
    return bool(_instant(one) < _instant(other))


def _of_both(rule: MergeRule, mine: Value, other: Value) -> Value:
    """Return the greatest or least of two values; ``mine``, if they are equal."""
    if other is None:
        return mine
    if mine is None:
        return other
    less, more = (mine, other) if rule == "greatest" else (other, mine)
    return other if is_less(less, more) else mine


def _changed(entry: E, changes: dict[str, object]) -> E:
    # Both versions were made by their class; made once more, it might refuse or change a field.
    changed = copy.copy(entry)
    put = msgspec.structs.force_setattr if isinstance(changed, msgspec.Struct) else _put
    for name, value in changes.items():
        put(cast("Any", changed), name, value)
    return changed


def _put(entry: object, name: str, value: object) -> None:
    object.__setattr__(entry, name, value)  # also where it is frozen
