"""``provcache demo``: the job itself, which knows no terminal."""

from __future__ import annotations

import enum
import itertools
import os
import random
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from provcache_trio import ProvcacheEntry, WriteBehindOptions, open_write_behind_queue
from provcache_trio._cli.stores import wait_until_ready

from .decisions import Week, make_entry, week_of
from .wheels import GOOD, Distribution, Outcome, Verdict, find_distributions, verify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue
    from provcache_trio._cli.stores import Store, Target

    from .wheels import Row, Skipped

_FILES_PER_HOP: Final = 32  # a hop to a thread costs as much as hashing a small file
_SAMPLE: Final = 200
_READ_BACK: Final = 5
_MOST_PROBLEMS: Final = 5


class Phase(enum.StrEnum):
    """What the job is at."""

    LOOKING = "reading every RECORD"
    VERIFYING = "verifying"
    FLUSHING = "flushing"
    READING_BACK = "reading back"
    COMPARING = "comparing with one write per entry"
    DONE = "done"


class Decision(msgspec.Struct, frozen=True):
    """What was enqueued, and what it was made from."""

    distribution: Distribution
    verdict: Verdict
    entry: ProvcacheEntry


class Waits(msgspec.Struct):
    """How long a caller waited for the database, call by call.

    Attributes:
        calls: how many calls.
        seconds: all of them together.
        longest: the longest, in seconds.
    """

    calls: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Book one call."""
        self.calls += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        """Seconds per call; 0.0 when there was none."""
        return self.seconds / self.calls if self.calls else 0.0


class Demo:
    """Verifies every installed file and writes each verdict behind.

    ``run`` does the work; everything else may be read while it runs, by other tasks.

    Args:
        places: directories such as ``site-packages``.
        target: where entries go.
        options: the queue's options.

    Attributes:
        phase: what it is at.
        distributions: what was found; empty until then.
        skipped: what was not verified.
        files_total: how many files there are to verify.
        bytes_read: how much of them was hashed.
        outcomes: how many files came out how; their sum is how many were enqueued.
        problems: the first files that do not match.
        sample: files chosen at random, every one with the same chance.
        waits: how long the verifying tasks waited in ``enqueue``.
        waits_for_queue: the same on the sample, when nothing else ran.
        waits_for_writes: the sample again, with one write per entry.
        read_back: what was read from the store, beside what was enqueued.
        rows: how many entries the store held at the end; None before.
    """

    def __init__(
        self,
        places: Sequence[Path],
        target: Target,
        options: WriteBehindOptions = WriteBehindOptions(),  # noqa: B008  # it is immutable
    ) -> None:
        self.places = places
        self.target = target
        self.options = options
        self.phase = Phase.LOOKING
        self.distributions: list[Distribution] = []
        self.skipped: list[Skipped] = []
        self.files_total = 0
        self.bytes_read = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.problems: list[Decision] = []
        self.sample: list[Decision] = []
        self.waits = Waits()
        self.waits_for_queue = Waits()
        self.waits_for_writes = Waits()
        self.read_back: list[tuple[Decision, ProvcacheEntry | None]] = []
        self.rows: int | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._queue: WriteBehindQueue[ProvcacheEntry] | None = None
        self._week: Week = week_of(datetime.now(UTC))
        self._random = random.Random(0)  # noqa: S311  # no secret

    @property
    def files_done(self) -> int:
        """How many files were verified and their entries accepted."""
        return self.outcomes.total()

    @property
    def seconds(self) -> float:
        """How long it took, or has taken, until everything was verified and written."""
        now = perf_counter()
        return (self._ended or now) - (self._began or now)

    @property
    def rate(self) -> float:
        """Files per second, from the beginning."""
        return self.files_done / self.seconds if self.files_done else 0.0

    def metrics(self) -> WriteBehindMetrics | None:
        """Return the queue's metrics, also after its exit; None before it was opened."""
        return None if self._queue is None else self._queue.metrics()

    async def run(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Do the whole job; without any distribution there is nothing to do.

        Cancelled, it writes what it has enqueued and ends, within the queue's
        ``drain_timeout_seconds``.

        Args:
            tell: called with what may be of interest meanwhile.

        Raises:
            StoreError: the store can't be used.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
            OSError: there is no place for the scratch stores.
        """
        found = await trio.to_thread.run_sync(find_distributions, self.places)
        self.distributions, self.skipped = found
        if not self.distributions:
            return
        self.files_total = sum(len(found.rows) for found in self.distributions)
        async with self.target.open() as store:
            await wait_until_ready(store, tell)
            self._began = perf_counter()
            try:
                async with open_write_behind_queue(store, self.options, name="demo") as queue:
                    self._queue = queue
                    self.phase = Phase.VERIFYING
                    await self._verify_everything(queue)
                    self.phase = Phase.FLUSHING
                    await queue.flush()
            finally:
                self._ended = perf_counter()
            self.phase = Phase.READING_BACK
            await self._read_back(store)
        self.phase = Phase.COMPARING
        await self._compare()
        self.phase = Phase.DONE

    async def _verify_everything(self, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
        chunks = _chunks(self.distributions)
        async with trio.open_nursery() as nursery:
            for _ in range(min(4, os.cpu_count() or 1)):
                nursery.start_soon(self._verify_chunks, chunks, queue)

    async def _verify_chunks(
        self,
        chunks: Iterator[tuple[Distribution, Sequence[Row]]],
        queue: WriteBehindQueue[ProvcacheEntry],
    ) -> None:
        """Take chunks, which are shared among tasks, until there are no more."""
        for distribution, rows in chunks:
            decide = partial(_decide, distribution, rows, self._week)
            for decision in await trio.to_thread.run_sync(decide):
                asked = perf_counter()
                await queue.enqueue(decision.entry)
                self.waits.add(perf_counter() - asked)
                self._note(decision)

    def _note(self, decision: Decision) -> None:
        self.outcomes[decision.verdict.outcome] += 1
        self.bytes_read += decision.verdict.size
        if decision.verdict.outcome not in GOOD and len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(decision)
        # Reservoir sampling: the n-th file takes a place with chance _SAMPLE / n.
        if len(self.sample) < _SAMPLE:
            self.sample.append(decision)
        elif (place := self._random.randrange(self.files_done)) < _SAMPLE:
            self.sample[place] = decision

    async def _read_back(self, store: Store) -> None:
        chosen = (self.problems[:2] + self.sample)[:_READ_BACK]
        found = await store.get_many([decision.entry.veri_key for decision in chosen])
        self.read_back = [(one, found.get(one.entry.veri_key)) for one in chosen]
        self.rows = await store.count()

    async def _compare(self) -> None:
        """Let one caller, alone, hand over the sample: to a queue, then entry by entry."""
        entries = [decision.entry for decision in self.sample]
        async with (
            self.target.scratch() as store,
            open_write_behind_queue(store, self.options, name="sample") as queue,
        ):
            await _time_each(queue.enqueue, entries, self.waits_for_queue)
        async with self.target.scratch() as store:

            async def write(entry: ProvcacheEntry) -> None:
                await store.upsert_many([entry])

            await _time_each(write, entries, self.waits_for_writes)


async def _time_each(
    hand_over: Callable[[ProvcacheEntry], Awaitable[None]],
    entries: Iterable[ProvcacheEntry],
    waits: Waits,
) -> None:
    for entry in entries:
        asked = perf_counter()
        await hand_over(entry)
        waits.add(perf_counter() - asked)


def _chunks(
    distributions: Iterable[Distribution],
) -> Iterator[tuple[Distribution, Sequence[Row]]]:
    for distribution in distributions:
        rows = iter(distribution.rows)
        while chunk := tuple(itertools.islice(rows, _FILES_PER_HOP)):
            yield distribution, chunk


def _decide(distribution: Distribution, rows: Sequence[Row], week: Week) -> list[Decision]:
    decisions: list[Decision] = []
    for row in rows:
        verdict = verify(distribution.base, row, trio.from_thread.check_cancelled)
        decisions.append(Decision(distribution, verdict, make_entry(distribution, verdict, week)))
    return decisions
