"""Both bridges to asyncpg, somebody else's connection, and what a bridge may leave behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import asyncpg
import pytest
import trio

from provcache_trio._asyncio.bridge import DEFAULT_KIND, BridgeKind

from tests.support.servers import postgres
from tests.support.waiting import HANG_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

T = TypeVar("T")

BRIDGES: list[BridgeKind] = sorted({DEFAULT_KIND, "thread"})
each_bridge = pytest.mark.parametrize("bridge", BRIDGES)


class Client:
    """Somebody else's connection. Its loop runs in other threads than trio's."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def __aenter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        self._connection = await self._run(self._connect)
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):  # asyncpg's timeout is the bound
            await self._run(self._close)
            await trio.to_thread.run_sync(self._runner.close)

    async def fetch(self, sql: str, *arguments: object) -> list[tuple[object, ...]]:
        """Return the rows of one statement."""
        rows = await self._run(lambda: self._connection.fetch(sql, *arguments))
        return [tuple(row) for row in rows]

    async def value(self, sql: str, *arguments: object) -> object:
        """Return the first value of one statement."""
        return (await self.fetch(sql, *arguments))[0][0]

    async def execute(self, script: str) -> None:
        """Run statements that return nothing."""
        await self._run(lambda: self._connection.execute(script))

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self._dsn)

    async def _close(self) -> None:
        await self._connection.close(timeout=HANG_SECONDS)

    async def _run(self, call: Callable[[], Coroutine[object, object, T]]) -> T:
        return await trio.to_thread.run_sync(lambda: self._runner.run(call()))


@pytest.fixture
async def somebody() -> AsyncGenerator[Client]:
    async with Client(postgres().dsn) as client:
        yield client


def threads_left() -> list[str]:
    """Return which of our threads do not end: the last step of one may come after its news."""
    ours = [one for one in threading.enumerate() if one.name.startswith("provcache_trio")]
    for one in ours:
        one.join(HANG_SECONDS)
    return [one.name for one in ours if one.is_alive()]


@contextmanager
def silent_server() -> Generator[str]:
    """Listen, and never answer; give the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        yield f"postgresql://somebody@127.0.0.1:{port}/postgres"
