"""The job of ``provcache relay``. Needs the extra ``nats``."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from provcache_trio import StoreError, WriteBehindOptions
from provcache_trio.dead_letters import open_dead_letters
from provcache_trio.nats import open_relay
from provcache_trio.status import open_status_server

from .accounting import in_words, places_of
from .running import Job, Status
from .stores import for_users
from .text import counted, printable

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from .progress import Progress
    from .stores import Store, Target
    from .stream import StreamTarget


class RelayJob(Job):
    """A relay that runs until it is stopped.

    Args:
        source: the stream.
        target: the store.
        dead_letters: the file for entries that the store refuses, or None.
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
        """Move entries from the stream until cancelled; then drain, and return the rest.

        Raises:
            StoreError: the store can't exist, or the dead letters can't be used.
            WriteBehindCrashedError: the relay gave up.
            OSError: the address of the status page can't be used.
        """
        async with AsyncExitStack() as stack:
            letters = None
            if self._dead_letters is not None:
                kind = self.target.entries.entry_type
                letters = await stack.enter_async_context(
                    open_dead_letters(self._dead_letters, entry_type=kind)
                )
            # Not created: of a forgotten --table it would make another store.
            store = await stack.enter_async_context(self.target.open())
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
            await self._look_at(store, progress)
            await trio.sleep_forever()

    async def _look_at(self, store: Store, progress: Progress) -> None:
        """Report what is wrong with the store, even if the stream holds nothing yet.

        It does not end the relay, which tries again as long as the store needs a person.
        """
        try:
            with for_users(self.target.entries):
                await store.check()
        except StoreError as error:
            progress.add_line(f"{error}; the relay waits until that is mended")

    def where(self) -> str:
        """Describe what was done so far."""
        metrics = self.outage.metrics
        if metrics is None:
            return "waiting for the store"
        return ", ".join([f"taken {metrics.total_recovered:,}", *in_words(metrics)])

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Describe what happened to every entry that was taken."""
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
        """Never used, as the job ends by a signal or a failure."""
        return Status.DONE
