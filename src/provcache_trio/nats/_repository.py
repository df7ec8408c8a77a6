"""``open_stream_repository``: a stream as the repository of queues."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NoReturn,
    Self,
    TypeVar,
    cast,
    final,
    overload,
)

import trio

from provcache_trio._asyncio.bridge import DEFAULT_KIND, make_bridge
from provcache_trio._asyncio.calls import BridgeCalls
from provcache_trio._vocabulary.checks import check_seconds
from provcache_trio._vocabulary.errors import (
    EntryRejectedError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.protocols import E
from provcache_trio._vocabulary.table import Table

from ._errors import LeaderChangedError
from ._looks import Looks
from ._messages import Codec, Encoded
from ._monitor import read_monitor_url
from ._servers import read_access
from ._session import Answer, NoRespondersError, Session, answer_in, ask, close_all
from ._stream import StreamInfo, StreamReport, names_of, report_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager
    from os import PathLike

    from provcache_trio._asyncio.bridge import Bridge
    from provcache_trio._vocabulary.entries import ProvcacheEntry
    from provcache_trio._vocabulary.metrics import StreamMetrics

    from ._connection import Connection
    from ._stream import Names

T = TypeVar("T")

_MOST_SECONDS: Final = 3600
_ANSWER_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.05


@overload
def open_stream_repository(
    servers: str | Sequence[str],
    stream: str,
    *,
    table: None = ...,
    publish_timeout_seconds: float = ...,
    user: str | None = ...,
    password: str | None = ...,
    token: str | None = ...,
    credentials: str | PathLike[str] | None = ...,
    tls: ssl.SSLContext | None = ...,
    bridge: Literal["trio-asyncio", "thread"] = ...,
) -> AbstractAsyncContextManager[StreamRepository[ProvcacheEntry]]: ...


@overload
def open_stream_repository(
    servers: str | Sequence[str],
    stream: str,
    *,
    table: Table[E],
    publish_timeout_seconds: float = ...,
    user: str | None = ...,
    password: str | None = ...,
    token: str | None = ...,
    credentials: str | PathLike[str] | None = ...,
    tls: ssl.SSLContext | None = ...,
    bridge: Literal["trio-asyncio", "thread"] = ...,
) -> AbstractAsyncContextManager[StreamRepository[E]]: ...


def open_stream_repository(
    servers: str | Sequence[str],
    stream: str,
    *,
    table: Table[Any] | None = None,
    publish_timeout_seconds: float = 2,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | PathLike[str] | None = None,
    tls: ssl.SSLContext | None = None,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> AbstractAsyncContextManager[StreamRepository[Any]]:
    """Open a stream as a repository, for the length of an ``async with``.

    What a queue over it reports as persisted is **in the stream**: on the disks of a majority of
    its servers. A relay writes it to the store later; see ``open_relay``.

    Opening does not connect, so it fails only with OSError, when the process has no
    descriptors left. Call ``check`` to find out at once whether the stream can be used.

    Args:
        servers: URLs such as ``nats://n1:4222,n2,n3`` or ``tls://n1``, in one str or several. A user
            name and password, or a token, may stand before an ``@``, percent-encoded.
        stream: the name of a stream that ``create_stream`` has created.
        table: the declared table of the entries, unless they are ``ProvcacheEntry``. Relays do not keep
            the order of versions, so it needs ``newer`` and may have no field with ``"keep"``.
        publish_timeout_seconds: how long to wait for the answer to one message, above 0 and at most 3600.
        user: the user's name, instead of in a URL.
        password: its password.
        token: a token instead of both.
        credentials: a credentials file instead of them; needs ``nats-py[nkeys]``.
        tls: the context for TLS; ``tls://`` alone means ``ssl.create_default_context()``. With either,
            nothing is sent without TLS.
        bridge: where nats-py's event loop runs: "trio-asyncio", inside trio's, or "thread".

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that it can't have.
        ImportError: ``bridge`` is "trio-asyncio", and that is not installed, or can't be imported
            by this Python.
    """
    access = read_access(
        servers, user=user, password=password, token=token, credentials=credentials, tls=tls
    )
    names = names_of(stream)
    check_table(table)
    check_seconds(
        "publish_timeout_seconds", publish_timeout_seconds, positive=True, at_most=_MOST_SECONDS
    )
    opened = make_bridge(bridge)
    repository = StreamRepository[Any](
        Session(access, names.stream, lambda connection: connection.watch_leader(names.stream)),
        names,
        table,
        publish_timeout_seconds,
        opened,
        Looks(access, names),
    )
    return _Opening(repository, opened)


def check_table(table: Table[Any] | None) -> None:
    """Raise if what a table keeps depends on the order in which versions arrive.

    Raises:
        TypeError: ``table`` is not a ``Table``.
        ValueError: it depends on the order.
    """
    if table is None:
        return
    if not isinstance(cast("object", table), Table):
        raise TypeError(f"table must be a Table, not {type(table).__name__}")
    kept = [field.name for field in table.fields if field.rule == "keep"]
    if table.newer_field is None or kept:
        why = f"field {kept[0]!r} is kept by 'keep'" if kept else "it has no 'newer'"
        raise ValueError(
            f"table {table.name!r} can't go through a stream, where order is not kept: {why}"
        )


@final
class _Opening(Opening["StreamRepository[Any]"]):
    """What ``open_stream_repository`` returns."""

    what = "a stream"
    function = "open_stream_repository"

    def __init__(self, repository: StreamRepository[Any], bridge: Bridge) -> None:
        self.one_task = bridge.one_task
        self._repository = repository
        self._bridge = bridge

    async def _open(self) -> StreamRepository[Any]:
        await self._bridge.open()
        return self._repository

    async def _close(self, _error: BaseException | None, /) -> None:
        await self._repository._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the only one who may


class _Published(Answer, frozen=True, kw_only=True):
    """The answer to a message that is in the stream."""

    seq: int = 0


@final
class StreamRepository(Generic[E]):
    """Returned by ``open_stream_repository``; do not instantiate.

    May be used by several tasks and queues at once. A cancelled call raises ``trio.Cancelled``;
    what it sent may or may not be in the stream.

    Besides what its own section says, every method raises:
        StoreUnavailableError: no server answers, or there is no majority of them, or the stream is
            full: nothing expires, so producers wait. What was sent may be in the stream.
        StoreMisconfiguredError: a person must act: there is no such stream, or access was refused.
        trio.ClosedResourceError: the ``async with`` block was left.

    Attributes:
        table: what it was opened with, or None.
        entry_type: the class of its entries.
        label: the name of the stream, as the log has it.
    """

    def __init__(
        self,
        session: Session,
        names: Names,
        table: Table[E] | None,
        publish_timeout_seconds: float,
        bridge: Bridge,
        looks: Looks,
    ) -> None:
        self.table: Table[E] | None = table
        self.label: str = f"stream {names.stream}"
        self._codec = Codec(table)
        self.entry_type: type[E] = self._codec.entry_type
        self._session = session
        self._names = names
        self._patience = publish_timeout_seconds
        self._calls = BridgeCalls(bridge, f"the repository of stream {names.stream}")
        self._looks = looks

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """Publish every entry to the stream; see ``Repository.upsert_many``.

        They form one message, or as few as the servers allow. If the stream becomes full in between,
        some are in it although the call fails; they are stored twice then, which changes nothing.

        Returns:
            How many entries there are, once a majority of the servers has them.

        Raises:
            EntryRejectedError: an entry has another type, is too large for a message to any of the
                servers that answer, or would not be read back unchanged; ``index`` says which one.
        """
        encoded = entries.encoded if isinstance(entries, _Prepared) else await self._encode(entries)
        await self._run(partial(self._publish, encoded))
        return len(entries)

    async def prepare(self, entries: Sequence[E], /) -> Sequence[E]:
        """Return ``entries`` together with their encoded form; see ``Repository``.

        Raises:
            EntryRejectedError: as ``upsert_many`` does for an entry that it can't send.
        """
        await trio.lowlevel.checkpoint()
        return cast("Sequence[E]", _Prepared(entries, await self._encode(entries)))

    async def _encode(self, entries: Sequence[E]) -> Encoded:
        return await self._codec.encode(tuple(entries))

    async def check(self, *, monitor_url: str | Sequence[str] | None = None) -> StreamReport:
        """Return a report on the stream; raise unless it can be used now.

        Args:
            monitor_url: the servers' monitoring pages, such as ``http://n1:8222``, one for each;
                only they say whether a server syncs always.

        Raises:
            StoreUnavailableError: fewer than a majority of its servers have all of it, or a page can't
                be read.
            StoreMisconfiguredError: it, or its consumer, has other settings than ``create_stream``
                gives; or a server does not sync always.
            ValueError: ``monitor_url`` can't be such a URL.
        """
        pages = [monitor_url] if isinstance(monitor_url, str) else list(monitor_url or ())
        for url in pages:
            read_monitor_url(url)
        return await self._run(lambda: report_of(self._session, self._names, pages))

    async def watch(self) -> NoReturn:
        """Look at the stream every ten seconds, until cancelled, for ``stream_metrics``.

        ::

            nursery.start_soon(stream.watch)

        From then on whatever shows a queue over this repository shows the stream, too. A look that
        fails is logged, once, and raises nothing. It has a connection of its own, and takes five
        seconds at most. A relay does this by itself.

        Raises:
            trio.ClosedResourceError: the ``async with`` block was left.
        """
        await self._looks.run(self._run)

    def stream_metrics(self) -> StreamMetrics | None:
        """Return what ``watch`` has seen; from any thread. None before it has begun."""
        return self._looks.metrics()

    # On asyncio's side

    async def _publish(self, encoded: Encoded) -> None:
        # Each server has a limit of its own for the size of a message.
        others = self._session.servers - 1
        while True:
            try:
                await self._session.use(partial(self._send, encoded), "publishing")
            except EntryRejectedError as error:
                refused = error
            else:
                return
            if not others or not await self._session.leave_for_larger():
                raise refused
            others -= 1

    async def _send(self, encoded: Encoded, connection: Connection) -> None:
        # All messages are made before one is sent, since an entry may be too large.
        left = self._codec.messages(encoded, connection.most_bytes)
        left, why = await self._send_once(left, connection)
        if why is None:
            return
        # The servers elect a leader in a moment, or in some seconds; or there is no such stream, which
        # they say half a second later.
        until = asyncio.get_running_loop().time() + self._patience
        asking = asyncio.create_task(self._demand_stream(connection))
        try:
            while asyncio.get_running_loop().time() < until:
                await asyncio.wait((asking,), timeout=_PAUSE_SECONDS)
                if asking.done():
                    asking.result()
                    await asyncio.sleep(_PAUSE_SECONDS)
                left, why = await self._send_once(left, connection)
                if why is None:
                    return
            await asking
            raise why
        finally:
            asking.cancel()

    async def _demand_stream(self, connection: Connection) -> None:
        """Ask for the stream.

        Raises:
            StoreMisconfiguredError: there is none.
        """
        subject = self._names.api("STREAM.INFO")
        try:
            await ask(connection, subject, b"", StreamInfo, patience=_ANSWER_SECONDS)
        except StoreMisconfiguredError:
            raise
        except (TimeoutError, StoreUnavailableError, LeaderChangedError):
            # That is no news.
            pass

    async def _send_once(
        self, messages: Sequence[bytes], connection: Connection
    ) -> tuple[list[bytes], Exception | None]:
        """Publish ``messages``; return those that no leader has answered, and why."""
        answers = await asyncio.gather(
            *(
                connection.request(self._names.subject, message, self._patience)
                for message in messages
            ),
            return_exceptions=True,
        )
        left: list[bytes] = []
        why: Exception | None = None
        for message, answer in zip(messages, answers, strict=True):
            try:
                if isinstance(answer, BaseException):
                    raise answer
                answer_in(answer, _Published)
            except (NoRespondersError, LeaderChangedError) as error:
                left.append(message)
                why = error
        return left, why

    # Calling over the bridge

    async def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._calls.run(partial(self._calls.bridge.run, call))

    async def _close(self) -> None:
        await self._calls.close(partial(close_all, self._session, self._looks.session))


@final
class _Prepared(tuple[Any, ...]):  # noqa: SLOT001  # a tuple can have none
    """Entries, and their encoded form."""

    encoded: Encoded

    def __new__(cls, entries: Sequence[object], encoded: Encoded) -> Self:
        self = super().__new__(cls, entries)
        self.encoded = encoded
        return self
