"""Where faults are made: a server, a schema in it that remembers, a role, and the line between."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from provcache_trio import ProvcacheEntry, Table
from provcache_trio.postgres import open_postgres_repository

from tests.faults.proxy import open_proxy
from tests.support.pgserver import run_postgres_server
from tests.support.servers import query, run_sql

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.postgres import PostgresRepository

    from tests.faults.proxy import Proxy
    from tests.support.pgserver import PostgresServer

SECRET: Final = "s3cr3t"  # noqa: S105  # in every row and in the password: no log may quote it
POISON: Final = 77  # with so many hits, an entry is what a constraint of a fault refuses
REWRITTEN: Final = 100  # entries come again and again for the keys of so many numbers
CONNECT_SECONDS: Final = 0.5
COMMAND_SECONDS: Final = 0.6
# What our own questions may meet while the server has a fault.
UNANSWERED: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

SEED: Final = os.environ.get("PROVCACHE_SEED", "0")  # CI draws one for each commit

_numbers = count(1)

# Every version that a row has ever had, in the order in which it had them.
_HISTORY: Final = """
CREATE TABLE {schema}.history (
    number bigserial PRIMARY KEY, veri_key {key}, created_at timestamptz, hit_count bigint,
    last_accessed_at timestamptz, feed_epoch text
);
CREATE FUNCTION {schema}.remember() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO {schema}.history (veri_key, created_at, hit_count, last_accessed_at, feed_epoch)
    VALUES (NEW.veri_key, NEW.created_at, NEW.hit_count, NEW.last_accessed_at, NEW.feed_epoch);
    RETURN NULL;
END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON {schema}.entries
    FOR EACH ROW EXECUTE FUNCTION {schema}.remember();
CREATE ROLE {role} LOGIN PASSWORD '{password}';
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE ON {schema}.entries TO {role};
"""
_GRANT_VERSION: Final = "GRANT SELECT ON {schema}.schema_version TO {role}"
_WENT_BACK: Final = """
SELECT count(*) FROM (
    SELECT created_at, hit_count, last_accessed_at, lag(created_at) OVER w AS created_before,
        lag(hit_count) OVER w AS hits_before, lag(last_accessed_at) OVER w AS accessed_before
    FROM {schema}.history WINDOW w AS (PARTITION BY veri_key ORDER BY number)
) AS steps
WHERE created_at < created_before OR hit_count < hits_before OR last_accessed_at < accessed_before
    OR last_accessed_at IS NULL AND accessed_before IS NOT NULL
"""


def run_faulty_server(directory: Path | None = None) -> AbstractContextManager[PostgresServer]:
    """Run a server that asks the queue's role for a password, and has few connections."""
    settings = {
        "fsync": "off",
        "max_connections": "20",
        "superuser_reserved_connections": "5",
        "deadlock_timeout": "150ms",
        "max_wal_size": "64MB",
        "min_wal_size": "32MB",
    }
    hba = ["host all postgres 127.0.0.1/32 trust"]
    return run_postgres_server(
        password=f"right{SECRET}", settings=settings, hba=hba, directory=directory
    )


def draws_own_table(what: str, seed: str = SEED) -> bool:
    """Return whether entries go into a table of the user's own, as in half of all runs."""
    return Random(f"{seed} {what}").random() < 0.5  # noqa: S311  # no secret


def own_table_of(schema: str) -> Table[ProvcacheEntry]:
    """Return a table with the rule of the built-in one, so that the same is expected."""
    return Table(
        ProvcacheEntry,
        "entries",
        schema=schema,
        key="veri_key",
        newer="created_at",
        merge={"hit_count": "greatest", "last_accessed_at": "greatest"},
    )


class Site:
    """A place for one run.

    Attributes:
        server: the server, which may be stopped.
        proxy: between the queue and the server.
        schema: has what a queue needs, and the table ``history``.
        role: who the queue is; it may do what running a queue takes.
        host: by what name the queue knows the server, which is the proxy.
        standby: of the server, if a fault needs one.
        clock_is_behind: by how much the queue's wall clock is wrong.
        declared: the table of the user's own that holds the entries; None: the built-in one does.
    """

    def __init__(self, server: PostgresServer, proxy: Proxy, *, own_table: bool = False) -> None:
        number = next(_numbers)
        self.server = server
        self.proxy = proxy
        self.schema = f"faults_{number}"
        self.role = f"queue_{number}"
        self.host = "127.0.0.1"
        self.standby: PostgresServer | None = None
        self.clock_is_behind = timedelta()
        self.declared: Table[ProvcacheEntry] | None = None
        if own_table:
            self.declared = own_table_of(self.schema)

    @property
    def table(self) -> str:
        """The table of entries, as SQL has it."""
        return f"{self.schema}.entries"

    @property
    def veri_key(self) -> str:
        """A row's VeriKey as text, as SQL has it."""
        return "'sha256:' || encode(veri_key, 'hex')" if self.declared is None else "veri_key"

    def stored_key(self, veri_key: str) -> object:
        """Return the key of a row."""
        return bytes.fromhex(veri_key[7:]) if self.declared is None else veri_key

    @property
    def admin(self) -> str:
        """A superuser's URL, past the proxy."""
        return f"postgresql://postgres@127.0.0.1:{self.server.port}/postgres"

    @property
    def dsn(self) -> str:
        """The queue's URL."""
        address = f"{self.host}:{self.proxy.port}"
        return f"postgresql://{self.role}:{SECRET}@{address}/postgres?sslmode=disable"

    def opening(
        self,
        bridge: BridgeKind,
        settings: Mapping[str, str] | None = None,
        *,
        pgbouncer: bool = False,
    ) -> AbstractAsyncContextManager[PostgresRepository]:
        """Open the queue's repository, which does not wait for long."""
        return open_postgres_repository(
            self.dsn,
            **self._where,
            connect_timeout_seconds=CONNECT_SECONDS,
            command_timeout_seconds=COMMAND_SECONDS,
            server_settings=settings,
            bridge=bridge,
            pgbouncer=pgbouncer,
        )

    def opening_for_ourselves(self) -> AbstractAsyncContextManager[PostgresRepository]:
        """Open a repository past the proxy, that is patient."""
        return open_postgres_repository(self.admin, bridge="thread", **self._where)

    @property
    def _where(self) -> dict[str, Any]:
        return {"schema": self.schema} if self.declared is None else {"table": self.declared}

    def now(self) -> datetime:
        """Return what the queue takes for the time of day."""
        return datetime.now(UTC) - self.clock_is_behind

    async def prepare(self) -> None:
        """Make the schema and the role."""
        async with open_postgres_repository(
            self.admin, create=True, bridge="thread", **self._where
        ) as maker:
            await maker.check()
        key = "bytea" if self.declared is None else "text"
        names = {"schema": self.schema, "role": self.role}
        await self.execute(_HISTORY.format(key=key, password=SECRET, **names))
        if self.declared is None:
            await self.execute(_GRANT_VERSION.format(**names))

    async def execute(self, script: str) -> None:
        """Run statements as a superuser."""
        await run_sql(self.admin, script)

    async def fetch(self, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of a query, as a superuser."""
        return await query(self.admin, statement)

    async def connections(self) -> int:
        """Return how many connections the server has of the queue's role."""
        [(number,)] = await self.fetch(
            f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{self.role}'"
        )
        assert isinstance(number, int)
        return number

    async def processes(self) -> list[int]:
        """Return the server's processes that serve the queue."""
        rows = await self.fetch(f"SELECT pid FROM pg_stat_activity WHERE usename = '{self.role}'")
        return [number for (number,) in rows if isinstance(number, int)]

    async def end_connections(self) -> None:
        """Have the server end the queue's connections."""
        await self.fetch(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'"
        )

    async def steps_back(self) -> int:
        """Return how often a row went back to something older."""
        [(number,)] = await self.fetch(_WENT_BACK.format(schema=self.schema))
        assert isinstance(number, int)
        return number


@asynccontextmanager
async def open_site(
    server: PostgresServer, *, like: Site | None = None, own_table: bool = False
) -> AsyncGenerator[Site]:
    """Make a site on ``server``, or another line to the site ``like``."""
    async with open_proxy("127.0.0.1", server.port) as proxy:
        site = Site(server, proxy, own_table=own_table)
        if like is None:
            await site.prepare()
        else:
            site.schema, site.role, site.declared = like.schema, like.role, like.declared
        yield site
