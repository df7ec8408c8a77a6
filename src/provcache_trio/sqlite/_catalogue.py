"""Reads the catalogue of SQLite, and checks a declaration against a user's table."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from provcache_trio._disk.sqlite_connection import number_of
from provcache_trio._vocabulary.errors import StoreMisconfiguredError
from provcache_trio._vocabulary.fields import quoted
from provcache_trio._vocabulary.values import without_none

from ._cells import DECIMAL_ORDER, FITTING, affinity_of, codec_of, compare_decimals
from ._plan import TablePlan, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provcache_trio._vocabulary.fields import TableField
    from provcache_trio._vocabulary.table import Table
    from provcache_trio._vocabulary.values import Codec

    from ._cells import Affinity

E = TypeVar("E")

_HAS_STRICT: Final = (3, 37, 0)
_GENERATED: Final = frozenset({2, 3})
# A column of a STRICT table takes only its declared type; one of ANY stores values unchanged.
_OF_STRICT: Final = {"INT": "INTEGER", "ANY": "BLOB", "BLOB": "bytes only"}


class _Column(NamedTuple):
    name: str
    declared: str
    affinity: Affinity
    is_generated: bool
    must_be_given: bool
    refuses_null: bool
    place_in_key: int


def prepare(connection: sqlite3.Connection) -> None:
    """Register the collation that our statements need with a new connection."""
    connection.create_collation(DECIMAL_ORDER, compare_decimals)


def schema_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes with every change of any table."""
    return number_of(connection, "PRAGMA schema_version")


def statements_for(table: Table[Any]) -> Iterable[str]:
    """Yield the statements that create ``table``."""
    columns = [
        f"{quoted(field.column)} {FITTING[field.kind][0]}{'' if field.optional else ' NOT NULL'}"
        for field in table.fields
    ]
    key = ", ".join(quoted(field.column) for field in table.key_fields)
    strict = " STRICT" if sqlite3.sqlite_version_info >= _HAS_STRICT else ""
    lines = ",\n    ".join([*columns, f"PRIMARY KEY ({key})"])
    yield f"CREATE TABLE {quoted(table.name)} (\n    {lines}\n){strict}"
    if table.expires_field is not None:
        column = table.expires_field.column
        index = quoted(f"{table.name}_by_{column}")
        yield f"CREATE INDEX {index} ON {quoted(table.name)} ({quoted(column)})"


def read_plan(connection: sqlite3.Connection, table: Table[E]) -> TablePlan[E] | None:
    """Return the plan of ``table``, or None if the file has no table of that name.

    Raises:
        StoreMisconfiguredError: the table does not fit its declaration; names table and column.
    """
    version = schema_version(connection)
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        raise _misfit(table, f"the file's encoding must be UTF-8, not {encoding}")
    found = connection.execute(
        "SELECT type, sql FROM sqlite_master WHERE name = ? COLLATE NOCASE"
        " AND type IN ('table', 'view')",
        (table.name,),
    ).fetchone()
    if found is None:
        return None
    kind, sql = found
    if kind == "view" or sql.upper().startswith("CREATE VIRTUAL"):
        what = "view" if kind == "view" else "virtual table"
        raise _misfit(table, f"it is a {what}, into which SQLite can't upsert")
    columns = {column.name.lower(): column for column in _columns(connection, table)}
    codecs: dict[str, Codec] = {}
    unfilled: list[TableField] = []
    for field in table.fields:
        column = columns.pop(field.column.lower(), None)
        codec = codec_of(field, _fitting_affinity(table, field, column))
        if field.optional and column is not None and column.refuses_null:
            codec = without_none(codec)
            unfilled.append(field)
        codecs[field.name] = codec
    for column in columns.values():
        if column.must_be_given:
            raise _misfit(
                table,
                f"column {column.name!r} is NOT NULL and has no default, and no field fills it",
                column.name,
            )
    _check_key(connection, table)
    return plan_of(table, codecs, version, unfilled)


def _misfit(table: Table[Any], problem: str, column: str | None = None) -> StoreMisconfiguredError:
    return StoreMisconfiguredError(
        f"table {table.name!r} does not fit {table.entry_type.__name__}: {problem}",
        table=table.name,
        column=column,
    )


def _columns(connection: sqlite3.Connection, table: Table[Any]) -> Iterable[_Column]:
    strict = _is_strict(connection, table)
    rows = connection.execute(f"PRAGMA table_xinfo({quoted(table.name)})").fetchall()
    for _, name, declared, not_null, default, place, hidden in rows:
        says: str = declared.upper()
        of_strict: str = _OF_STRICT.get(says, says)
        affinity = of_strict if strict else affinity_of(declared)
        yield _Column(
            name=name,
            declared=declared,
            affinity=affinity,
            is_generated=hidden in _GENERATED,
            must_be_given=bool(not_null) and default is None and not hidden and not place,
            refuses_null=bool(not_null),
            place_in_key=place,
        )


def _is_strict(connection: sqlite3.Connection, table: Table[Any]) -> bool:
    if sqlite3.sqlite_version_info < _HAS_STRICT:
        return False
    rows = connection.execute(f"PRAGMA table_list({quoted(table.name)})").fetchall()
    return any(schema == "main" and strict for schema, _, _, _, _, strict in rows)


def _fitting_affinity(table: Table[Any], field: TableField, column: _Column | None) -> Affinity:
    if column is None:
        raise _misfit(
            table,
            f"it has no column {field.column!r}, for field {field.name!r}; if it is called otherwise, "
            "name it in columns=",
            field.column,
        )
    if column.is_generated:
        raise _misfit(table, f"column {column.name!r} is generated", column.name)
    fitting = FITTING[field.kind]
    if column.affinity in fitting or (field.kind == "bytes" and column.affinity == "bytes only"):
        return column.affinity
    wanted = " or ".join(one for one in fitting if one != "BLOB") or "BLOB"
    raise _misfit(
        table,
        f"column {column.name!r} of type {column.declared or 'none'} can't hold a {field.kind} "
        f"unchanged; {wanted} can",
        column.name,
    )


def _check_key(connection: sqlite3.Connection, table: Table[Any]) -> None:
    """Raise unless a unique index is on exactly the key, and compares it byte by byte."""
    wanted = {field.column.lower() for field in table.key_fields}
    listed = [quoted(field.column) for field in table.key_fields]
    described = listed[0] if len(listed) == 1 else f"({', '.join(listed)})"
    collated: str | None = None
    for is_unique, name, partial in _indexes(connection, table):
        if not is_unique or partial:
            continue
        parts = connection.execute(f"PRAGMA index_xinfo({quoted(name)})").fetchall()
        keyed = [(column, collation) for _, _, column, _, collation, is_key in parts if is_key]
        if {column and column.lower() for column, _ in keyed} != wanted:
            continue
        others = {collation for _, collation in keyed} - {"BINARY"}
        if not others:
            return
        collated = min(others)
    if collated is not None:
        raise _misfit(table, f"its key {described} is compared by COLLATE {collated}, not BINARY")
    columns = _columns(connection, table)
    if {column.name.lower() for column in columns if column.place_in_key} == wanted:
        # INTEGER PRIMARY KEY is the row's number, and has no index.
        return
    raise _misfit(table, f"it has no unique index on exactly its key {described}")


def _indexes(connection: sqlite3.Connection, table: Table[Any]) -> Iterable[tuple[bool, str, bool]]:
    rows = connection.execute(f"PRAGMA index_list({quoted(table.name)})").fetchall()
    for _, name, is_unique, _, partial in rows:
        yield bool(is_unique), name, bool(partial)
