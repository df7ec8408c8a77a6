"""The statements that store entries in a table, generated from its columns.

There is one generator for all tables: that of ``ProvcacheEntry`` and those of users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# A statement and its arguments.
Request: TypeAlias = tuple[str, tuple[object, ...]]
ColumnRule: TypeAlias = Literal["key", "newer", "newest", "keep", "greatest", "least"]

# This writes to the log, so that COMMIT waits for standbys, if it waits for any.
COMMIT_IN_LOG: Final = "SELECT pg_logical_emit_message(true, 'provcache_trio', '')"
# Whether COMMIT waits for standbys, while this role may not write that message.
MAY_NOT_COMMIT_IN_LOG: Final = """
SELECT current_setting('synchronous_standby_names') <> ''
    AND NOT bool_and(has_function_privilege(oid, 'EXECUTE'))
FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'pg_logical_emit_message'
    AND proargtypes[2] = 'text'::regtype
"""
# A sequence in a default that this role may not use. Identity columns need no right on theirs.
# CASE, as the function raises for what is no sequence, and joins have no order.
FORBIDDEN_SEQUENCES: Final = """
SELECT a.attname, quote_ident(n.nspname) || '.' || quote_ident(s.relname), quote_ident(current_user)
FROM pg_attribute AS a
JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
    AND d.refclassid = 'pg_class'::regclass
JOIN pg_class AS s ON s.oid = d.refobjid
JOIN pg_namespace AS n ON n.oid = s.relnamespace
WHERE a.attrelid = $1::text::regclass AND a.attname <> ALL ($2::text[])
    AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
ORDER BY a.attnum LIMIT 1
"""
CURSOR: Final = "provcache_doomed"


class StoredColumn(NamedTuple):
    """A column of the table.

    Attributes:
        name: its name, quoted where necessary.
        rule: how two versions of one key are merged in it.
        order: the collation that orders its values, as a clause; "" except for text.
        told_apart: the expression that distinguishes two values; ``{}`` is the column.
        may_be_null: whether it may be NULL.
        read: the expression that reads it; ``{}`` is the column.
        type: the type that its text is cast to, for a column of the key.
    """

    name: str
    rule: ColumnRule
    order: str = ""
    told_apart: str = "{}"
    may_be_null: bool = False
    read: str = "{}"
    type: str = "bytea"


class Argument(NamedTuple):
    """One argument of a statement: the values of many entries for one or several columns.

    asyncpg encodes an array in half a microsecond per element, and all arrays in one step: six
    milliseconds for 500 entries, in which no other task runs and the server waits. So most arrays
    are packed here into few values, in a tenth of that time. The server unpacks them as fast as it
    reads arrays.

    Attributes:
        columns: the names, and for each the expression that makes it from a row ``{row}``.
        rows: the function that yields rows from the argument ``{}``; None: the columns are made
            from the argument ``{}`` itself and ``place``, which counts rows from 1.
        pack: packs the values of some entries into a piece; may raise UnfitError, TypeError or
            ValueError.
        join: returns the argument made of all pieces.
    """

    columns: tuple[tuple[str, str], ...]
    rows: str | None
    pack: Callable[[Sequence[Any]], Any]
    join: Callable[[Sequence[Any]], object]


@dataclass(frozen=True, kw_only=True)
class Statements:
    """The statements that are sent to the server.

    Attributes:
        upsert: stores rows; its arguments are those of the columns.
        upsert_changes: the same, without locking rows that would not change.
        select: reads rows by key; its arguments are those of the key's columns.
        count: counts rows.
        delete: deletes rows by key, with the same arguments.
        delete_expired: deletes rows that expired by a moment, in microseconds since 1970: so
            many; None: none ever expires.
        upsert_locks: whether ``upsert`` locks rows that stay as they are, which is written to
            the log.
    """

    upsert: str
    upsert_changes: str
    select: str
    count: str
    delete: str
    delete_expired: str | None
    upsert_locks: bool


def statements_of(
    target: str,
    columns: Sequence[StoredColumn],
    arguments: Sequence[Argument],
    key_arguments: Sequence[Argument],
    expires: str | None,
) -> Statements:
    """Return the statements for a table.

    Args:
        target: its name, quoted, in its schema.
        columns: all stored columns, in the order in which they are read.
        arguments: the arguments for entries.
        key_arguments: the arguments for keys.
        expires: the name of the column by which rows expire.
    """
    keys = [column.name for column in columns if column.rule == "key"]
    rows = _Rows(target, columns, keys)
    among = rows.among(f"SELECT {_list(keys)} FROM ({sent(key_arguments)}) AS sent")
    return Statements(
        upsert=rows.upsert(arguments, ""),
        # Rows that would not change are left out first, as ON CONFLICT would lock them, and even
        # that is written to the log. Looking for them costs a fifth of the time of new rows.
        upsert_changes=rows.upsert(arguments, rows.only_changes()),
        select=f"SELECT {_list(column.read.format(column.name) for column in columns)}"
        f" FROM {target} WHERE {among}",
        count=f"SELECT count(*) FROM {target}",
        delete=rows.delete(f"WHERE {among} ORDER BY {rows.key_order()} FOR UPDATE"),
        # Rows that are being written are left for the next time: waiting for them while holding
        # others, in the order of their expiry, could end in a deadlock.
        delete_expired=None
        if expires is None
        else rows.delete(
            f"WHERE {expires} <= timestamptz 'epoch'"
            " + $1::int8 / 1000000 * interval '1 s' + $1::int8 % 1000000 * interval '1 us'"
            f" ORDER BY {expires} LIMIT $2 FOR UPDATE SKIP LOCKED"
        ),
        upsert_locks=any(column.rule not in {"key", "keep"} for column in columns),
    )


class Deletion(NamedTuple):
    """The statements that delete the rows that meet conditions, few at a time.

    Attributes:
        some: finds some rows and deletes them; returns both numbers.
        listed_by: opens ``CURSOR`` over the keys of all rows, each column as text.
        listed: deletes the rows of some keys; for each column of the key it has one more
            argument, the texts of that column.
        arguments: the arguments of each statement.
    """

    some: str
    listed_by: str
    listed: str
    arguments: tuple[object, ...]

    @property
    def first(self) -> Request:
        """The request that finds some rows and deletes them."""
        return self.some, self.arguments

    @property
    def listing(self) -> Request:
        """The request that opens the cursor."""
        return self.listed_by, self.arguments

    def of_listed(self, texts: Sequence[Sequence[str]]) -> Request:
        """Return the request that deletes the rows of some keys, given by column."""
        return self.listed, (*self.arguments, *texts)


def deletion_of(
    target: str,
    columns: Sequence[StoredColumn],
    conditions: Sequence[str],
    arguments: tuple[object, ...],
    at_most: int,
) -> Deletion:
    """Return the statements that delete the rows that meet all ``conditions``.

    The rows are found first, and then locked in the order in which every writer locks; a row that
    was changed meanwhile is checked again.

    Args:
        target: the table's name, quoted, in its schema.
        columns: all that are stored.
        conditions: the conditions, in terms of ``arguments``.
        arguments: the values that they compare with.
        at_most: the most rows that ``some`` deletes.
    """
    keys = [column for column in columns if column.rule == "key"]
    names = _list(column.name for column in keys)
    rows = _Rows(target, columns, [column.name for column in keys])
    condition = " AND ".join(conditions)
    order = f"ORDER BY {rows.key_order()} FOR UPDATE"
    numbered = [*enumerate(keys, len(arguments) + 1)]
    texts = _list(f"${number}::text[]" for number, _ in numbered)
    cells = _list(f"text_{number}" for number, _ in numbered)
    of_texts = _list(
        f"text_{number}::{column.type} AS {column.name}" for number, column in numbered
    )
    given = f"SELECT {of_texts} FROM unnest({texts}) AS given ({cells}) OFFSET 0"
    return Deletion(
        some=f"WITH found AS (SELECT {names} FROM {target} WHERE {condition} LIMIT {at_most}),\n"
        f"doomed AS (SELECT {names} FROM {target}"
        f" WHERE {rows.among(f'SELECT {names} FROM found')} AND {condition} {order}),\n"
        f"gone AS (DELETE FROM {target}"
        f" WHERE {rows.among(f'SELECT {names} FROM doomed')} RETURNING 1)\n"
        "SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM gone)",
        listed_by=f"DECLARE {CURSOR} NO SCROLL CURSOR FOR"
        f" SELECT {_list(f'{column.name}::text' for column in keys)} FROM {target}"
        f" WHERE {condition}",
        listed=rows.delete(f"WHERE {rows.among(given)} AND {condition} {order}"),
        arguments=arguments,
    )


def sent(arguments: Sequence[Argument], first: int = 1) -> str:
    """Return the query that yields the rows packed in ``arguments``."""
    functions: list[str] = []
    columns: list[str] = []
    for number, argument in enumerate(arguments, first):
        parameter = f"${number}"
        row = f"row_{number}"
        if argument.rows is not None:
            functions.append(argument.rows.format(parameter))
        columns += [
            f"{made.format(parameter, row=row)} AS {name}" for name, made in argument.columns
        ]
    rows = [
        f"row_{number}"
        for number, argument in enumerate(arguments, first)
        if argument.rows is not None
    ]
    return (
        f"SELECT {_list(columns)} FROM ROWS FROM ({_list(functions)})"
        f" WITH ORDINALITY AS packed ({_list(rows)}, place) OFFSET 0"
    )


class _Rows:
    """The clauses about the rows of a table that several statements share."""

    def __init__(self, target: str, columns: Sequence[StoredColumn], keys: Sequence[str]) -> None:
        self._target = target
        self._columns = columns
        self._keys = keys
        self._newer = next((one for one in columns if one.rule == "newer"), None)
        self._payload = [one for one in columns if one.rule in {"newer", "newest"}]
        self._extremes = [one for one in columns if one.rule in {"greatest", "least"}]

    def key_order(self, prefix: str = "") -> str:
        """Return the order in which keys are locked.

        Every writer uses it, so that no two wait for each other.
        """
        return _list(f"{prefix}{one.name}{one.order}" for one in self._columns if one.rule == "key")

    def among(self, query: str) -> str:
        """Return the condition that a row's key is one of those that ``query`` returns."""
        # An array, not a join, as the plan for a join on a small table would be kept while it grows.
        if len(self._keys) == 1:
            return f"{self._keys[0]} = ANY(ARRAY({query}))"
        return f"({_list(self._keys)}) IN ({query})"

    def delete(self, doomed: str) -> str:
        """Return the statement that deletes the rows selected and locked by the clause ``doomed``."""
        keys = _list(self._keys)
        found = f"SELECT {keys} FROM doomed"
        return (
            f"WITH doomed AS (SELECT {keys} FROM {self._target} {doomed})\n"
            f"DELETE FROM {self._target} WHERE {self.among(found)}"
        )

    def upsert(self, arguments: Sequence[Argument], arriving: str) -> str:
        """Return the upsert that merges as ``merge`` of the entries does."""
        names = [column.name for column in self._columns]
        assignments = self._assignments()
        update = "NOTHING"
        if assignments:
            update = f"UPDATE SET\n    {_lines(assignments)}\nWHERE {self._changes('excluded')}"
        return (
            f"WITH arriving AS ({sent(arguments)})\n"
            f"INSERT INTO {self._target} AS t ({_list(names)})\n"
            f"SELECT {_list(f'a.{name}' for name in names)}\n"
            f"FROM arriving AS a {arriving}\n"
            f"ORDER BY {self.key_order('a.')}\n"
            f"ON CONFLICT ({_list(self._keys)}) DO {update}"
        )

    def only_changes(self) -> str:
        """Return the clause that leaves out rows that would not change."""
        is_it = " AND ".join(f"e.{key} = a.{key}" for key in self._keys)
        new = f"t.{self._keys[0]} IS NULL"
        conditions = f"{new} OR {self._changes('a')}" if self._assignments() else new
        # Named, as the role may not see other columns.
        names = _list(column.name for column in self._columns)
        return (
            f"LEFT JOIN LATERAL (\n"
            f"    SELECT {names} FROM {self._target} AS e WHERE {is_it} OFFSET 0\n"
            f") AS t ON true\nWHERE {conditions}"
        )

    def _wins(self, new: str) -> str | None:
        """Return the condition under which ``new`` is newer; None: it always is."""
        if self._newer is None:
            return None
        name, order = self._newer.name, self._newer.order
        wins = f"{new}.{name}{order} >= t.{name}"
        return f"(t.{name} IS NULL OR {wins})" if self._newer.may_be_null else wins

    def _assignments(self) -> list[str]:
        wins = self._wins("excluded")
        newest = [
            f"{name} = excluded.{name}"
            if wins is None
            else f"{name} = CASE WHEN {wins} THEN excluded.{name} ELSE t.{name} END"
            for name in (column.name for column in self._payload)
        ]
        return newest + [
            f"{one.name} = {one.rule}(t.{one.name}{one.order}, excluded.{one.name})"
            for one in self._extremes
        ]

    def _changes(self, new: str) -> str:
        """Return the condition under which ``new``, merged with row ``t``, differs from ``t``."""
        conditions: list[str] = []
        if self._payload:
            mine = _list(one.told_apart.format(f"t.{one.name}") for one in self._payload)
            others = _list(one.told_apart.format(f"{new}.{one.name}") for one in self._payload)
            differs = f"({mine}) IS DISTINCT FROM ({others})"
            wins = self._wins(new)
            conditions.append(differs if wins is None else f"{wins} AND {differs}")
        for one in self._extremes:
            sign = ">" if one.rule == "greatest" else "<"
            conditions.append(f"{new}.{one.name}{one.order} {sign} t.{one.name}")
            if one.may_be_null:
                conditions.append(f"t.{one.name} IS NULL AND {new}.{one.name} IS NOT NULL")
        return f"({' OR '.join(conditions)})"


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _lines(parts: Iterable[str]) -> str:
    return ",\n    ".join(parts)
