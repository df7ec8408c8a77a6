"""Reads the catalogue of PostgreSQL, and checks a declaration against a user's table."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from asyncpg import InsufficientPrivilegeError

from provcache_trio._vocabulary.errors import StoreMisconfiguredError
from provcache_trio._vocabulary.fields import quoted

from ._arrays import item_of
from ._columns import FITTING, Column

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Connection

    from provcache_trio._vocabulary.fields import TableField
    from provcache_trio._vocabulary.table import Table

# The base type of a domain; the modifier is that of the column, or else of the innermost domain that
# has one.
_UNWRAPPED: Final = """
    WITH RECURSIVE unwrapped AS (
        SELECT t.*, {modifier} AS modifier, {refuses_null} AS refuses_null,
            {has_default} AS has_default
        FROM pg_type AS t WHERE t.oid = {type}
        UNION ALL
        SELECT t.*, CASE WHEN u.modifier = -1 THEN u.typtypmod ELSE u.modifier END,
            u.refuses_null OR u.typnotnull, u.has_default OR u.typdefault IS NOT NULL
        FROM unwrapped AS u JOIN pg_type AS t ON t.oid = u.typbasetype WHERE u.typtype = 'd'
    )
    SELECT * FROM unwrapped WHERE typtype <> 'd'
"""
_OF_COLUMN: Final = _UNWRAPPED.format(
    type="a.atttypid",
    modifier="a.atttypmod",
    refuses_null="a.attnotnull",
    has_default="a.atthasdef OR a.attidentity <> ''",
)
_IS_ARRAY: Final = "b.typcategory = 'A' AND b.typlen = -1"
# The same of its elements, if it is an array: they may have a domain of their own.
_OF_ELEMENTS: Final = _UNWRAPPED.format(
    type="d.oid",
    modifier="b.modifier",
    refuses_null="b.refuses_null",
    has_default="b.has_default",
)
# The size of a table, or of the partitions of one that has no size itself.
_SIZE: Final = """
SELECT coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size($1::text::regclass))
    ::bigint
FROM pg_partition_tree($1::text::regclass)
"""
# One query, so that a new connection costs one round trip.
CATALOGUE: Final = f"""
SELECT json_build_object(
    'schema', quote_ident(n.nspname),
    'kind', c.relkind,
    'columns', (
        SELECT json_agg(json_build_object(
            'name', a.attname,
            'declared', format_type(a.atttypid, a.atttypmod),
            'type', CASE WHEN s.nspname = 'pg_catalog' THEN e.typname ELSE '' END,
            'named', quote_ident(o.nspname) || '.' || quote_ident(d.typname),
            'is_array', {_IS_ARRAY},
            'modifier', e.modifier,
            'refuses_null', b.refuses_null,
            'has_default', b.has_default,
            'is_generated', a.attgenerated <> '' OR a.attidentity = 'a',
            'is_deterministic', coalesce(l.collisdeterministic, true),
            'labels', (
                SELECT json_agg(g.enumlabel ORDER BY g.enumsortorder)
                FROM pg_enum AS g WHERE g.enumtypid = e.oid
            )
        ) ORDER BY a.attnum)
        FROM pg_attribute AS a
        CROSS JOIN LATERAL ({_OF_COLUMN}) AS b
        JOIN pg_type AS d ON d.oid = CASE WHEN {_IS_ARRAY} THEN b.typelem ELSE b.oid END
        JOIN pg_namespace AS o ON o.oid = d.typnamespace
        CROSS JOIN LATERAL ({_OF_ELEMENTS}) AS e
        JOIN pg_namespace AS s ON s.oid = e.typnamespace
        LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
    'unique', (
        SELECT json_agg(
            (
                SELECT json_agg(a.attname)
                FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
                JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
                WHERE k.place <= i.indnkeyatts
            )
        )
        FROM pg_index AS i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
            AND i.indpred IS NULL AND i.indexprs IS NULL
    )
)::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname::text = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND CASE WHEN $2::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname::text = $2 END
"""  # noqa: S608  # made of text from here

_UNFIT_KINDS: Final = {"m": "a materialized view", "f": "a foreign table"}
_VIEW: Final = "v"


class _Relation(msgspec.Struct):
    schema: str
    kind: str
    columns: list[dict[str, Any]] | None
    unique: list[list[str]] | None


class Catalogue(NamedTuple):
    """A table as the catalogue describes it.

    Attributes:
        target: its name, quoted, in its schema.
        columns: its columns, by name.
    """

    target: str
    columns: dict[str, Column]


def read_catalogue(table: Table[Any], document: str | None) -> Catalogue:
    """Return the catalogue in the server's answer, if its table fits ``table``.

    Raises:
        StoreMisconfiguredError: it does not fit, or does not exist; the message names table and
            column.
    """
    if document is None:
        where = f"schema {table.schema!r}"
        if table.schema is None:
            where = "the search path, and no schema= was given"
        raise StoreMisconfiguredError(
            f"there is no table {table.name!r} in {where}; make it, or open the repository with "
            "create=True",
            table=table.name,
        )
    relation = msgspec.json.decode(document, type=_Relation)
    if relation.kind in _UNFIT_KINDS:
        raise _misfit(
            table, f"it is {_UNFIT_KINDS[relation.kind]}, into which PostgreSQL can't upsert"
        )
    columns = {one["name"]: Column(**one) for one in relation.columns or ()}
    fields = {field.column: field for field in table.fields}
    for name, field in fields.items():
        _check_column(table, field, columns.get(name))
    for column in columns.values():
        is_needed = column.refuses_null and not column.has_default and not column.is_generated
        if is_needed and column.name not in fields:
            raise _misfit(
                table,
                f"column {column.name!r} is NOT NULL and has no default, and no field fills it",
                column.name,
            )
    if relation.kind != _VIEW:
        # The catalogue has no index of a view; the server finds it.
        _check_key(table, columns, relation.unique or [])
    return Catalogue(f"{relation.schema}.{quoted(table.name)}", columns)


def _misfit(table: Table[Any], problem: str, column: str | None = None) -> StoreMisconfiguredError:
    return StoreMisconfiguredError(
        f"table {table.name!r} does not fit {table.entry_type.__name__}: {problem}",
        table=table.name,
        column=column,
    )


def _check_column(table: Table[Any], field: TableField, column: Column | None) -> None:
    if column is None:
        raise _misfit(
            table,
            f"it has no column {field.column!r}, for field {field.name!r}; if it is called otherwise, "
            "name it in columns=",
            field.column,
        )
    if column.is_generated:
        raise _misfit(table, f"column {column.name!r} is generated", column.name)
    item = item_of(field) if column.is_array else field
    if item is None or not _holds(item, column):
        raise _misfit(
            table,
            f"column {column.name!r} of type {column.declared} can't hold a {field.kind} "
            f"unchanged; {_listed(FITTING[field.kind])} can",
            column.name,
        )
    for label in item.members or ():
        if column.labels is not None and label not in column.labels:
            raise _misfit(
                table,
                f"column {column.name!r} of type {column.declared} has no label {label!r}",
                column.name,
            )


def _holds(field: TableField, column: Column) -> bool:
    if column.labels is not None:
        return field.kind == "str"
    if column.type == "interval" and column.modifier != -1:
        return False
    if column.is_array and field.kind == "JSON":
        return False
    return column.type in FITTING[field.kind]


def _listed(types: Iterable[str]) -> str:
    return " or ".join(types)


def _check_key(table: Table[Any], columns: dict[str, Column], unique: Iterable[list[str]]) -> None:
    """Raise unless a unique index is on exactly the key, and distinguishes all texts."""
    wanted = [field.column for field in table.key_fields]
    for name in wanted:
        if not columns[name].is_deterministic:
            raise _misfit(
                table,
                f"its key {quoted(name)} has a collation that takes different texts for equal",
                name,
            )
    if not any({*names} == {*wanted} for names in unique):
        listed = ", ".join(map(quoted, wanted))
        described = listed if len(wanted) == 1 else f"({listed})"
        raise _misfit(table, f"it has no unique index on exactly its key {described}")


async def size_of(connection: Connection, name: str) -> int | None:
    """Return how many bytes the table ``name`` takes, or None if this role may not ask.

    Hardened servers revoke that right; whatever else is asked of them is worth an answer.
    """
    with suppress(InsufficientPrivilegeError):
        size: int = await connection.fetchval(_SIZE, name)
        return size
    return None
