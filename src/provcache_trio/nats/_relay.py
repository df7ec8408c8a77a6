"""``open_relay``: writes entries from a stream to a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, final

from provcache_trio._asyncio.bridge import DEFAULT_KIND, make_bridge
from provcache_trio._asyncio.calls import shut_down
from provcache_trio._core.opening import open_relaying_queue
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.options import WriteBehindOptions
from provcache_trio._vocabulary.protocols import E

from ._looks import Looks
from ._messages import Codec
from ._puller import Puller
from ._repository import check_table
from ._servers import read_access
from ._session import close_all
from ._source import StreamSource
from ._stream import names_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from os import PathLike

    from provcache_trio._asyncio.bridge import Bridge
    from provcache_trio._core.queue import WriteBehindQueue
    from provcache_trio._vocabulary.metrics import StreamMetrics, WriteBehindMetrics
    from provcache_trio._vocabulary.protocols import DeadLetterSink, Repository
    from provcache_trio._vocabulary.table import Table
    from provcache_trio._vocabulary.telemetry import Telemetry


def open_relay(
    servers: str | Sequence[str],
    stream: str,
    repository: Repository[E],
    options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    *,
    name: str = "relay",
    dead_letters: DeadLetterSink[E] | None = None,
    telemetry: Telemetry | None = None,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    credentials: str | PathLike[str] | None = None,
    tls: ssl.SSLContext | None = None,
    bridge: Literal["trio-asyncio", "thread"] = DEFAULT_KIND,
) -> AbstractAsyncContextManager[Relay[E]]:
    """Open a relay: it writes entries from a stream to ``repository`` for as long as it is open.

    ::

        async with open_postgres_repository(dsn) as repository:
            async with open_relay("nats://n1,n2,n3", "decisions", repository) as relay:
                await trio.sleep_forever()

    It is a queue as ``open_write_behind_queue`` opens it, but its entries come from the stream only. A
    message is acknowledged, and so leaves the stream, when each of its entries was persisted or its
    letter was kept (without ``dead_letters``: was logged by key and counted). Any number of relays
    may share a stream. They do not keep the order of versions; the store keeps the newer version, judged by
    its content.

    Leaving the block stops taking, writes what was taken for at most
    ``options.drain_timeout_seconds``, and gives the rest back to the stream at once, so there is no
    DrainTimeoutError. Entries that are not known to be stored are in ``undelivered``, and are redelivered.

    A message that the relay can't read stops it, as misconfigured, until the message is gone: a newer relay may
    read it, or ``provcache relay --skip`` takes it out.

    Args:
        servers: see ``open_stream_repository``.
        stream: see there.
        repository: the store. Its ``table`` declares the entries; without one they are
            ``ProvcacheEntry``. Open it outside of the relay.
        options: see ``WriteBehindOptions``. Entries from the stream are due at once.
        name: labels logs and metrics.
        dead_letters: takes what the store refuses.
        telemetry: see ``open_write_behind_queue``.
        user: see ``open_stream_repository``.
        password: see there.
        token: see there.
        credentials: see there.
        tls: see there.
        bridge: see there.

    Raises:
        TypeError: an argument has the wrong type, or the repository's entries are others.
        ValueError: an argument has a value that it can't have; or what the repository's table keeps
            depends on the order in which versions arrive.
        ImportError: see ``open_stream_repository``.
        WriteBehindCrashedError: at exit, as for any queue.
    """
    access = read_access(
        servers, user=user, password=password, token=token, credentials=credentials, tls=tls
    )
    names = names_of(stream)
    table: Table[E] | None = getattr(repository, "table", None)
    check_table(table)
    opened = make_bridge(bridge)
    puller = Puller(access, names)
    looks = Looks(access, names)
    source = StreamSource(puller, Codec(table), opened, looks, stream=names.stream, relay=name)
    queue = open_relaying_queue(
        repository, options, source, name=name, dead_letters=dead_letters, telemetry=telemetry
    )
    return _Opening(queue, source, puller, opened, looks)


@final
class _Opening(Opening["Relay[E]"], Generic[E]):
    """What ``open_relay`` returns."""

    what = "a relay"
    function = "open_relay"
    one_task = True

    def __init__(
        self,
        queue: Opening[WriteBehindQueue[E]],
        source: StreamSource[E],
        puller: Puller,
        bridge: Bridge,
        looks: Looks,
    ) -> None:
        self._queue = queue
        self._source = source
        self._puller = puller
        self._bridge = bridge
        self._looks = looks

    async def _open(self) -> Relay[E]:
        await self._bridge.open()
        try:
            return Relay(await self._queue.__aenter__(), self._source)
        except BaseException:
            await self._bridge.close()  # noqa: ASYNC102  # shields itself
            raise

    async def _close(self, error: BaseException | None, /) -> None:
        try:
            await self._queue.__aexit__(None, error, None)
        finally:
            disconnect = partial(close_all, self._puller.session, self._looks.session)
            end = partial(self._bridge.run, disconnect)
            await shut_down(self._bridge, end)  # noqa: ASYNC102  # shields itself


@final
class Relay(Generic[E]):
    """Returned by ``open_relay``; do not instantiate."""

    def __init__(self, queue: WriteBehindQueue[E], source: StreamSource[E]) -> None:
        self._queue = queue
        self._source = source

    def __repr__(self) -> str:
        return repr(self._queue).replace("WriteBehindQueue", "Relay", 1)

    @property
    def name(self) -> str:
        """The name that was given to ``open_relay``."""
        return self._queue.name

    def metrics(self) -> WriteBehindMetrics:
        """Return a consistent snapshot, O(1); from any thread, and after exit.

        ``total_recovered`` counts entries from the stream; nothing is enqueued.
        """
        return self._queue.metrics()

    def stream_metrics(self) -> StreamMetrics | None:
        """Return what the stream held when this relay last looked, from any thread; asks no server.

        It looks every ten seconds, over a connection of its own.
        """
        return self._source.stream_metrics()

    @property
    def undelivered(self) -> tuple[E, ...]:
        """After exit: every entry that was taken and is not known to be stored; it is redelivered."""
        return self._queue.undelivered
