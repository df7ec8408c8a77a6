"""PostgreSQL as the store of a command. Needs the extra ``postgres``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from provcache_trio import StoreMisconfiguredError
from provcache_trio._vocabulary.errors import reworded
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.postgres._dsn import Dsn
from provcache_trio.postgres._schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .stores import Store

# Of a partitioned table, which has no size itself, that of its partitions.
_SIZE: Final = """
SELECT coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size('provcache.entries'))
    ::bigint
FROM pg_partition_tree('provcache.entries')
"""


class PostgresTarget:
    """A PostgreSQL database; its schema ``provcache`` is made when it is not there.

    Args:
        dsn: its URL.
        label: what to call it; by default the URL without what may be secret.

    Raises:
        ValueError: ``dsn`` is malformed, or may be, or has a parameter that can't be used.
    """

    def __init__(self, dsn: str, label: str = "") -> None:
        self._dsn = dsn
        self.label = label or Dsn(dsn).label

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """Open the database; ``wait_until_ready`` raises what is wrong with it."""
        async with open_postgres_repository(self._dsn, create=True) as repository:
            yield repository

    @asynccontextmanager
    async def open_existing(self) -> AsyncGenerator[Store]:
        """Open the database to read from it; the first call raises what is wrong with it."""
        async with open_postgres_repository(self._dsn) as repository:
            try:
                yield repository
            except StoreMisconfiguredError as error:
                # Its own words are for programmers.
                text = str(error).replace("see create=True", "provcache init --to makes it")
                raise reworded(error, text) from None

    async def facts(self) -> dict[str, int]:
        """Return the size of the table with its indexes, and the schema version.

        Raises:
            StoreError: the database can't be asked.
        """
        async with open_postgres_repository(self._dsn) as repository:
            # The commands alone want to know.
            size: int = await repository._run(  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                repository._reader,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                lambda connection, _: connection.fetchval(_SIZE),
            )
        return {"bytes": size, "schema": len(MIGRATIONS)}
