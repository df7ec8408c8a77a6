"""PostgreSQL as the store of a command. Needs the extra ``postgres``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from provcache_trio._vocabulary.fields import quoted
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.postgres._catalogue import size_of
from provcache_trio.postgres._dsn import Dsn
from provcache_trio.postgres._schema import MIGRATIONS
from provcache_trio.postgres._tables import TableInDatabase

from .entries import PROVCACHE
from .stores import for_users

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from provcache_trio import Table

    from .entries import Entries
    from .stores import Store


class PostgresTarget:
    """A PostgreSQL database.

    Args:
        dsn: its URL.
        label: its name in messages; by default the URL without anything that may be secret.
        entries: the type of its entries.

    Raises:
        ValueError: ``dsn`` may be malformed, or has a parameter that can't be used; or a name of
            the table or of a column is too long.
    """

    def __init__(self, dsn: str, label: str = "", entries: Entries = PROVCACHE) -> None:
        self._dsn = dsn
        self.label = label or Dsn(dsn).label
        self.entries = entries
        self._table: Any = entries.table
        if self._table is not None:
            TableInDatabase(self._table, create=False)

    @asynccontextmanager
    async def open(self, *, create: bool = False) -> AsyncGenerator[Store]:
        """Open the database; ``wait_until_ready`` raises its errors.

        Args:
            create: see ``Target``.
        """
        with for_users(self.entries):
            async with open_postgres_repository(
                self._dsn, table=self._table, create=create
            ) as repository:
                yield repository

    @asynccontextmanager
    async def open_existing(self) -> AsyncGenerator[Store]:
        """Open the database for reading; the first call raises its errors."""
        with for_users(self.entries):
            async with open_postgres_repository(self._dsn, table=self._table) as repository:
                yield repository

    async def facts(self) -> dict[str, int]:
        """Return the size of the table with its indexes, if it may be asked, and a schema's version.

        Raises:
            StoreError: the database can't be asked.
        """
        async with open_postgres_repository(self._dsn, table=self._table) as repository:
            # The commands alone want to know.
            size = await repository._run(  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                repository._reader,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                lambda connection, _: size_of(connection, _name_of(self._table)),
            )
        known = {} if size is None else {"bytes": size}
        return known if self._table else known | {"schema": len(MIGRATIONS)}


def _name_of(table: Table[Any] | None) -> str:
    """Return the name of what holds the entries, as a statement has it."""
    if table is None:
        return "provcache.entries"
    names = (table.name,) if table.schema is None else (table.schema, table.name)
    return ".".join(map(quoted, names))
