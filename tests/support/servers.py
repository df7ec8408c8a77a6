"""A real PostgreSQL server for the whole test run, and empty schemas in it."""

from __future__ import annotations

import asyncio
import atexit
import secrets
import socket
from contextlib import ExitStack, suppress
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg
import trio

from provcache_trio._pgserver.binaries import find_installations

from tests.support.pgserver import run_postgres_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.pgserver import PostgresServer

T = TypeVar("T")

# Quick, and quiet: nothing is written to the log but what a test has written.
QUIET: Final = {
    "fsync": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "1d",
}

_running = ExitStack()
atexit.register(_running.close)
_numbers = count(1)


@cache
def postgres() -> PostgresServer:
    """Return the server, which is started when a test first asks for it."""
    return _running.enter_context(run_postgres_server(settings=QUIET))


@cache
def other_postgres() -> PostgresServer:
    """Return one of another major version, if this machine has two; else the same.

    The oldest, which is Debian's where it is installed: it has collations of ICU.
    """
    major = postgres().version[0]
    for installation in reversed(find_installations()):
        if installation.version[0] != major:
            return _running.enter_context(
                run_postgres_server(binaries=installation, settings=QUIET)
            )
    return postgres()


def unused_port() -> int:
    """Return a port that nobody listens on, and that no outgoing connection gets meanwhile."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def unused_schema() -> str:
    """Return a name that no other test has; with characters that must be quoted."""
    return f'Schema "{next(_numbers)}"'


async def run_sql(dsn: str, script: str) -> None:
    """Run statements in a connection of their own."""
    await _connected(dsn, lambda connection: connection.execute(script))


async def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    """Return the rows of a query, asked in a connection of its own."""
    rows = await _connected(dsn, lambda connection: connection.fetch(statement))
    return [tuple(row) for row in rows]


async def _connected(dsn: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    async def run() -> T:
        connection = await asyncpg.connect(dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()  # noqa: ASYNC102  # asyncio's

    def in_a_loop() -> T:
        # Not asyncio.run: trio-asyncio has replaced the loop that it would use.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(run())

    return await trio.to_thread.run_sync(in_a_loop)
