"""A user's table: found or created, and read again after it was altered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from provcache_trio._vocabulary.fields import quoted

from ._catalogue import CATALOGUE, read_catalogue
from ._columns import FITTING
from ._plan import plan_of
from ._schema import check_encoding, check_length, making

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Connection

    from provcache_trio._vocabulary.table import Table

    from ._plan import Plan

E = TypeVar("E")

_C_COLLATION: Final = ' COLLATE "C"'


class TableInDatabase(Generic[E]):
    """A user's table in the database.

    Args:
        table: its declaration.
        create: create it if it is missing.

    Raises:
        ValueError: one of its names is longer than PostgreSQL allows.

    Attributes:
        plan: the plan of the table, once it was read.
    """

    def __init__(self, table: Table[E], *, create: bool) -> None:
        check_length("table: the name", table.name)
        if table.schema is not None:
            check_length("table: schema", table.schema)
        for field in table.fields:
            check_length(f"table: the column of field {field.name!r}", field.column)
        self._table = table
        self._create = create
        self._document: str | None = None
        self.plan: Plan[E] | None = None

    async def look(self, connection: Connection) -> Plan[E]:
        """Return the plan; the same object as before if nothing was altered.

        Args:
            connection: outside of a transaction.

        Raises:
            StoreMisconfiguredError: it does not exist, or does not fit.
            asyncpg.PostgresError: it can't be read or created.
        """
        check_encoding(connection)
        # Known before it is read: another connection may create the table in between.
        is_first = self.plan is None
        document = await self._read(connection)
        if document is None and self._create and is_first:
            # Only now, and not later, when somebody may be replacing the table by another one.
            document = await self._made(connection)
        if self.plan is None or document != self._document:
            self.plan = plan_of(self._table, read_catalogue(self._table, document))
            self._document = document
        return self.plan

    async def _read(self, connection: Connection) -> str | None:
        found: str | None = await connection.fetchval(
            CATALOGUE, self._table.name, self._table.schema
        )
        return found

    async def _made(self, connection: Connection) -> str | None:
        async with making(connection, self._table.schema):
            if await self._read(connection) is None:
                # Nobody else has created it meanwhile.
                for statement in statements_for(self._table):
                    await connection.execute(statement)
            return await self._read(connection)


def statements_for(table: Table[Any]) -> Iterable[str]:
    """Yield the statements that create ``table``."""
    target = quoted(table.name)
    if table.schema is not None:
        target = f"{quoted(table.schema)}.{target}"
    columns: list[str] = []
    for field in table.fields:
        in_order = _C_COLLATION if field in table.key_fields and field.kind == "str" else ""
        null = "" if field.optional else " NOT NULL"
        columns.append(f"{quoted(field.column)} {FITTING[field.kind][0]}{in_order}{null}")
    key = ", ".join(quoted(field.column) for field in table.key_fields)
    lines = ",\n    ".join([*columns, f"PRIMARY KEY ({key})"])
    yield f"CREATE TABLE {target} (\n    {lines}\n)"
    if table.expires_field is not None:
        yield f"CREATE INDEX ON {target} ({quoted(table.expires_field.column)})"
