"""Streams of a test's own, and what is in them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from provcache_trio.nats import create_stream, open_relay, open_stream_repository
from provcache_trio.nats._session import Answer

from tests.support.bridges import BRIDGES
from tests.support.nats import BETWEEN_LOOKS, MEGABYTE, nats_server, stream_detail, unused_stream
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from nats.aio.client import Msg

    from provcache_trio import ProvcacheEntry, WriteBehindOptions
    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.nats import Relay, StreamRepository

    from tests.support.nats import NatsServer


class Stream:
    """A stream of a server, as a test uses it."""

    def __init__(self, server: NatsServer, bridge: BridgeKind) -> None:
        self.server = server
        self.url = server.url
        self.name = unused_stream()
        self.bridge: BridgeKind = bridge

    async def create(self, **settings: Any) -> None:  # noqa: ANN401  # of ``create_stream``
        arguments = {"max_bytes": 64 * MEGABYTE, "replicas": 1, **settings}
        await create_stream(self.url, self.name, bridge=self.bridge, **arguments)

    def repository(self, **arguments: Any) -> AbstractAsyncContextManager[StreamRepository[Any]]:  # noqa: ANN401  # likewise
        return open_stream_repository(self.url, self.name, bridge=self.bridge, **arguments)

    def relay(
        self,
        repository: Any,  # noqa: ANN401  # of whatever entries
        *options: WriteBehindOptions,
        **arguments: Any,  # noqa: ANN401  # of ``open_relay``
    ) -> AbstractAsyncContextManager[Relay[Any]]:
        return open_relay(
            self.url, self.name, repository, *options, bridge=self.bridge, **arguments
        )

    async def put(self, *batches: Sequence[ProvcacheEntry]) -> None:
        """Have each of these batches in a message of its own."""
        async with self.repository() as repository:
            for batch in batches:
                await repository.upsert_many(batch)

    async def put_raw(self, data: bytes) -> None:
        """Have a message in it that nobody knows."""
        async with self.repository() as repository:
            await request(repository, f"provcache.{self.name}", data)

    def detail(self) -> Mapping[str, Any]:
        """Return what the server knows of it."""
        detail = stream_detail(self.server, self.name)
        assert detail is not None
        return detail

    def messages(self) -> int:
        number: int = self.detail()["state"]["messages"]
        return number

    def consumer(self) -> Mapping[str, Any]:
        """Return what the server knows of its consumer."""
        (found,) = self.detail()["consumer_detail"]
        return found  # type: ignore[no-any-return]  # JSON

    async def note_extensions(self, heard: dict[bytes, list[float]]) -> None:
        """Note when the server was asked for more time, by each message's sequence, until cancelled."""
        async with await trio.open_tcp_stream("127.0.0.1", self.server.port) as line:
            await line.send_all(b"CONNECT {}\r\nSUB $JS.ACK.%s.> 1\r\n" % self.name.encode())
            received = b""
            async for data in line:
                *messages, received = (received + data).split(b"+WPI\r\n")
                for message in messages:
                    subject = message[message.rindex(b"MSG ") :].split()[1]
                    sequence = subject.split(b".")[5]
                    heard.setdefault(sequence, []).append(trio.current_time())

    async def until_empty(self) -> None:
        await until(lambda: self.messages() == 0, every=BETWEEN_LOOKS)


async def request(repository: StreamRepository[Any], subject: str, data: bytes) -> Msg:
    """Send a request of a test's own, over a repository's connection."""
    call = partial(repository._session.use, lambda one: one.request(subject, data, 5), "a test")
    return await repository._run(call)


async def ask(repository: StreamRepository[Any], subject: str, data: bytes = b"") -> Answer:
    return await repository._run(lambda: repository._session.ask(subject, data, Answer))


@pytest.fixture(params=BRIDGES)
async def stream(request: pytest.FixtureRequest) -> Stream:
    """A stream on one server, for each bridge."""
    made = Stream(nats_server(), request.param)
    await made.create()
    return made
