"""How entries of one type are stored in one table: its statements and their arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from provcache_trio._vocabulary.errors import EntryRejectedError, unfit
from provcache_trio._vocabulary.fields import quoted
from provcache_trio._vocabulary.values import (
    argument,
    entry_maker,
    parts_of,
    refusal,
    report_unfilled,
    wrong_type,
)

from ._codecs import codec_of
from ._statements import Argument, StoredColumn, deletion_of, sent, statements_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from asyncpg import PostgresError

    from provcache_trio._vocabulary.fields import TableField
    from provcache_trio._vocabulary.table import Table
    from provcache_trio._vocabulary.values import Codec

    from ._catalogue import Catalogue
    from ._codecs import ColumnCodec
    from ._columns import Column
    from ._statements import ColumnRule, Deletion, Statements

E = TypeVar("E")
# A part of each argument, for some entries.
Slice: TypeAlias = tuple[Any, ...]

_C_ORDER: Final = ' COLLATE "C"'
# The most rows that are deleted at once, so that others may write in between.
MOST_DELETED_AT_ONCE: Final = 2000
# The most bytes of a value that a message of the server quotes.
_MOST_QUOTED_BYTES: Final = 64
_ABOUT_COLUMNS: Final = re.compile(r"\([^()]*\)=\(").search


class Comparison(NamedTuple):
    """Compares a field with a value.

    Attributes:
        column: its column, quoted.
        order: the collation as a clause; "" except for text.
        sent: the argument by which the value is sent.
        checked: returns the value as ``sent`` packs it; raises TypeError or ValueError.
    """

    column: str
    order: str
    sent: Argument
    checked: Callable[[object], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan(Generic[E]):
    """The statements for a table, and the functions that convert arguments and rows.

    Attributes:
        target: the table's name, quoted, in its schema.
        columns: all stored columns.
        sent: the arguments for entries.
        sent_keys: the arguments for keys.
        statements: the statements.
        key: returns the key of an entry.
        merge: merges two versions of one key.
        refusal: returns the error for an entry that can't be sent, or None.
        split: returns the values of entries, for each of ``sent``; raises AttributeError.
        split_keys: returns the values of keys, for each of ``sent_keys``; raises TypeError or
            ValueError.
        entry_of: returns the entry of a row; raises StoreMisconfiguredError.
        index_of: returns the index of the entry that an error of the server is about, or None.
        fields_by_column: the names of fields, by column.
        comparison: returns the comparison for a field's name; raises TypeError or ValueError.
        newer: the name of the field that decides which version is newer, or None.
        report: logs what ``check`` finds odd about the table, and is no error.
    """

    target: str
    columns: tuple[StoredColumn, ...]
    sent: tuple[Argument, ...]
    sent_keys: tuple[Argument, ...]
    statements: Statements
    key: Callable[[E], Hashable]
    merge: Callable[[E, E], E]
    refusal: Callable[[E], EntryRejectedError | None]
    split: Callable[[Sequence[E]], Iterable[Sequence[Any]]]
    split_keys: Callable[[Sequence[Any]], Iterable[Sequence[Any]]]
    entry_of: Callable[[Sequence[Any]], E]
    index_of: Callable[[PostgresError, Sequence[E]], int | None]
    fields_by_column: Mapping[str, str]
    comparison: Callable[[str], Comparison]
    newer: str | None
    report: Callable[[], None]

    def once_each(self, entries: Sequence[E]) -> Sequence[E]:
        """Return ``entries`` with the versions of each key merged, as a statement takes a key once."""
        if len({*map(self.key, entries)}) == len(entries):
            return entries
        merged: dict[Hashable, E] = {}
        for entry in entries:
            key = self.key(entry)
            merged[key] = self.merge(merged[key], entry) if key in merged else entry
        return tuple(merged.values())

    def pack(self, entries: Sequence[E]) -> Slice:
        """Pack ``entries`` into a slice for ``arguments_of``.

        Raises:
            AttributeError, TypeError, UnfitError, ValueError: an entry can't be sent. Not every
                fault is found here; the server finds the others.
        """
        split = self.split(entries)
        return tuple(one.pack(values) for one, values in zip(self.sent, split, strict=True))

    def arguments_of(self, slices: Sequence[Slice]) -> tuple[object, ...]:
        """Return the arguments of ``upsert`` for entries that were packed in slices."""
        pieces = [*zip(*slices, strict=True)] if slices else [()] * len(self.sent)
        return tuple(one.join(many) for one, many in zip(self.sent, pieces, strict=True))

    def key_arguments(self, keys: Sequence[Any]) -> tuple[object, ...]:
        """Return the arguments of ``select`` and ``delete``; raises TypeError or ValueError."""
        split = self.split_keys(keys)
        return tuple(
            one.join([one.pack(values)]) for one, values in zip(self.sent_keys, split, strict=True)
        )

    def unfit(self, entries: Sequence[E]) -> EntryRejectedError:
        """Return the error for the first of ``entries`` that can't be sent."""
        for index, entry in enumerate(entries):
            error = self.refusal(entry)
            if error is not None:
                error.index = index
                return error
        return unfit("an entry was changed while it was being stored")

    def deletion(self, before: object, equals: Mapping[str, object]) -> Deletion:
        """Return how the rows that match are deleted.

        Raises:
            TypeError: a value can't be that of its field, or can't be compared.
            ValueError: there is no such field.
        """
        conditions: list[str] = []
        arguments: list[object] = []

        def value_of(how: Comparison, value: object) -> str:
            arguments.append(how.sent.join([how.sent.pack([value])]))
            name, _ = how.sent.columns[0]
            return f"(SELECT {name} FROM ({sent([how.sent], len(arguments))}) AS sent)"

        for name, value in equals.items():
            how = self.comparison(name)
            checked = how.checked(value)
            conditions.append(
                f"{how.column} IS NULL"
                if checked is None
                else f"{how.column}{how.order} = {value_of(how, checked)}"
            )
        if before is not None and self.newer is not None:
            how = self.comparison(self.newer)
            older = f"{how.column}{how.order} < {value_of(how, how.checked(before))}"
            # None is older than every other value.
            conditions.append(f"({how.column} IS NULL OR {older})")
        return deletion_of(
            self.target, self.columns, conditions, tuple(arguments), MOST_DELETED_AT_ONCE
        )


# Tables of users


def plan_of(table: Table[E], catalogue: Catalogue) -> Plan[E]:
    """Return the plan for ``table`` in the table that the catalogue describes."""
    columns = {field.name: catalogue.columns[field.column] for field in table.fields}
    codecs = {field.name: codec_of(field, columns[field.name]) for field in table.fields}
    plain = {name: one.codec for name, one in codecs.items()}
    stored = tuple(
        _stored(table, field, columns[field.name], codecs[field.name]) for field in table.fields
    )
    arguments = {field.name: _argument(field, codecs[field.name]) for field in table.fields}
    keys = tuple(arguments[field.name] for field in table.key_fields)
    expires = table.expires_field

    return Plan(
        target=catalogue.target,
        columns=stored,
        sent=tuple(arguments.values()),
        sent_keys=keys,
        statements=statements_of(
            catalogue.target,
            stored,
            tuple(arguments.values()),
            keys,
            None if expires is None else quoted(expires.column),
        ),
        key=table.key,
        merge=table.merge,
        refusal=_refuser(table, plain),
        split=_splitter(table),
        split_keys=_key_splitter(table, plain),
        entry_of=entry_maker(table, plain),
        index_of=_index_finder(table, catalogue),
        fields_by_column={field.column: field.name for field in table.fields},
        comparison=_comparer(table, columns, plain, arguments),
        newer=None if table.newer_field is None else table.newer_field.name,
        report=partial(
            report_unfilled,
            table,
            [one for one in table.fields if one.optional and columns[one.name].refuses_null],
        ),
    )


def _refuser(
    table: Table[E], codecs: Mapping[str, Codec]
) -> Callable[[E], EntryRejectedError | None]:
    def refused(entry: E) -> EntryRejectedError | None:
        if type(entry) is not table.entry_type:
            # A subclass would lose fields.
            return wrong_type(table, entry)
        return refusal(table, codecs, entry)

    return refused


def _key_splitter(
    table: Table[Any], codecs: Mapping[str, Codec]
) -> Callable[[Sequence[Any]], Iterable[Sequence[Any]]]:
    def split_keys(many: Sequence[Any]) -> Iterable[Sequence[Any]]:
        rows = [parts_of(table, key) for key in many]
        for row in rows:
            for field, value in zip(table.key_fields, row, strict=True):
                # Raises TypeError with the name of the field.
                argument(field, codecs[field.name], value)
        return [[row[number] for row in rows] for number in range(len(table.key_fields))]

    return split_keys


def _comparer(
    table: Table[Any],
    columns: Mapping[str, Column],
    codecs: Mapping[str, Codec],
    arguments: Mapping[str, Argument],
) -> Callable[[str], Comparison]:
    def comparison(name: str) -> Comparison:
        field = table.field(name)
        if field.kind == "JSON":
            raise TypeError(f"{name} is stored as JSON, so it can't be compared")

        def checked(value: object) -> object:
            # Raises TypeError with the name of the field.
            argument(field, codecs[name], value)
            return value

        order = "" if columns[name].is_deterministic else _C_ORDER
        return Comparison(quoted(field.column), order, arguments[name], checked)

    return comparison


def _splitter(table: Table[E]) -> Callable[[Sequence[E]], Iterable[Sequence[Any]]]:
    entry_type, values_of = table.entry_type, table.values
    nothing: tuple[Sequence[Any], ...] = ((),) * len(table.fields)

    def split(entries: Sequence[E]) -> Iterable[Sequence[Any]]:
        if {*map(type, entries)} - {entry_type}:
            raise TypeError("there is an entry of another type")
        return [*zip(*map(values_of, entries), strict=True)] or nothing

    return split


def _stored(
    table: Table[Any], field: TableField, column: Column, codec: ColumnCodec
) -> StoredColumn:
    rule: ColumnRule = field.rule
    if field in table.key_fields:
        rule = "key"
    elif field is table.newer_field:
        rule = "newer"
    is_text = column.type in {"text", "varchar"} and not column.is_array
    told_apart = "{}::text" if column.type == "json" else "{}"
    return StoredColumn(
        name=quoted(field.column),
        rule=rule,
        order=_C_ORDER if is_text else "",
        # A collation may treat different texts as equal.
        told_apart="{}" + _C_ORDER if is_text else told_apart,
        may_be_null=not column.refuses_null,
        read=codec.read,
        type=column.named,
    )


def _argument(field: TableField, codec: ColumnCodec) -> Argument:
    return Argument(
        columns=((quoted(field.column), codec.made),),
        rows=codec.rows,
        pack=codec.packed,
        join=codec.join,
    )


# Which entry an error is about


def _index_finder(
    table: Table[E], catalogue: Catalogue
) -> Callable[[PostgresError, Sequence[E]], int | None]:
    """Return a function that finds the key in the detail of an error.

    The server quotes the row, "Failing row contains (…, …)", in its own language, beginning with
    the table's first column. The queue treats the index as a hint, so a wrong one, from a detail
    about another table, does no harm.
    """
    leading = [*catalogue.columns][: len(table.key_fields)]
    ours = f"({', '.join(leading)})=("
    fields = {field.column: field for field in table.key_fields}
    if {*leading} != {*fields}:
        return lambda _error, _entries: None
    ordered = [fields[column].name for column in leading]

    def index_of(error: PostgresError, entries: Sequence[E]) -> int | None:
        detail = error.detail if error.table_name else None
        if not isinstance(detail, str) or (_ABOUT_COLUMNS(detail) and ours not in detail):
            # Other columns that it quotes may be the key of another entry.
            return None
        for index, entry in enumerate(entries):
            texts = [_quoted_by_server(getattr(entry, name)) for name in ordered]
            beginning = f"({', '.join(texts)}"
            if f"{beginning}, " in detail or f"{beginning})" in detail:
                return index
        return None

    return index_of


def _quoted_by_server(value: object) -> str:
    """Return a part of a key as the server quotes it, as far as its settings do not matter."""
    # The value of an Enum.
    plain: object = getattr(value, "value", value)
    text = str(plain)
    if isinstance(plain, bool):
        text = "t" if plain else "f"
    elif isinstance(plain, bytes):
        text = f"\\x{plain.hex()}"
    encoded = text.encode()
    if len(encoded) <= _MOST_QUOTED_BYTES:
        return text
    return encoded[:_MOST_QUOTED_BYTES].decode(errors="ignore") + "..."
