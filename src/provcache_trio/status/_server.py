"""The life of the trio server, for programs that have no server of their own.

It is our own, because a general ASGI server can hold up the application's exit: one that shields
what it sends waits for ever for a client that does not read. Here every connection has a deadline,
nothing in it is shielded, and leaving cancels all of them.
"""

from __future__ import annotations

import logging
import socket
import traceback
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from provcache_trio._vocabulary.failures import leaves_of
from provcache_trio._vocabulary.opening import Opening

from ._hosts import AllowedHosts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._app import StatusApp

Serve: TypeAlias = "Callable[[StatusApp, AllowedHosts, trio.SocketStream], Awaitable[None]]"

_logger: Final = logging.getLogger("provcache_trio")

MOST_CONNECTIONS: Final = 50  # for one more, the oldest one is closed
MOST_SECONDS: Final = 10  # from a connection's beginning to its end
_RETRY_SECONDS: Final = 0.1

# How to reach a server that listens on every address.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@final
class StatusServer:
    """A running status server; do not instantiate, use ``open_status_server``.

    Attributes:
        app: the app that it serves; queues may be added and removed at any time.
        url: the page's; the other paths are relative to it.
        port: the port, given or chosen.
    """

    def __init__(self, app: StatusApp, listener: trio.SocketListener) -> None:
        address: tuple[str, int] = listener.socket.getsockname()[:2]
        host = _LOOPBACK.get(address[0], address[0])
        self.app: StatusApp = app
        self.port: int = address[1]
        self.url: str = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


@final
class ServerOpening(Opening["StatusServer"]):
    """What ``open_status_server`` returns."""

    what = "a status server"
    function = "open_status_server"
    one_task = True

    def __init__(
        self, app: StatusApp, host: str, port: int, allowed_hosts: Sequence[str], serve: Serve
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._allowed_hosts = allowed_hosts
        self._serve = serve
        self._free = trio.Semaphore(MOST_CONNECTIONS + 1)  # the last makes room
        self._connections: dict[trio.CancelScope, None] = {}  # the oldest first

    async def _open(self) -> StatusServer:
        try:
            listener = await _listen(self._host, self._port)
        except OSError as error:
            raise _named(error, f"{self._host}:{self._port}") from None
        address = listener.socket.getsockname()[0]
        self._hosts = AllowedHosts(address, self._host, self._allowed_hosts)
        # From here to the end nothing yields, so a server is open or it is not.
        server = StatusServer(self._app, listener)
        # Only the exit ends it, so that it can be asked while a queue in the block drains.
        self._scope = trio.CancelScope(shield=True)
        self._nursery_manager = trio.open_nursery(strict_exception_groups=True)
        # Not `async with`: the body's exception must not pass through our nursery.
        nursery = await self._nursery_manager.__aenter__()
        nursery.start_soon(self._run, listener, name=f"status server {server.url}")
        return server

    async def _close(self, error: BaseException | None, /) -> None:
        self._scope.cancel()
        try:
            # This waits for our tasks even if a surrounding scope is cancelled; none of them
            # shields anything.
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseExceptionGroup:  # our tasks let nothing out, so it is Ctrl-C
            raise KeyboardInterrupt from error

    @trio.lowlevel.enable_ki_protection
    async def _run(self, listener: trio.SocketListener) -> None:
        with self._scope:
            try:
                async with listener, trio.open_nursery() as nursery:
                    await self._accept_all(listener, nursery)
            except Exception as error:  # noqa: BLE001  # the program matters more
                _log("ended", error)

    async def _accept_all(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            await self._free.acquire()
            stream = await _accept(listener)
            scope = trio.CancelScope(deadline=trio.current_time() + MOST_SECONDS)
            self._connections[scope] = None
            nursery.start_soon(self._attend, stream, scope)
            if self._free.value == 0:
                # Each of them waits for its client, since making an answer takes no time. So
                # clients that hold connections open can't keep a probe from its answer.
                next(iter(self._connections)).cancel()

    @trio.lowlevel.enable_ki_protection
    async def _attend(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with stream:
                    await self._serve(self._app, self._hosts, stream)
        except Exception as error:  # noqa: BLE001  # somebody's queue may raise anything
            _log("could not answer", error)
        finally:
            del self._connections[scope]
            self._free.release()


def _named(error: OSError, address: str) -> OSError:
    """Return an error of this kind that names the address; the system's does not."""
    reason = error.strerror or str(error)
    return type(error)(error.errno, f"a status server can't listen at {address}: {reason}")


async def _listen(host: str, port: int) -> trio.SocketListener:
    """Listen at one address: of a name that has several, at the first."""
    kind = socket.SOCK_STREAM
    found = await trio.socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    address = str(found[0][4][0])
    (listener,) = await trio.open_tcp_listeners(port, host=address)
    return listener


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    while True:
        try:
            return await listener.accept()
        except OSError:  # mostly because no descriptor is free; one will be
            await trio.sleep(_RETRY_SECONDS)


def _log(what: str, error: Exception) -> None:
    # The frames, but not the message, which may quote anything.
    leaves = leaves_of(error)
    frames = "".join("".join(traceback.format_tb(leaf.__traceback__)) for leaf in leaves)
    classes = ", ".join(type(leaf).__qualname__ for leaf in leaves)
    _logger.error("status server %s: %s\n%s", what, classes, frames)
