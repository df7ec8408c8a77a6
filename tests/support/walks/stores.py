"""SQLite, PostgreSQL and the stream."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock
from uuid import uuid4

import trio

from provcache_trio import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    Table,
    TransientStoreError,
    WriteBehindCrashedError,
    WriteBehindOptions,
)
from provcache_trio.nats import create_stream, open_relay, open_stream_repository
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from . import HERE, SECRET, calls, walk
from .queues import row
from .values import DATED, VISITS, WRONG, Visit
from tests.support.entries import NOW, key_of
from tests.support.nats import MEGABYTE, nats_server, unused_stream
from tests.support.servers import postgres, run_sql

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from provcache_trio.nats import StreamRepository
    from provcache_trio.postgres import PostgresRepository
    from provcache_trio.sqlite import SQLiteRepository

NAIVE = NOW.replace(tzinfo=None)
NOBODY = f"postgresql://app:{SECRET}@127.0.0.1:1/shop"
CLOSED_PORT = "127.0.0.1:1, user app, database shop"

# Opening

calls("sqlite.open_sqlite_repository", TypeError, "path", lambda: open_sqlite_repository(WRONG))
calls("sqlite.open_sqlite_repository", ValueError, "path", lambda: open_sqlite_repository(""))
calls(
    "sqlite.open_sqlite_repository",
    TypeError,
    "table",
    lambda: open_sqlite_repository("x", table=WRONG),
)


def opens(error: type[Exception], about: str, dsn: Any = NOBODY, **arguments: Any) -> None:  # noqa: ANN401  # wrong on purpose
    calls(
        "postgres.open_postgres_repository",
        error,
        about,
        lambda: open_postgres_repository(dsn, **arguments),
    )


opens(TypeError, "dsn", WRONG)
opens(TypeError, "schema", table=VISITS, schema="x")
opens(TypeError, "password", password=WRONG)
opens(TypeError, "server_settings", server_settings=WRONG)
opens(ValueError, "dsn", f"mysql://app:{SECRET}@db/shop")
opens(ValueError, "an @", f"postgresql://app:{SECRET}@x@db/shop")
opens(ValueError, "a port", f"postgresql://app:{SECRET}@db:99999/shop")
opens(ValueError, "connection_limit", f"postgresql://app:{SECRET}@db/shop?connection_limit=5")
opens(ValueError, "schema", schema="x" * 64)
opens(ValueError, "bridge", bridge="asyncio")
opens(ValueError, "write_connections", write_connections=0)
opens(ValueError, "command_timeout_seconds", command_timeout_seconds=-1)


@contextmanager
def without(module: str) -> Generator[None]:
    """Be on a machine where ``module`` is not installed."""
    ours = {"provcache_trio._asyncio.trio_asyncio", "provcache_trio.status._connection"}
    with mock.patch.dict(sys.modules, {module: None}):
        for name in ours & sys.modules.keys():
            del sys.modules[name]
        yield


@walk("postgres.open_postgres_repository", ImportError, "trio-asyncio", "bridge='thread'")
def postgres_without_trio_asyncio(_: Path) -> None:
    with without("trio_asyncio"):
        open_postgres_repository(NOBODY, bridge="trio-asyncio")


@walk("nats.open_stream_repository", ImportError, "trio-asyncio", "bridge='thread'")
def a_stream_without_trio_asyncio(_: Path) -> None:
    with without("trio_asyncio"):
        open_stream_repository("nats://n1", "S", bridge="trio-asyncio")


@walk("nats.open_relay", ImportError, "trio-asyncio", "bridge='thread'")
def a_relay_without_trio_asyncio(_: Path) -> None:
    with without("trio_asyncio"):
        open_relay("nats://n1", "S", MemoryRepository[Any](), bridge="trio-asyncio")


# Calls, of both stores


def use(method: str, error: type[Exception], *about: str, table: Any = None) -> Any:  # noqa: ANN401  # a decorator
    """Add what ``call`` does with a repository, in SQLite and in PostgreSQL."""

    def add(call: Any) -> Any:  # noqa: ANN401  # as above
        @walk(f"sqlite.SQLiteRepository.{method}", error, *about)
        async def of_sqlite(path: Path) -> None:
            async with sqlite(path, table) as repository:
                await call(repository)

        @walk(f"postgres.PostgresRepository.{method}", error, *about)
        async def of_postgres(_: Path) -> None:
            async with a_schema(table) as repository:
                await call(repository)

        return call

    return add


@asynccontextmanager
async def sqlite(path: Path, table: Any = None) -> AsyncGenerator[SQLiteRepository[Any]]:  # noqa: ANN401  # or none
    async with open_sqlite_repository(path / "cache.db", table=table, create=True) as repository:
        yield repository


@asynccontextmanager
async def a_schema(table: Any = None) -> AsyncGenerator[PostgresRepository[Any]]:  # noqa: ANN401  # or none
    async with open_postgres_repository(await database(), table=table, create=True) as repository:
        yield repository


DATABASES: list[str] = []  # one, which every walk of a process shares


async def database() -> str:
    """Return the URL of a database with a table of visits that a constraint and a trigger guard."""
    if not DATABASES:
        dsn = await trio.to_thread.run_sync(postgres().create_database, str(uuid4()))
        await run_sql(dsn, GUARDED.format("text", "int", "timestamptz", "text[]"))
        await run_sql(dsn, KEPT_IN_POSTGRES)
        async with open_postgres_repository(dsn, schema="newer", create=True) as repository:
            await repository.check()
        await run_sql(dsn, "UPDATE newer.schema_version SET version = 99")
        await run_sql(dsn, "CREATE TABLE page (url text PRIMARY KEY)")
        await run_sql(
            dsn,
            "CREATE TABLE reads (url text PRIMARY KEY REFERENCES page, visits int,"
            " at timestamptz, tags text[])",
        )
        DATABASES.append(dsn)
    return DATABASES[0]


use("get_many", TypeError, "keys")(lambda it: it.get_many(SECRET))
use("get_many", ValueError, "keys", "sha256:")(lambda it: it.get_many([SECRET]))
use("delete_many", TypeError, "keys")(lambda it: it.delete_many(WRONG))
use("delete_many", ValueError, "keys", "sha256:")(lambda it: it.delete_many([SECRET]))
use("delete_where", TypeError, "field=value")(lambda it: it.delete_where())
use("delete_where", TypeError, "before", "'visits'", table=VISITS)(
    lambda it: it.delete_where(before=NOW, url=SECRET)
)
use("delete_where", TypeError, "tags", table=VISITS)(lambda it: it.delete_where(tags=[SECRET]))
use("delete_where", ValueError, "'hits'", table=VISITS)(lambda it: it.delete_where(hits=1))
use("delete_where", ValueError, "'veri_key'")(lambda it: it.delete_where(veri_key=SECRET))
use("delete_expired", TypeError, "now")(lambda it: it.delete_expired(WRONG, 1))
use("delete_expired", TypeError, "'visits'", "expires=", table=VISITS)(
    lambda it: it.delete_expired(NOW, 1)
)
use("delete_expired", ValueError, "now")(lambda it: it.delete_expired(NAIVE, 1))
use("delete_expired", ValueError, "limit")(lambda it: it.delete_expired(NOW, 0))
use("upsert_many", EntryRejectedError, "ProvcacheEntry", "Visit")(
    lambda it: it.upsert_many([Visit(SECRET)])
)
use("upsert_many", EntryRejectedError, "at must be an aware datetime", table=DATED)(
    lambda it: it.upsert_many([Visit(SECRET, at=datetime(2026, 1, 1))])  # noqa: DTZ001  # naive
)


@walk("postgres.PostgresRepository.prepare", EntryRejectedError, "ProvcacheEntry", "Visit")
async def of_another_type(_: Path) -> None:
    async with a_schema() as repository:
        await repository.check()
        await repository.prepare([Visit(SECRET)])


GUARDED = """
    CREATE TABLE visits (
        url {} PRIMARY KEY, visits {}, at {}, tags {}, CONSTRAINT few CHECK (visits < 10)
    )
"""
KEPT_IN_SQLITE = """
    CREATE TRIGGER kept BEFORE DELETE ON visits
    BEGIN SELECT raise(ABORT, 's3cr3t is kept'); END
"""
KEPT_IN_POSTGRES = """
    CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION ''% is kept'', OLD.url; END';
    CREATE TRIGGER kept BEFORE DELETE ON visits FOR EACH ROW EXECUTE FUNCTION kept()
"""


@asynccontextmanager
async def guarded(store: str, path: Path) -> AsyncGenerator[Any]:
    """Enter a repository of visits, one of them stored, that a constraint and a trigger guard."""
    if store == "sqlite":
        with closing(sqlite3.connect(path / "cache.db")) as connection:
            connection.execute(GUARDED.format("TEXT", "INTEGER", "TEXT", "TEXT"))
            connection.execute(KEPT_IN_SQLITE)
        async with open_sqlite_repository(path / "cache.db", table=DATED) as repository:
            await repository.upsert_many([Visit(SECRET, at=NOW)])
            yield repository
    else:
        async with open_postgres_repository(await database(), table=DATED) as repository:
            await repository.upsert_many([Visit(SECRET, at=NOW)])
            yield repository


for store, kind in {"sqlite": "SQLiteRepository", "postgres": "PostgresRepository"}.items():
    for method, call in {
        # Newer than what an earlier walk may have left, or it would not be written at all.
        "upsert_many": lambda it: it.upsert_many([Visit(SECRET, 99, at=NOW + timedelta(days=1))]),
        "delete_many": lambda it: it.delete_many([SECRET]),
        "delete_where": lambda it: it.delete_where(url=SECRET),
        "delete_expired": lambda it: it.delete_expired(NOW, 10),
    }.items():

        @walk(f"{store}.{kind}.{method}", EntryRejectedError, "reported")
        async def refused(path: Path, store: str = store, call: Any = call) -> None:  # noqa: ANN401  # of any method
            async with guarded(store, path) as repository:
                await call(repository)


CALLS: dict[str, Any] = {
    "check": lambda it: it.check(),
    "count": lambda it: it.count(),
    "get_many": lambda it: it.get_many([key_of(1)]),
    "upsert_many": lambda it: it.upsert_many([row()]),
    "delete_many": lambda it: it.delete_many([key_of(1)]),
    "delete_where": lambda it: it.delete_where(feed_epoch="x"),
    "delete_expired": lambda it: it.delete_expired(NOW, 1),
}
for method, call in CALLS.items():

    @walk(f"sqlite.SQLiteRepository.{method}", StoreMisconfiguredError, f"{HERE}/none/cache.db")
    async def without_a_directory(path: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        async with open_sqlite_repository(path / "none" / "cache.db") as repository:
            await call(repository)

    @walk(f"postgres.PostgresRepository.{method}", StoreUnavailableError, CLOSED_PORT)
    async def without_a_server(_: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        async with open_postgres_repository(NOBODY) as repository:
            await call(repository)

    @walk(f"sqlite.SQLiteRepository.{method}", trio.ClosedResourceError, f"{HERE}/cache.db")
    async def after_closing(path: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        async with sqlite(path) as repository:
            pass
        await call(repository)

    @walk(f"postgres.PostgresRepository.{method}", trio.ClosedResourceError, "127.0.0.1:1/shop")
    async def after_closing_it(_: Path, call: Any = call) -> None:  # noqa: ANN401  # of any method
        async with open_postgres_repository(NOBODY) as repository:
            pass
        await call(repository)


@walk("postgres.PostgresRepository.check", StoreMisconfiguredError, "schema 'elsewhere'", "create=")
async def without_a_schema(_: Path) -> None:
    async with open_postgres_repository(postgres().dsn, schema="elsewhere") as repository:
        await repository.check()


@walk("postgres.PostgresRepository.check", StoreMisconfiguredError, "schema 'newer'", "99")
async def of_a_newer_schema(_: Path) -> None:
    async with open_postgres_repository(await database(), schema="newer") as repository:
        await repository.check()


@walk("sqlite.SQLiteRepository.check", StoreUnavailableError, f"{HERE}/cache.db", "a lock")
async def of_a_locked_file(path: Path) -> None:
    async with sqlite(path) as repository:
        await repository.check()
        with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await repository.check()


READS: Table[Visit] = Table(Visit, "reads", key="url")


@walk("postgres.PostgresRepository.upsert_many", TransientStoreError, "23503", "table reads")
async def without_a_parent(_: Path) -> None:
    async with open_postgres_repository(await database(), table=READS) as repository:
        await repository.upsert_many([Visit(SECRET)])


# The stream

KEEPING: Table[Visit] = Table(Visit, "visits", key="url", newer="at", merge={"visits": "keep"})
URL = f"nats://app:{SECRET}@n1"


def opens_stream(error: type[Exception], about: str, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # wrong on purpose
    calls(
        "nats.open_stream_repository",
        error,
        about,
        lambda: open_stream_repository(*arguments, **named),
    )


opens_stream(TypeError, "servers", WRONG, "S")
opens_stream(TypeError, "stream", URL, WRONG)
opens_stream(TypeError, "table", URL, "S", table=WRONG)
opens_stream(ValueError, "servers", f"http://app:{SECRET}@n1", "S")
opens_stream(ValueError, "stream", URL, "a b")
opens_stream(ValueError, "'visits'", URL, "S", table=VISITS)
opens_stream(ValueError, "'visits'", URL, "S", table=KEEPING)
opens_stream(ValueError, "publish_timeout_seconds", URL, "S", publish_timeout_seconds=0)

for error, about, named in (
    (TypeError, "max_bytes", {"max_bytes": "10GB"}),
    (ValueError, "replicas", {"max_bytes": 1, "replicas": 9}),
    (ValueError, "ack_wait_seconds", {"max_bytes": 1, "ack_wait_seconds": 0.5}),
):

    @walk("nats.create_stream", error, about)
    async def of_these_settings(_: Path, named: Any = named) -> None:  # noqa: ANN401  # wrong on purpose
        await create_stream(URL, "S", **named)


@walk("nats.create_stream", StoreUnavailableError, "stream S at 127.0.0.1:1")
async def of_no_server(_: Path) -> None:
    await create_stream(f"nats://app:{SECRET}@127.0.0.1:1", "S", max_bytes=1)


@walk("nats.create_stream", StoreMisconfiguredError, "stream", "at 127.0.0.1:")
async def of_more_replicas_than_servers(_: Path) -> None:
    await create_stream(nats_server().url, unused_stream(), max_bytes=MEGABYTE, replicas=3)


@asynccontextmanager
async def a_stream(*, made: bool = True) -> AsyncGenerator[StreamRepository[Any]]:
    name = unused_stream()
    url = (await trio.to_thread.run_sync(nats_server)).url
    if made:
        await create_stream(url, name, max_bytes=MEGABYTE, replicas=1)
    async with open_stream_repository(url, name) as repository:
        yield repository


@walk("nats.StreamRepository.check", StoreMisconfiguredError, "stream", "provcache init")
async def of_no_stream(_: Path) -> None:
    async with a_stream(made=False) as repository:
        await repository.check()


@walk("nats.StreamRepository.check", StoreUnavailableError, "stream S at 127.0.0.1:1")
async def of_no_server_at_all(_: Path) -> None:
    async with open_stream_repository("nats://127.0.0.1:1", "S") as repository:
        await repository.check()


@walk("nats.StreamRepository.check", ValueError, "monitor_url")
async def of_no_page(_: Path) -> None:
    async with a_stream() as repository:
        await repository.check(monitor_url=SECRET)


@walk("nats.StreamRepository.check", StoreUnavailableError, "127.0.0.1:1")
async def of_a_page_that_is_not_there(_: Path) -> None:
    async with a_stream() as repository:
        await repository.check(monitor_url="http://127.0.0.1:1")


@walk("nats.StreamRepository.upsert_many", StoreMisconfiguredError, "stream")
async def into_no_stream(_: Path) -> None:
    async with a_stream(made=False) as repository:
        await repository.upsert_many([row()])


@walk("nats.StreamRepository.upsert_many", EntryRejectedError, "stream")
async def not_as_it_was(_: Path) -> None:
    async with a_stream() as repository:
        await repository.upsert_many([Visit(SECRET)])


@walk("nats.StreamRepository.prepare", EntryRejectedError, "stream")
async def not_as_it_was_either(_: Path) -> None:
    async with a_stream() as repository:
        await repository.prepare([Visit(SECRET)])


@walk("nats.StreamRepository.upsert_many", trio.ClosedResourceError, "stream")
async def into_a_closed_repository(_: Path) -> None:
    async with open_stream_repository("nats://127.0.0.1:1", "S") as repository:
        pass
    await repository.upsert_many([row()])


@walk("nats.StreamRepository.watch", trio.ClosedResourceError, "stream S")
async def of_a_closed_repository_from_time_to_time(_: Path) -> None:
    async with open_stream_repository("nats://127.0.0.1:1", "S") as repository:
        pass
    await repository.watch()


@walk("nats.open_relay", TypeError, "repository")
def a_relay_to_nowhere(_: Path) -> None:
    open_relay(URL, "S", WRONG)


@walk("nats.open_relay", ValueError, "'visits'", "order")
def a_relay_into_a_table_without_newer(_: Path) -> None:
    open_relay(URL, "S", MemoryRepository(table=VISITS))


@walk("nats.open_relay", WriteBehindCrashedError, "'relay'")
async def a_relay_whose_tasks_crash(_: Path) -> None:
    name = unused_stream()
    url = (await trio.to_thread.run_sync(nats_server)).url
    await create_stream(url, name, max_bytes=MEGABYTE, replicas=1)
    async with open_stream_repository(url, name) as repository:
        await repository.upsert_many([row(1)])
    store = MemoryRepository[Any]()
    store.crash_next(times=3)
    options = WriteBehindOptions(flush_interval_seconds=0, retry_base_seconds=0.01)
    async with open_relay(url, name, store, options):
        await trio.sleep_forever()
