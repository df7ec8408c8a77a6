"""A TCP proxy in front of PostgreSQL that slows, holds, loses and cuts what is said.

It knows where a message of the protocol begins and ends (there must be no TLS), so a fault can
strike at a chosen one.
"""

from __future__ import annotations

import enum
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

_CANCEL_REQUEST: Final = 80877102
_BATCH_BYTES: Final = 600  # more than what anything else binds to its parameters
_RESET: Final = struct.pack("ii", 1, 0)
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Said(enum.Enum):
    """A message at which a fault can strike."""

    CONNECT = "the client begins a session"
    CANCEL = "the client asks, on another connection, to cancel"
    BATCH = "the client sends a batch"
    CREATE = "the client makes a table"
    CLOSE = "the client says goodbye"
    STORED = "the server says that a batch is stored"


class Do(enum.Enum):
    """What happens at that message, and to it."""

    RESET = "both ends are reset"
    HOLD = "it and all that follows, either way, comes when the line is mended"
    PART = "a part of it is passed on, and both ends are reset"


class _Rule:
    def __init__(self, said: Said, do: Do, times: float, skip: int) -> None:
        self.said = said
        self.do = do
        self.times = times
        self.skip = skip

    def applies(self, said: Said | None) -> bool:
        if said is not self.said or self.times <= 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class _Message(NamedTuple):
    said: Said | None
    data: bytes


_Parser: TypeAlias = "Generator[list[_Message], bytes, None]"


class Gate:
    """What passes, waits here while it is shut."""

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()

    def shut(self) -> None:
        if self._opened.is_set():
            self._opened = trio.Event()

    def open(self) -> None:
        self._opened.set()

    async def passed(self) -> None:
        while not self._opened.is_set():
            await self._opened.wait()


class _Link:
    """A connection of a client, and the one to the server that belongs to it."""

    def __init__(self, client: trio.SocketStream) -> None:
        self.gate = Gate()
        self.client = client
        self.server: trio.SocketStream | None = None

    def reset(self) -> None:
        for stream in (self.client, self.server):
            if stream is not None:
                with suppress(OSError):
                    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                stream.socket.close()


class Proxy:
    """See ``open_proxy``.

    Attributes:
        port: where it listens on 127.0.0.1.
        delay_seconds: how long each piece is on its way.
        bytes_per_second: what passes at most, each way, on each connection.
        connections: how many there have been.
    """

    def __init__(self, host: str, port: int, nursery: trio.Nursery) -> None:
        self._target = (host, port)
        self._nursery = nursery
        self._links: set[_Link] = set()
        self._rules: list[_Rule] = []
        self._gate = Gate()
        self._listening = trio.CancelScope()
        self._happened = trio.Event()
        self.port = 0
        self.delay_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.connections = 0

    def when(self, said: Said, do: Do, *, times: float = float("inf"), skip: int = 0) -> None:
        """Do that at the next ``times`` such messages, after the first ``skip``."""
        self._rules.append(_Rule(said, do, times, skip))

    async def happened(self) -> None:
        """Wait until some rule has applied since the last wait."""
        await self._happened.wait()
        self._happened = trio.Event()

    def cut(self) -> None:
        """Reset every connection."""
        for link in tuple(self._links):
            link.reset()

    def silence(self) -> None:
        """Swallow everything, new connections included, until ``heal``."""
        self._gate.shut()

    def refuse(self) -> None:
        """Cut every connection, and refuse new ones, until ``heal``."""
        self._listening.cancel()
        self.cut()

    async def heal(self) -> None:
        """Forget all rules; let what was held pass; listen again."""
        self._rules.clear()
        self.delay_seconds = 0.0
        self.bytes_per_second = None
        self._gate.open()
        for link in self._links:
            link.gate.open()
        if self._listening.cancel_called:
            await self.listen()

    def aim_at(self, host: str, port: int) -> None:
        """Connect to another server from now on; connections that are there stay."""
        self._target = (host, port)

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._listening = trio.CancelScope()
        [listener] = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        self._nursery.start_soon(self._accept, listener)

    async def _accept(self, listener: trio.SocketListener) -> None:
        with self._listening:
            await trio.serve_listeners(self._serve, [listener], handler_nursery=self._nursery)

    async def _serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        link = _Link(client)
        self._links.add(link)
        try:
            async with trio.open_nursery() as pumps:
                pumps.start_soon(self._from_client, link, pumps)
        finally:
            self._links.discard(link)
            link.client.socket.close()
            if link.server is not None:
                link.server.socket.close()

    async def _from_client(self, link: _Link, pumps: trio.Nursery) -> None:
        parser = _client_messages()
        with suppress(*_GONE):
            while (messages := await self._receive(link.client, parser)) is not None:
                for message in messages:
                    if not await self._may_pass(link, message):
                        return
                    if link.server is None:
                        # Not before: a line that is silent lets no connection be made.
                        link.server = await trio.open_tcp_stream(*self._target)
                        pumps.start_soon(self._from_server, link)
                    await link.server.send_all(message.data)
        await self._wait_for_gates(link)
        if link.server is None:
            link.reset()
            return
        with suppress(*_GONE):
            await link.server.send_eof()

    async def _from_server(self, link: _Link) -> None:
        assert link.server is not None
        parser = _server_messages()
        with suppress(*_GONE):
            while (messages := await self._receive(link.server, parser)) is not None:
                for message in messages:
                    if not await self._may_pass(link, message):
                        return
                    await link.client.send_all(message.data)
        await self._wait_for_gates(link)
        with suppress(*_GONE):
            await link.client.send_eof()

    async def _receive(self, stream: trio.SocketStream, parser: _Parser) -> list[_Message] | None:
        """Return the messages that are whole now, or None after the last."""
        data = await stream.receive_some()
        if not data:
            return None
        await trio.sleep(self.delay_seconds)
        if self.bytes_per_second is not None:
            await trio.sleep(len(data) / self.bytes_per_second)
        return parser.send(data)

    async def _may_pass(self, link: _Link, message: _Message) -> bool:
        rule = next((one for one in self._rules if one.applies(message.said)), None)
        if rule is not None:
            self._happened.set()
            if rule.do is not Do.HOLD:
                if rule.do is Do.PART and link.server is not None:
                    await link.server.send_all(message.data[: len(message.data) // 2])
                link.reset()
                return False
            link.gate.shut()
        await self._wait_for_gates(link)
        return True

    async def _wait_for_gates(self, link: _Link) -> None:
        await self._gate.passed()
        await link.gate.passed()


def _started(make: Callable[[], _Parser]) -> Callable[[], _Parser]:
    def start() -> _Parser:
        parser = make()
        next(parser)
        return parser

    return start


@_started
def _client_messages() -> _Parser:
    buffer = bytearray((yield []))
    while len(buffer) < 8 or len(buffer) < int.from_bytes(buffer[:4], "big"):
        buffer += yield []
    size, code = struct.unpack("!ii", buffer[:8])
    first = Said.CANCEL if code == _CANCEL_REQUEST else Said.CONNECT
    messages = [_Message(first, bytes(buffer[:size]))]
    del buffer[:size]
    while True:
        messages += [_Message(_said_by_client(data), data) for data in _whole(buffer)]
        buffer += yield messages
        messages = []


def _said_by_client(data: bytes) -> Said | None:
    if data[:1] == b"X":
        return Said.CLOSE
    if data[:1] == b"B" and len(data) > _BATCH_BYTES:
        return Said.BATCH
    return Said.CREATE if data[:1] == b"Q" and b"CREATE TABLE" in data else None


@_started
def _server_messages() -> _Parser:
    buffer = bytearray()
    messages: list[_Message] = []
    while True:
        buffer += yield messages
        messages = [
            _Message(Said.STORED if _tells_of_rows(data) else None, data) for data in _whole(buffer)
        ]


def _whole(buffer: bytearray) -> Generator[bytes]:
    """Take whole messages from ``buffer``."""
    while len(buffer) >= 5 and len(buffer) > (size := int.from_bytes(buffer[1:5], "big")):
        yield bytes(buffer[: size + 1])
        del buffer[: size + 1]


def _tells_of_rows(data: bytes) -> bool:
    return data[:1] == b"C" and data[5:].startswith(b"INSERT") and data[5:] != b"INSERT 0 0\0"


@asynccontextmanager
async def open_proxy(host: str, port: int) -> AsyncGenerator[Proxy]:
    """Run a proxy to the server at that address while the block runs."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(host, port, nursery)
        await proxy.listen()
        yield proxy
        nursery.cancel_scope.cancel()
