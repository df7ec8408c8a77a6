"""``provcache demo``: the job itself."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio._cli.accounting import in_words
from provcache_trio._cli.running import Job, Status
from provcache_trio._cli.stores import wait_until_ready
from provcache_trio._cli.text import counted, printable

from .account import Account
from .decisions import Decision, make_entry, week_of
from .wheels import find_distributions, verify

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from provcache_trio import ProvcacheEntry, WriteBehindQueue
    from provcache_trio._cli.progress import Progress
    from provcache_trio._cli.stores import Target

    from .decisions import Week
    from .wheels import Distribution, RecordLine

# A hop to a thread costs as much as hashing a small file.
_FILES_PER_HOP: Final = 32


class Demo(Job):
    """Verifies every installed file, and writes each verdict by a queue.

    Args:
        places: directories such as ``site-packages``.
        target: the store.
        options: the queue's options.

    Attributes:
        phase: what the job is doing.
        account: what it found, and what happened to that.
    """

    def __init__(
        self,
        places: Sequence[Path],
        target: Target,
        options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    ) -> None:
        super().__init__(target, options)
        self.places = places
        self.phase = "reading every RECORD"
        self.account = Account()
        self._nothing_there = False
        self._week: Week = week_of(datetime.now(UTC))

    async def run(self, progress: Progress) -> None:
        """Do the whole job; without a distribution there is nothing to do.

        If cancelled, it writes what it has enqueued, and ends within the queue's drain timeout.

        Raises:
            StoreError: the store can't be used.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
        """
        account = self.account
        found = await trio.to_thread.run_sync(find_distributions, self.places)
        account.distributions, account.skipped = found
        if not account.distributions:
            self._nothing_there = True
            return
        async with self.target.open(create=True) as store:
            await wait_until_ready(store, progress.notice)
            began = perf_counter()
            try:
                async with open_write_behind_queue(store, self.options, name="demo") as queue:
                    self.outage.queue = queue
                    self.phase = "verifying"
                    await self._verify_everything(queue)
                    self.phase = "flushing"
                    await queue.flush()
            finally:
                account.seconds = perf_counter() - began
            self.phase = "reading back"
            chosen = account.to_read_back
            entries = await store.get_many([one.entry.veri_key for one in chosen])
            account.read_back = [(one, entries.get(one.entry.veri_key)) for one in chosen]
            account.stored = await store.count()
        self.phase = "done"

    async def _verify_everything(self, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
        chunks = _chunks(self.account.distributions)
        async with trio.open_nursery() as nursery:
            for _ in range(min(4, os.cpu_count() or 1)):
                nursery.start_soon(self._verify_chunks, chunks, queue)

    async def _verify_chunks(
        self,
        chunks: Iterator[tuple[Distribution, Sequence[RecordLine]]],
        queue: WriteBehindQueue[ProvcacheEntry],
    ) -> None:
        """Take chunks, which tasks share, until there are no more."""
        for distribution, lines in chunks:
            decide = partial(_decide, distribution, lines, self._week)
            for decision in await trio.to_thread.run_sync(decide):
                await queue.enqueue(decision.entry)
                self.account.note(decision)

    # What the user sees

    def where(self) -> str:
        """Return where the job is."""
        words = [f"{self.phase}: {self.account.files_done:,} of {self.account.files_total:,} files"]
        if (metrics := self.outage.metrics) is not None:
            words += in_words(metrics)
        return ", ".join(words)

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Describe what happened to every file and entry."""
        metrics = self.outage.metrics
        lines = [] if metrics is None else self.account.lines(metrics, self.target.label)
        if stopped_by is not None:
            written = counted(0 if metrics is None else metrics.total_persisted, "entry", "entries")
            where = f"{written} written to {printable(self.target.label)}"
            lines.append(f"Stopped by {stopped_by.name} while {self.phase}: {where}")
        return lines

    def complaints(self) -> list[str]:
        """Report if there was nothing to do."""
        return ["no installed distribution has a RECORD there"] if self._nothing_there else []

    @property
    def status(self) -> Status:
        """DONE if every entry is accounted for, and those read back equal the enqueued ones."""
        metrics = self.outage.metrics
        well = metrics is not None and self.account.holds(metrics)
        return Status.DONE if well else Status.NOT_ALL


def _chunks(
    distributions: Iterable[Distribution],
) -> Iterator[tuple[Distribution, Sequence[RecordLine]]]:
    for distribution in distributions:
        lines = iter(distribution.lines)
        while chunk := tuple(itertools.islice(lines, _FILES_PER_HOP)):
            yield distribution, chunk


def _decide(distribution: Distribution, lines: Sequence[RecordLine], week: Week) -> list[Decision]:
    decisions: list[Decision] = []
    for line in lines:
        finding = verify(distribution.base, line, trio.from_thread.check_cancelled)
        decisions.append(Decision(distribution, finding, make_entry(distribution, finding, week)))
    return decisions
