"""One connection to one server, on asyncio's side of the bridge.

This uses only the core client of nats-py, without its reconnection, which sent requests that had
already timed out. So a lost connection stays lost, and everyone who waits for an answer
gets an error at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self, final

from nats.aio.client import Client
from nats.errors import UnexpectedEOF

from ._errors import DeniedError, LeaderChangedError, LostError, PlainTextError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Msg, Subscription

    from ._servers import Access, Server

_CLOSE_SECONDS: Final = 1.0
_PING_SECONDS: Final = 20
_ADVISORY: Final = '"$js.event.advisory.'
_HEADER_BYTES: Final = 512  # which a server may count, but nats-py does not


def raise_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled and nats-py has swallowed that.

    It uses ``asyncio.wait_for``, which before Python 3.12 returns a result that arrives together with the
    cancellation; whoever cancelled would then wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _ConnectError(Exception):
    """Carries an error that nats-py would otherwise log, before it tries sixty more times."""


class _Client(Client):
    """nats-py's client, which stays connected when an answer comes that nobody waits for any more.

    And which does not have asyncio warn, for each connection over TLS that a server ends, that
    "returning true from eof_received() has no effect when using ssl".
    """

    async def _process_connect_init(self) -> None:
        transport: Any = self._transport
        transport.connect_tls = partial(_connect_tls, transport, transport.connect_tls)
        await super()._process_connect_init()

    async def _process_pong(self) -> None:
        # nats-py sets the result of a future that it has cancelled itself when time was up, logs a
        # traceback, and reads no more.
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()


async def _connect_tls(
    transport: Any,  # noqa: ANN401  # nats-py's
    connect_tls: Callable[..., Awaitable[None]],
    *arguments: object,
) -> None:
    await connect_tls(*arguments)
    # As asyncio's own upgrade to TLS notes it.
    transport._io_writer.transport.get_protocol()._over_ssl = True  # noqa: SLF001  # nothing public does


@final
class Connection:
    """A client of nats-py that never reconnects.

    Attributes:
        most_bytes: the largest payload of one message.
        lost: whether the connection has ended.
    """

    def __init__(self) -> None:
        self._client = _Client()
        self._connecting = True
        self._wants_tls = False
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._subscriptions: list[Subscription] = []
        self._ended: list[Callable[[Exception], None]] = []
        self._inbox = ""
        self.lost: bool = False
        self.most_bytes: int = 0

    @classmethod
    async def open(cls, server: Server, access: Access, timeout: float) -> Self:  # noqa: ASYNC109  # asyncio's
        """Connect to ``server``.

        Raises:
            Exception: whatever nats-py or the network raises.
        """
        self = cls()
        connected = False
        try:
            async with asyncio.timeout(timeout):
                await self._connect(server, access, timeout)
            connected = True
        except _ConnectError as error:
            raise error.args[0] from None
        finally:
            if not connected:
                await self._abort()  # noqa: ASYNC102  # asyncio's, and bounded
        return self

    async def _connect(self, server: Server, access: Access, patience: float) -> None:
        client = self._client
        self._wants_tls = access.tls is not None

        def secret(value: str | None) -> Callable[[], str] | None:
            return None if value is None else lambda: self._over_tls(value)

        await client.connect(
            server.url,
            error_cb=self._note,
            closed_cb=self._closed,
            name="provcache_trio",
            allow_reconnect=False,
            connect_timeout=patience,
            ping_interval=_PING_SECONDS,
            tls=access.tls,
            tls_hostname=server.host if access.tls is not None else None,
            user=access.user,
            # nats-py asks for them once the server has said whether it speaks TLS.
            password=secret(access.password),
            token=secret(access.token),
            user_credentials=access.credentials,
            # Otherwise a publish may wait, and would swallow its cancellation.
            pending_size=0,
        )
        raise_if_cancelled()
        self._over_tls("")
        self._connecting = False
        self.most_bytes = client.max_payload - _HEADER_BYTES
        if client._reading_task is not None:  # noqa: SLF001  # pragma: no branch  # there is one
            # Nothing else reports the end of a connection in every case.
            client._reading_task.add_done_callback(lambda _: self._lose())  # noqa: SLF001
        self._inbox = client.new_inbox()
        await self.subscribe(f"{self._inbox}.*", self._answer)

    def _over_tls(self, value: str) -> str:
        """Return ``value``; raise PlainTextError if TLS was asked for and the server has none."""
        if self._wants_tls and not self._client._server_info.get("tls_required"):  # noqa: SLF001  # what the server said
            raise PlainTextError
        return value

    # What nats-py reports

    async def _note(self, error: Exception) -> None:
        if self._connecting:
            raise _ConnectError(error)
        if isinstance(error, UnexpectedEOF):
            self._lose()
        elif "permissions violation" in (text := str(error).lower()) and _ADVISORY not in text:
            # The server does not say which request it denied.
            self._fail(DeniedError(str(error)))

    async def _closed(self) -> None:
        self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._fail(LostError())

    def _fail(self, error: Exception) -> None:
        self._fail_requests(error)
        for ended in self._ended:
            ended(error)

    def _fail_requests(self, error: Exception) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    async def _answer(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    # Operations

    def on_trouble(self, call: Callable[[Exception], None]) -> None:
        """Call ``call`` when the connection is lost or the server denies something."""
        self._ended.append(call)

    async def request(self, subject: str, payload: bytes, patience: float) -> Msg:
        """Send ``payload`` and return the first answer to it.

        Raises:
            TimeoutError: no answer came in time.
            LostError: the connection is lost.
            DeniedError: the server denied this request, or another one that was under way.
            Exception: whatever nats-py raises.
        """
        if self.lost:
            raise LostError
        token = str(next(self._numbers))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            await self._client.publish(subject, payload, reply=f"{self._inbox}.{token}")
            async with asyncio.timeout(patience):
                return await future
        finally:
            del self._waiting[token]

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Send ``payload`` without waiting for an answer.

        Raises:
            LostError: the connection is lost.
            Exception: whatever nats-py raises.
        """
        if self.lost:
            raise LostError
        await self._client.publish(subject, payload, reply=reply)
        raise_if_cancelled()

    async def subscribe(self, subject: str, call: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Pass each message on ``subject`` to ``call``, one after the other."""
        # nats-py's own limits would drop messages that arrive too fast. We receive only what we asked for.
        subscription = await self._client.subscribe(
            subject, cb=call, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._subscriptions.append(subscription)
        raise_if_cancelled()
        return subscription

    async def watch_leader(self, stream: str) -> None:
        """From now on, fail requests with LeaderChangedError when ``stream`` gets another leader.

        Otherwise what was on its way to the former one would wait for its whole time. Where a user may
        not listen to the servers' advisories, it does.

        Raises:
            Exception: whatever nats-py raises.
        """

        async def elected(_message: Msg) -> None:  # noqa: ASYNC124  # nats-py awaits it
            self._fail_requests(LeaderChangedError())

        await self.subscribe(f"$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{stream}", elected)

    def new_inbox(self) -> str:
        """Return a subject that no other client uses."""
        return self._client.new_inbox()

    async def settle(self, patience: float) -> None:
        """Wait until the server has everything we sent, and we have everything it sent before.

        Raises:
            TimeoutError: the server does not answer.
            LostError: the connection is lost.
            Exception: whatever nats-py raises.
        """
        if self.lost:
            raise LostError
        async with asyncio.timeout(patience):
            await self._client.flush(timeout=2 * patience)
        raise_if_cancelled()

    async def close(self) -> None:
        """Close the connection once everything was sent; takes a second at most."""
        self.lost = True
        try:
            with suppress(Exception):  # ``_abort`` drops the connection then
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.close()
        finally:
            await self._abort()

    async def _abort(self) -> None:
        """Abort the transport and tasks that ``Client.close`` leaves behind when it is cut off."""
        self._lose()
        client = self._client
        transport: Any = client._transport  # noqa: SLF001  # nothing public ends it
        writer = getattr(transport, "_bare_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        tasks = {
            client._reading_task,  # noqa: SLF001  # as said
            client._ping_interval_task,  # noqa: SLF001
            client._flusher_task,  # noqa: SLF001
            *(one._wait_for_msgs_task for one in self._subscriptions),  # noqa: SLF001
        }
        left = [task for task in tasks if task is not None and not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CLOSE_SECONDS)
