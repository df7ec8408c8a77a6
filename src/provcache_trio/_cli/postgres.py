"""PostgreSQL as the store of a command. Needs the extra ``postgres``."""

from __future__ import annotations

import re
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from provcache_trio import StoreMisconfiguredError
from provcache_trio._postgres.bridge import DEFAULT_KIND, make_bridge
from provcache_trio._postgres.schema import MIGRATIONS, Schema
from provcache_trio._postgres.session import Connector, Session
from provcache_trio.postgres import open_postgres_repository

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import asyncpg

    from .stores import Store

_SCHEMA = "provcache"
_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 10


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
        self._label = label or _without_secrets(dsn)

    @property
    def label(self) -> str:
        """What to call it when telling the user."""
        return self._label

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """Open the database; ``wait_until_ready`` tells what is wrong with it."""
        async with open_postgres_repository(self._dsn, create=True) as repository:
            yield repository

    @asynccontextmanager
    async def open_existing(self) -> AsyncGenerator[Store]:
        """Open the database to read from it; the first call tells what is wrong with it."""
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
        size = await self._ask(f"SELECT pg_total_relation_size('{_SCHEMA}.entries')")
        return {"bytes": size, "schema": len(MIGRATIONS)}

    @asynccontextmanager
    async def scratch(self) -> AsyncGenerator[Store]:
        """Open an empty schema in the same database; it is removed at exit."""
        name = f"{_SCHEMA}_scratch_{secrets.token_hex(8)}"
        async with open_postgres_repository(self._dsn, schema=name, create=True) as repository:
            try:
                # It connects when it is first needed; that is not timed.
                await repository.check()
                yield repository
            finally:
                # A check that is cut off makes the schema, or not, or a moment later. To make
                # it waits for that.
                with trio.CancelScope(shield=True):  # each step has its own time limit
                    await self._ask(f"DROP SCHEMA {name} CASCADE", name, create=True)

    async def _ask(self, statement: str, schema: str = _SCHEMA, *, create: bool = False) -> int:
        """Return the number that ``statement`` asks for, or 0.

        ``schema`` has to be there, or is made first.
        """
        connector = Connector(
            self._dsn,
            schema=Schema(schema),
            create=create,
            connect_timeout_seconds=_CONNECT_SECONDS,
            command_timeout_seconds=_STATEMENT_SECONDS,
            server_settings={},
            pgbouncer=False,
        )

        async def ask(connection: asyncpg.Connection) -> int:
            return await connection.fetchval(statement) or 0

        async def in_session() -> int:
            session = Session(connector, {})
            try:
                return await session.run(ask)
            finally:
                await session.close()  # noqa: ASYNC102  # asyncio's, with a time limit

        bridge = make_bridge(DEFAULT_KIND)
        await bridge.open()
        try:
            return await bridge.run(in_session)
        finally:
            await bridge.close()  # noqa: ASYNC102  # shielded


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
