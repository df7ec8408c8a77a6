"""One connection to one server. This is asyncio's side of the bridge.

Of nats-py the core client is used, without its reconnection: a request that it had given up was
sent later all the same. So a connection that is lost is lost, and whoever waits for an answer
learns it at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self, final

from nats.aio.client import Client
from nats.errors import UnexpectedEOF

from ._errors import DeniedError, LostError, PlainTextError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Msg, Subscription

    from ._servers import Access, Server

_CLOSE_SECONDS: Final = 1.0
_PING_SECONDS: Final = 20
_HEADER_BYTES: Final = 512  # which a server may count, but nats-py does not


def raise_if_cancelled() -> None:
    """Raise if this task was cancelled, and nats-py has swallowed that.

    It uses ``asyncio.wait_for``, which before Python 3.12 returns a result that comes together with the
    cancellation; whoever had cancelled would wait for good.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _ConnectError(Exception):
    """Carries out what nats-py would rather log, and try again sixty times."""


@final
class Connection:
    """A client of nats-py's that never connects again.

    Attributes:
        most_bytes: of the payload of one message.
        lost: whether it is of no use any more.
    """

    def __init__(self) -> None:
        self._client = Client()
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
            Exception: whatever is in the way.
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
            # Asked for when the server has said whether there is TLS.
            password=secret(access.password),
            token=secret(access.token),
            user_credentials=access.credentials,
            pending_size=0,  # else a publish may wait, and swallows its cancellation then
        )
        raise_if_cancelled()
        self._over_tls("")
        self._connecting = False
        self.most_bytes = client.max_payload - _HEADER_BYTES
        if client._reading_task is not None:  # noqa: SLF001  # pragma: no branch  # there is one
            # Nothing else says in every case that a connection has ended.
            client._reading_task.add_done_callback(lambda _: self._lose())  # noqa: SLF001
        self._inbox = client.new_inbox()
        await self.subscribe(f"{self._inbox}.*", self._answer)

    def _over_tls(self, value: str) -> str:
        """Return ``value`` unless it would be sent in plain text against our will."""
        if self._wants_tls and not self._client._server_info.get("tls_required"):  # noqa: SLF001  # what the server said
            raise PlainTextError
        return value

    # What nats-py reports

    async def _note(self, error: Exception) -> None:
        if self._connecting:
            raise _ConnectError(error)
        if isinstance(error, UnexpectedEOF):
            self._lose()
        elif "permissions violation" in str(error).lower():
            # It does not say which request that was.
            self._fail(DeniedError(str(error)))

    async def _closed(self) -> None:
        self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._fail(LostError())

    def _fail(self, error: Exception) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        for ended in self._ended:
            ended(error)

    async def _answer(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    # What it can do

    def on_trouble(self, call: Callable[[Exception], None]) -> None:
        """Have ``call`` called when the connection is lost, or something is denied."""
        self._ended.append(call)

    async def request(self, subject: str, payload: bytes, patience: float) -> Msg:
        """Send ``payload`` and return the first answer to it.

        Raises:
            TimeoutError: there is none.
            LostError: the connection is gone.
            DeniedError: the server does not allow that, or what somebody else has asked for.
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
        """Send ``payload`` to whoever listens.

        Raises:
            LostError: the connection is gone.
            Exception: whatever nats-py raises.
        """
        if self.lost:
            raise LostError
        await self._client.publish(subject, payload, reply=reply)
        raise_if_cancelled()

    async def subscribe(self, subject: str, call: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Have every message on ``subject`` given to ``call``, one after the other."""
        # Its own limits would drop what comes too fast. Nothing comes that was not asked for.
        subscription = await self._client.subscribe(
            subject, cb=call, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._subscriptions.append(subscription)
        raise_if_cancelled()
        return subscription

    def new_inbox(self) -> str:
        """Return a subject that nobody else knows."""
        return self._client.new_inbox()

    async def settle(self, patience: float) -> None:
        """Wait until the server has all that was sent, and we what it had sent before.

        Raises:
            TimeoutError: it does not answer.
            LostError: the connection is gone.
            Exception: whatever nats-py raises.
        """
        if self.lost:
            raise LostError
        async with asyncio.timeout(patience):
            await self._client.flush(timeout=2 * patience)
        raise_if_cancelled()

    async def close(self) -> None:
        """End it, after what was sent; in a second at most."""
        self.lost = True
        try:
            with suppress(Exception):  # then it is dropped
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.close()
        finally:
            await self._abort()

    async def _abort(self) -> None:
        """Drop what ``Client.close`` leaves behind when it is cut off."""
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
