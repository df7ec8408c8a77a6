"""``Table``: how entries of a type of the user's own are keyed, merged and stored."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final

from .fields import TableField, check_name, fields_of
from .merging import changed_copy, is_less, of_both
from .protocols import E

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

    from .fields import MergeRule

_RULES: Final = ("newest", "keep", "greatest", "least")
_AS_KEYS: Final = frozenset({"str", "int", "bool", "bytes", "UUID", "date", "datetime"})
# What to take instead of a type that has no order.
_INSTEAD: Final = {"float": "; NaN has no order, so use Decimal"}
_ORDERED: Final = frozenset({"str", "int", "date", "datetime", "Decimal"})


@final
class Table(Generic[E]):
    """Declares how entries of any type are stored, alike in memory, SQLite and PostgreSQL.

    ::

        PAGE_VIEWS = Table(PageView, "page_view", key="id", newer="seen_at")

        async with open_sqlite_repository("views.db", table=PAGE_VIEWS, create=True) as repository:
            async with open_write_behind_queue(repository) as queue:
                await queue.enqueue(PageView(...))

    Two versions of one key become one row. ``newer`` and ``merge`` decide what it holds, by the
    same rule wherever versions meet, so it does not matter where that is. There are no sums: after
    an unknown outcome a batch is written again, and would be counted twice.

    To delete a row, store a version that marks it as deleted: a newer one that has expired, or one
    with a field ``deleted``. It keeps its order among the versions, which a DELETE would not.

    Fields may be str, int, float, bool, bytes, UUID, Decimal, aware datetime, date, time,
    timedelta, an Enum or a Literal of str or of int, or one of these or None; and any other type
    whose values msgspec writes as JSON and reads back equal.

    Args:
        entry_type: a ``msgspec.Struct``, dataclass or attrs class.
        name: the table's name, exactly as the database has it.
        schema: the exact name of the PostgreSQL schema that holds it; None: the first in the
            search path that has such a table. SQLite ignores it.
        key: the field that identifies an entry, or a tuple of fields: a str, int, bool, bytes,
            UUID, date, aware datetime or Enum, never None.
        newer: the field that decides which of two versions is newer: the one with the larger value,
            or the later arrival if both are equal. An int, date, aware datetime, Decimal or str;
            None is smaller than every other value. Without ``newer`` the later arrival is the newer
            one.
        merge: for fields that are not taken from the newer version (``"newest"``): ``"keep"``
            the value of the version that arrived first, even if it is None; or the
            ``"greatest"`` or ``"least"`` of both, None left out. str are compared by code point.
        columns: the names of columns that differ from their fields.
        expires: the field with the moment when a row may be deleted, an aware datetime or None.

    Raises:
        TypeError: an argument has the wrong type, or a field's type does not allow its use; the
            message names the field.
        ValueError: there is no such field; or a name is empty or occurs twice.

    Attributes:
        entry_type: the class of the entries.
        name: the table's name.
        schema: the name of its schema, or None.
        fields: all fields, in the order of their declaration.
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
            fields_of(entry_type, _mapping("columns", columns), _mapping("merge", merge))
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
            TypeError: ``name`` is not a str.
            ValueError: there is none; the message lists the fields.
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
        """Merge two versions of one key.

        Args:
            older: the version that arrived first.
            later: the version that arrived later.

        Returns:
            One of the two objects if it equals the result; else a changed copy of the newer one.

        Raises:
            ValueError: the two have different keys.
            TypeError: values can't be compared.
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
                kept = of_both(rule, mine, getattr(loser, name))
            if kept is not mine:
                changes[name] = kept
        return changed_copy(winner, changes) if changes else winner

    def make(self, values: Sequence[object]) -> E:
        """Return the entry whose fields have these values, in the order of ``fields``.

        Raises:
            Exception: whatever the class raised.
        """
        names = (field.name for field in self.fields)
        return self.entry_type(**dict(zip(names, values, strict=True)))

    # Checks of the declaration

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
                f"is {_described(field)}{_INSTEAD.get(field.kind, '')}"
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


def _getter(fields: Sequence[TableField]) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field in fields]
    if len(names) > 1:
        return attrgetter(*names)
    # A table has at least one field, its key.
    (name,) = names
    return lambda entry: (getattr(entry, name),)


def _described(field: TableField) -> str:
    if field.members is not None:
        return "a Literal" if field.is_literal else "an Enum"
    article = "an" if field.kind == "int" else "a"
    return f"{article} {field.kind}" if field.kind != "JSON" else "of another type"


def _listed(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)
