"""A connection that is replaced when it is lost, and the requests over it, on asyncio's side of the bridge.

Any number of calls may be under way.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar, final

import msgspec

from provcache_trio._vocabulary.errors import (
    ProvcacheError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
    reworded,
)
from provcache_trio._vocabulary.log import log

from ._connection import Connection
from ._errors import ApiError, meaning_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from nats.aio.client import Msg

    from ._servers import Access, Server

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
        self._reported: dict[Server, str] = {}  # servers that need a person, and what was logged
        self._most_bytes: dict[Server, int] = {}  # what each took when we were connected to it

    @property
    def servers(self) -> int:
        """The number of servers."""
        return len(self._access.servers)

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
            failures: dict[Server, StoreError] = {}
            for _ in self._access.servers:
                server = self._next_server()
                try:
                    connection = await self._connect_to(server)
                except StoreError as error:
                    failures[server] = error
                else:
                    self._report_passed_over(failures)
                    return connection
            raise self._named(_gravest(failures.values()))

    def _next_server(self) -> Server:
        servers = self._access.servers
        server = servers[self._turn % len(servers)]
        self._turn += 1
        return server

    def _report_passed_over(self, failures: Mapping[Server, StoreError]) -> None:
        """Log, once, each server that needs a person although another one serves us well."""
        for server, error in failures.items():
            words = str(error)
            if isinstance(error, StoreMisconfiguredError) and self._reported.get(server) != words:
                self._reported[server] = words
                log(
                    logging.WARNING,
                    "%s: %s; another server is used",
                    self._about,
                    words,
                    server=str(server),
                    error_class=error.error_class,
                )

    async def _connect_to(self, server: Server) -> Connection:
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
            which = f" to {server}" if len(self._access.servers) > 1 else ""
            failure = meaning_of(error, f"connecting{which}", connected=False)
        else:
            self._connection = connection
            self._reported.pop(server, None)
            self._most_bytes[server] = connection.most_bytes
            return connection
        raise failure  # outside of the handler, or nats-py's error would be its context

    async def leave_for_larger(self) -> bool:
        """Leave a server that takes no larger message for one that may; return whether there is one.

        Whatever else is under way on the connection fails as if it were lost.
        """
        connection = self._connection
        if connection is None:
            return True
        most, known = connection.most_bytes, self._most_bytes
        if all(known.get(server, most + 1) <= most for server in self._access.servers):
            return False
        await self._close()
        return True

    async def use(self, work: Callable[[Connection], Awaitable[T]], doing: str) -> T:
        """Return what ``work`` returns for a connection.

        Raises:
            StoreError: it failed; after silence or a lost connection it may have been done all the same.
            ProvcacheError, MemoryError: ``work`` raised it.
        """
        connection = await self.connection()
        try:
            return await work(connection)
        except StoreError as error:
            raise self._named(error)  # noqa: B904  # itself
        except (ProvcacheError, MemoryError):
            # A queue sends less at once after a MemoryError.
            raise
        except Exception as error:  # noqa: BLE001  # translated
            failure = meaning_of(error, doing, connected=True, lost=connection.lost)
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


def _gravest(failures: Iterable[StoreError]) -> StoreError:
    """Return the first that needs a person, which counts more than servers that are down, or the first."""
    return min(failures, key=lambda error: not isinstance(error, StoreMisconfiguredError))


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
