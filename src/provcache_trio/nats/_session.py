"""A connection that is replaced when it is lost, and the requests over it, on asyncio's side of the bridge.

Any number of calls may be under way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar, final

import msgspec

from provcache_trio._vocabulary.errors import (
    ProvcacheError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    reworded,
)

from ._connection import Connection
from ._errors import ApiError, meaning_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Msg

    from ._servers import Access

T = TypeVar("T")
A = TypeVar("A", bound="Answer")

_NO_RESPONDERS: Final = "503"
_CONNECT_SECONDS: Final = 2.0
_API_SECONDS: Final = 5.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer of JetStream has in common.

    Attributes:
        error: why the request failed, or None.
    """

    error: ApiError | None = None


class NoRespondersError(StoreUnavailableError):
    """Nobody answers: there is no such stream, or it has no leader."""


@final
class Session:
    """A connection to one of several servers, opened when it is needed.

    Args:
        access: the servers.
        prepare: called with each new connection.
    """

    def __init__(
        self,
        access: Access,
        stream: str,
        prepare: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        self._access = access
        self._about = f"stream {stream} at {','.join(map(str, access.servers))}"
        self._prepare = prepare
        self._turn = 0  # which server is the first, next time
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None

    @property
    def current(self) -> Connection | None:
        """The connection, unless there is none or it is known to be lost."""
        connection = self._connection
        return None if connection is None or connection.lost else connection

    async def connection(self) -> Connection:
        """Return the connection; open one if necessary.

        Raises:
            StoreError: no server can be used.
        """
        return self.current or await self._connect()

    async def _connect(self) -> Connection:
        async with self._connecting:
            if (current := self.current) is not None:  # somebody else was quicker
                return current
            await self._close()
            failure: StoreError | None = None
            for _ in self._access.servers:
                try:
                    return await self._connect_to_next()
                except StoreError as error:
                    # An error that needs a person counts more than servers that are down.
                    if not isinstance(failure, StoreMisconfiguredError):
                        failure = error
            assert failure is not None  # noqa: S101  # there is a server
            raise self._named(failure)

    async def _connect_to_next(self) -> Connection:
        servers = self._access.servers
        server = servers[self._turn % len(servers)]
        self._turn += 1
        try:
            connection = await Connection.open(server, self._access, _CONNECT_SECONDS)
            try:
                if self._prepare is not None:
                    await self._prepare(connection)
            except BaseException:
                await connection.close()
                raise
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # translated
            failure = meaning_of(error, "connecting")
        else:
            self._connection = connection
            return connection
        raise failure  # outside of the handler, or nats-py's error would be its context

    async def use(self, work: Callable[[Connection], Awaitable[T]], doing: str) -> T:
        """Return what ``work`` returns for a connection.

        Raises:
            StoreError: it failed; after silence or a lost connection it may have been done all the same.
            ProvcacheError: ``work`` raised it.
        """
        connection = await self.connection()
        try:
            return await work(connection)
        except StoreError as error:
            raise self._named(error)  # noqa: B904  # itself
        except ProvcacheError:
            raise
        except Exception as error:  # noqa: BLE001  # translated
            failure = meaning_of(error, doing)
            if isinstance(error, TimeoutError):
                await self.drop(connection)  # the server may have stopped
        # Outside of the handler, or nats-py's error would be its context.
        raise self._named(failure)

    def _named(self, error: StoreError) -> StoreError:
        """Return ``error`` with the stream and its servers in front."""
        return reworded(error, f"{self._about}: {error}")

    async def ask(
        self,
        subject: str,
        payload: bytes,
        kind: type[A],
        *,
        patience: float = _API_SECONDS,
    ) -> A:
        """Send a request, and return the answer.

        Raises:
            NoRespondersError: nobody answers for that subject.
            StoreError: there was no answer, or it is an error.
        """

        async def request(connection: Connection) -> A:
            return await ask(connection, subject, payload, kind, patience=patience)

        return await self.use(request, "a request")

    async def drop(self, connection: Connection) -> None:
        """Close ``connection``; the next call opens another one."""
        if connection is self._connection:
            await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close the connection, in two seconds at most."""
        await self._close()


async def close_all(*sessions: Session) -> None:
    """Close several sessions at the same time, in two seconds at most."""
    await asyncio.gather(*(session.close() for session in sessions))


async def ask(
    connection: Connection,
    subject: str,
    payload: bytes,
    kind: type[A],
    *,
    patience: float = _API_SECONDS,
) -> A:
    """Send a request over this connection, and return the answer.

    Raises:
        StoreError: see ``answer_in``.
        Exception: see ``Connection.request``.
    """
    return answer_in(await connection.request(subject, payload, patience), kind)


def answer_in(message: Msg, kind: type[A]) -> A:
    """Return the answer in ``message``.

    Raises:
        NoRespondersError: nobody answers for that subject.
        StoreError: it is an error, or can't be read.
    """
    if (message.headers or {}).get("Status") == _NO_RESPONDERS:
        raise NoRespondersError("nobody answers for the stream", error_class="NoResponders")
    try:
        answer = msgspec.json.decode(message.data, type=kind)
    except msgspec.MsgspecError:
        raise StoreMisconfiguredError("NATS gave an answer that is not known") from None
    if answer.error is not None:
        raise answer.error.meaning()
    return answer
