"""A stream as the store of a command, and what takes entries from it. Needs the extra ``nats``."""

from __future__ import annotations

import os
import re
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, cast
from urllib.parse import urlsplit

import trio

from provcache_trio import StoreMisconfiguredError, WriteBehindOptions
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.nats import create_stream, open_relay, open_stream_repository
from provcache_trio.nats._removal import take_out
from provcache_trio.nats._servers import read_access
from provcache_trio.nats._stream import names_of
from provcache_trio.status import open_status_server

from .accounting import in_words, places_of
from .running import Job, Status
from .stores import wait_until_ready
from .text import counted, printable

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from .progress import Progress
    from .stores import Store, Target

_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_size: Final = re.compile(r"(\d+)\s*(|KB|MB|GB|TB)", re.IGNORECASE).fullmatch


def bytes_in(size: str) -> int:
    """Return how many bytes ``size`` is, such as 10GB.

    Raises:
        ValueError: it is no size.
    """
    found = _size(size.strip())
    if found is None:
        raise ValueError("a size is a number of bytes, or of KB, MB, GB or TB, such as 10GB")
    return int(found[1]) * _UNITS[found[2].upper()]


class StreamTarget:
    """A stream, which is not made unless that is asked for.

    Args:
        url: its servers' URL, with its name as the path.

    Raises:
        ValueError: ``url`` is malformed.
    """

    def __init__(self, url: str) -> None:
        servers, _, self.stream = url.rpartition("/")
        parts = urlsplit(servers)
        names_of(self.stream)
        read_access(servers)
        self.servers = servers
        self.label = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{self.stream}"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """Open the stream to write to it; ``wait_until_ready`` raises what is wrong with it."""
        async with open_stream_repository(self.servers, self.stream) as repository:
            yield cast("Store", repository)  # of which these commands only write and check

    def open_existing(self) -> AbstractAsyncContextManager[Store]:
        """Raise StoreMisconfiguredError: nothing can be read by key."""
        self._refuse()

    async def facts(self) -> dict[str, int]:
        """Raise StoreMisconfiguredError: see ``open_existing``."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreMisconfiguredError("a stream holds no rows; a relay takes entries to a store")

    async def create(self, max_bytes: int, replicas: int) -> None:
        """Make the stream."""
        await create_stream(self.servers, self.stream, max_bytes=max_bytes, replicas=replicas)

    async def take_out(self, number: int, file: Path) -> None:
        """Move one message into a file that is not there yet."""
        await take_out(self.servers, self.stream, number, partial(_keep, file))


def _keep(file: Path, data: bytes) -> None:
    """Have ``data`` on disk, in a new file that is its owner's alone."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as new:  # noqa: PTH123  # a descriptor
        new.write(data)
        new.flush()
        os.fsync(descriptor)


class RelayJob(Job):
    """A relay that runs until it is stopped.

    Args:
        source: the stream.
        target: where entries go.
        dead_letters: the file for what the store refuses, or None.
        status: host and port of the status page, or None.
    """

    def __init__(
        self,
        source: StreamTarget,
        target: Target,
        dead_letters: Path | None,
        status: tuple[str, int] | None,
    ) -> None:
        super().__init__(target, WriteBehindOptions())
        self._source = source
        self._dead_letters = dead_letters
        self._status = status

    async def run(self, progress: Progress) -> None:
        """Take entries from the stream until this is cancelled; then drain, and give back the rest.

        Raises:
            StoreError: the store can't be used.
            WriteBehindCrashedError: the relay gave up.
            OSError: the address of the status page can't be used.
        """
        async with self.target.open() as store, AsyncExitStack() as stack:
            await wait_until_ready(store, progress.notice)
            letters = None
            if self._dead_letters is not None:
                letters = await stack.enter_async_context(open_dead_letters(self._dead_letters))
            server = None
            if self._status is not None:
                host, port = self._status
                server = await stack.enter_async_context(open_status_server(host=host, port=port))
                progress.notice(f"status page at {server.url}")
            relay = await stack.enter_async_context(
                open_relay(self._source.servers, self._source.stream, store, dead_letters=letters)
            )
            self.outage.queue = relay
            if server is not None:
                server.app.add(relay)
            await trio.sleep_forever()

    def where(self) -> str:
        """Return what was done so far."""
        metrics = self.outage.metrics
        if metrics is None:
            return "waiting for the store"
        return ", ".join([f"taken {metrics.total_recovered:,}", *in_words(metrics)])

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Return what became of every entry that was taken."""
        metrics = self.outage.metrics
        if metrics is None:
            return []
        taken = counted(metrics.total_recovered, "entry", "entries")
        into = printable(self.target.label)
        lines = [f"{taken} taken from {printable(self._source.label)}, into {into}"]
        lines += [f"  {count:>9,} {words}" for count, words in places_of(metrics) if count]
        if stopped_by is not None:
            lines.append(f"Stopped by {stopped_by.name}; what was not written is in the stream")
        return lines

    @property
    def status(self) -> Status:
        """Never asked for: it ends by a signal or a failure."""
        return Status.DONE
