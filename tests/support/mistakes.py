"""The likeliest mistakes, made on the real thing: what each comes to is an error."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import trio

from provcache_trio import Table, WriteBehindOptions, open_write_behind_queue
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.disks import fill, small_volume
from tests.support.entries import entry
from tests.support.pgserver import run_postgres_server
from tests.support.servers import QUIET, postgres, run_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

PASSWORD = "s3cr3t"  # noqa: S105  # what no message may quote


class Visit(msgspec.Struct, frozen=True):
    """An entry of a user's own."""

    url: str
    visits: int = 0


VISITS = Table(Visit, "visits", key="url")


async def a_table_of_visits(path: Path, *statements: str) -> None:
    """Check a repository of visits in a file that these statements made."""
    with closing(sqlite3.connect(path / "visits.db")) as connection:
        for statement in statements:
            connection.execute(statement)
    async with open_sqlite_repository(path / "visits.db", table=VISITS) as repository:
        await repository.check()


async def check(dsn: str, **options: Any) -> None:  # noqa: ANN401  # whatever it takes
    """Check a repository in PostgreSQL."""
    async with open_postgres_repository(dsn, **options) as repository:
        await repository.check()


# The URL


async def an_at_sign_in_the_password(_: Path) -> None:
    await check(f"postgresql://app:{PASSWORD}@x@db/shop")


async def a_parameter_of_another_library(_: Path) -> None:
    await check(f"postgresql://app:{PASSWORD}@db/shop?connection_limit=5")


async def a_run_time_parameter_that_the_server_does_not_know(_: Path) -> None:
    await check(f"{postgres().dsn}?statement_timeot=5s")


# The server


async def nothing_listens_on_the_port(_: Path) -> None:
    await check(f"postgresql://app:{PASSWORD}@127.0.0.1:1/shop")


async def the_password_is_wrong(_: Path) -> None:
    with run_postgres_server(password="another", settings=QUIET) as server:  # noqa: S106
        await check(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{server.port}/postgres")


async def the_server_offers_no_tls(_: Path) -> None:
    await check(f"{postgres().dsn}?sslmode=require")


async def the_database_is_not_there(_: Path) -> None:
    await check(postgres().dsn_of("shpo"))


def database() -> str:
    """Return the URL of an empty database."""
    return postgres().create_database(str(uuid4()))


async def the_schema_is_not_there(_: Path) -> None:
    await check(database())


async def the_role_may_only_read(_: Path) -> None:
    dsn = database()
    await check(dsn, create=True)
    name = dsn.rpartition("/")[2]
    await run_sql(dsn, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with open_postgres_repository(dsn) as repository:
        await repository.upsert_many([entry()])


async def a_grant_is_missing(_: Path) -> None:
    dsn = database()
    await check(dsn, create=True)
    await run_sql(
        dsn,
        "CREATE ROLE guest LOGIN;"
        " GRANT USAGE ON SCHEMA provcache TO guest;"
        " GRANT SELECT ON ALL TABLES IN SCHEMA provcache TO guest",
    )
    await check(dsn.replace("://postgres@", "://guest@"))


# Files


async def the_directory_is_not_there(path: Path) -> None:
    async with open_sqlite_repository(path / "none" / "cache.db") as repository:
        await repository.check()


async def the_file_is_no_database(path: Path) -> None:
    (path / "cache.db").write_text("no database " * 100, "utf-8")
    async with open_sqlite_repository(path / "cache.db") as repository:
        await repository.check()


async def the_file_can_not_be_read(_: Path) -> None:
    with TemporaryDirectory() as directory:  # others may not look into pytest's
        file = Path(directory) / "cache.db"
        file.touch(0)
        file.parent.chmod(0o555)
        with as_nobody():
            async with open_sqlite_repository(file) as repository:
                await repository.check()


@contextmanager
def as_nobody() -> Generator[None]:
    """Root may read everything, so be somebody else for a moment."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def the_disk_is_full(path: Path) -> None:
    with small_volume(path, 1024) as volume:
        async with open_sqlite_repository(volume / "cache.db") as repository:
            await repository.check()
            fill(volume)
            await repository.upsert_many([entry(number) for number in range(1000)])


async def another_process_holds_a_lock(path: Path) -> None:
    async with open_sqlite_repository(path / "cache.db") as repository:
        await repository.check()
        with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await repository.upsert_many([entry()])


async def the_dead_letters_have_another_owner(path: Path) -> None:
    async with open_dead_letters(path / "dead.db"), open_dead_letters(path / "dead.db"):
        raise AssertionError("it has two owners")


# Tables


async def the_table_is_not_there(path: Path) -> None:
    await a_table_of_visits(path)


async def the_key_has_no_unique_index(path: Path) -> None:
    await a_table_of_visits(path, "CREATE TABLE visits (url TEXT, visits INTEGER)")


async def a_column_is_not_there(path: Path) -> None:
    await a_table_of_visits(path, "CREATE TABLE visits (url TEXT PRIMARY KEY)")


# Programming


async def async_with_is_forgotten(path: Path) -> None:
    repository: Any = open_sqlite_repository(path / "cache.db")
    await repository.upsert_many([entry()])


async def the_repository_is_not_open_yet(path: Path) -> None:
    repository: Any = open_sqlite_repository(path / "cache.db")
    async with open_write_behind_queue(repository):
        raise AssertionError("it opened")


async def it_is_run_by_asyncio(_: Path) -> None:
    async def main() -> None:
        async with open_write_behind_queue(MemoryRepository()):
            raise AssertionError("it opened")

    def run() -> None:
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    await trio.to_thread.run_sync(run)


async def it_is_called_from_another_thread(_: Path) -> None:
    async with open_write_behind_queue(MemoryRepository()) as queue:
        await trio.to_thread.run_sync(queue.enqueue_nowait, entry())


async def a_time_is_naive(_: Path) -> None:  # noqa: ASYNC124  # one of many
    entry(created_at=datetime(2026, 11, 30))  # noqa: DTZ001  # the mistake


async def an_entry_is_of_the_wrong_type(path: Path) -> None:
    async with open_sqlite_repository(path / "cache.db") as repository:
        bad: Any = Visit("https://example.org")
        await repository.upsert_many([bad])


async def key_is_wrong(_: Path) -> None:
    async with open_write_behind_queue(MemoryRepository[Any]()) as queue:
        await queue.enqueue(Visit("https://example.org"))


async def an_option_is_unknown(_: Path) -> None:  # noqa: ASYNC124  # likewise
    options: Any = {"batchsize": 100}
    WriteBehindOptions(**options)


async def an_option_has_a_value_that_it_can_not_have(_: Path) -> None:  # noqa: ASYNC124  # likewise
    WriteBehindOptions(batch_size=0)


def in_words(name: str) -> str:
    """Return the name of a mistake as it is the heading of the page."""
    words = name.replace("_", " ").replace("can not", "can't")
    words = words.replace(" tls", " TLS")
    return words[0].upper() + words[1:]


MISTAKES: dict[str, Callable[[Path], Coroutine[Any, Any, None]]] = {
    in_words(mistake.__name__): mistake
    for mistake in (
        an_at_sign_in_the_password,
        a_parameter_of_another_library,
        a_run_time_parameter_that_the_server_does_not_know,
        nothing_listens_on_the_port,
        the_password_is_wrong,
        the_server_offers_no_tls,
        the_database_is_not_there,
        the_schema_is_not_there,
        the_role_may_only_read,
        a_grant_is_missing,
        the_directory_is_not_there,
        the_file_is_no_database,
        the_file_can_not_be_read,
        the_disk_is_full,
        another_process_holds_a_lock,
        the_dead_letters_have_another_owner,
        the_table_is_not_there,
        the_key_has_no_unique_index,
        a_column_is_not_there,
        async_with_is_forgotten,
        the_repository_is_not_open_yet,
        it_is_run_by_asyncio,
        it_is_called_from_another_thread,
        a_time_is_naive,
        an_entry_is_of_the_wrong_type,
        key_is_wrong,
        an_option_is_unknown,
        an_option_has_a_value_that_it_can_not_have,
    )
}
