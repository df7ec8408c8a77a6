"""PostgreSQL as the store of a command. Needs the extra ``postgres``."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from provcache_trio import StoreMisconfiguredError
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.postgres._schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .stores import Store

_SIZE: Final = "SELECT pg_total_relation_size('provcache.entries')"


class PostgresTarget:
    """A PostgreSQL database; its schema ``provcache`` is made when it is not there.

    Args:
        dsn: its URL.
        label: what to call it; by default the URL without what may be secret.

    Raises:
        ValueError: ``dsn`` is malformed, or may be: then nobody knows what in it is secret.
    """

    def __init__(self, dsn: str, label: str = "") -> None:
        self._dsn = dsn
        self.label = label or _without_secrets(dsn)

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
                raise StoreMisconfiguredError(text, error_class=error.error_class) from None

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


_is_host: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?").fullmatch
_is_query: Final = re.compile(r"([^=&]+=[^=&]*(&|$))*").fullmatch


def _without_secrets(dsn: str) -> str:
    """Return where ``dsn`` points: hosts and database.

    A host ends at the first of / ? #. If a password holds one, its rest is where a path is
    looked for, and its beginning where a port is.

    Raises:
        ValueError: it may be such a URL.
    """
    parts = urlsplit(dsn)
    hosts = parts.netloc.rpartition("@")[2]
    if (
        parts.fragment
        or "@" in parts.path + parts.query
        or parts.netloc.count("@") > 1
        or not _is_query(parts.query)
        or not all(map(_is_host, hosts.split(",")))
    ):
        raise ValueError("the URL is malformed")
    return f"postgresql://{hosts}{parts.path}"
