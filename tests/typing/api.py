"""How the public API is typed. Read by mypy and pyright, never executed.

An error that checkers have to find carries a ``type: ignore``, which both heed. Should one of
them stop finding the error, it reports the comment instead, as unused.
"""  # noqa: INP001  # a package would be imported and measured

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, assert_type

import trio

from provcache_trio import (
    DeadLetter,
    DrainTimeoutError,
    EntryQueue,
    EntryRejectedError,
    ProvcacheEntry,
    QueueClosedError,
    QueueState,
    Table,
    WriteBehindMetrics,
    WriteBehindOptions,
    WriteBehindQueue,
    merge_entries,
    open_write_behind_queue,
)
from provcache_trio.cache import Cache, CacheMetrics, open_cache
from provcache_trio.journal import FileJournal, open_journal
from provcache_trio.sqlite import SQLiteRepository, open_sqlite_repository
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from provcache_trio import DeadLetterSink, Journal, Repository


class Visit(NamedTuple):
    """An entry with a key of its own."""

    veri_key: int
    page: str


class Reading(NamedTuple):
    """An entry without ``veri_key``."""

    sensor: str
    value: float


class Readings:
    """A repository without a base class."""

    async def upsert_many(self, entries: Sequence[Reading], /) -> int:
        return len(entries)


class Sink:
    """A dead letter sink for entries, without a base class."""

    async def put_many(self, letters: Sequence[DeadLetter[ProvcacheEntry]], /) -> None:
        for letter in letters:
            assert_type(letter.entry, ProvcacheEntry)
            assert_type(letter.key, object)
            assert_type(letter.sqlstate, str | None)
            assert_type(letter.failed_at, datetime)


class AnySink:
    """A dead letter sink for entries of every type."""

    async def put_many(self, letters: Sequence[DeadLetter[object]], /) -> None:
        """Take none."""


def sensor_of(reading: Reading) -> str:
    return reading.sensor


def larger(old: Reading, new: Reading) -> Reading:
    return max(old, new, key=lambda reading: reading.value)


async def a_queue_of_entries_by_default(entry: ProvcacheEntry) -> None:
    repository = MemoryRepository()
    assert_type(repository, MemoryRepository[ProvcacheEntry])
    assert_type(repository.rows, dict[Hashable, ProvcacheEntry])
    assert_type(await repository.get_many(["k"]), dict[Hashable, ProvcacheEntry])
    opening = open_write_behind_queue(repository)
    assert_type(opening, AbstractAsyncContextManager[WriteBehindQueue[ProvcacheEntry], None])
    async with opening as queue:
        assert_type(queue, WriteBehindQueue[ProvcacheEntry])
        assert_type(await queue.enqueue(entry), None)
        assert_type(queue.enqueue_nowait(entry), None)
        assert_type(await queue.enqueue_many([entry]), int)
        assert_type(await queue.enqueue_many(one for one in (entry,)), int)
        assert_type(await queue.persist(entry), None)
        assert_type(await queue.flush(), None)
        assert_type(queue.pending(entry.veri_key), ProvcacheEntry | None)
        assert_type(queue.metrics(), WriteBehindMetrics)
        assert_type(queue.metrics().state, QueueState)
        assert_type(queue.undelivered, tuple[ProvcacheEntry, ...])
        queue.enqueue_nowait("entry")  # type: ignore[arg-type]
        await queue.enqueue_many(entry)  # type: ignore[arg-type]
        queue.enqueue_nowait(entry=entry)  # type: ignore[call-arg]
        queue.undelivered = ()  # type: ignore[misc]


async def every_option_has_a_type(repository: MemoryRepository) -> None:
    async with open_write_behind_queue(
        repository,
        WriteBehindOptions(batch_size=7, max_retries=None, flush_interval_seconds=1),
        name="entries",
        key=lambda entry: entry.veri_key,
        merge=merge_entries,
        dead_letters=MemoryDeadLetters(),
        wall_clock=lambda: datetime.now(UTC),
    ) as queue:
        assert_type(queue, WriteBehindQueue[ProvcacheEntry])
    WriteBehindOptions(batch_size="7")  # type: ignore[arg-type]
    WriteBehindOptions(7)  # type: ignore[call-arg]
    WriteBehindOptions().batch_size = 7  # type: ignore[misc]
    open_write_behind_queue(repository, 7)  # type: ignore[call-overload]


async def a_type_with_a_key_of_its_own_needs_no_key_argument() -> None:
    async with open_write_behind_queue(MemoryRepository[Visit]()) as queue:
        assert_type(queue, WriteBehindQueue[Visit])
        assert_type(queue.pending(7), Visit | None)


async def a_type_without_one_needs_it(repository: MemoryRepository[Reading]) -> None:
    async with open_write_behind_queue(repository, key=sensor_of, merge=larger) as queue:
        assert_type(queue, WriteBehindQueue[Reading])
        assert_type(await queue.enqueue_many([Reading("a", 1.0)]), int)
    async with open_write_behind_queue(Readings(), key=lambda reading: reading.sensor) as queue:
        assert_type(queue, WriteBehindQueue[Reading])
    open_write_behind_queue(Readings())  # type: ignore[type-var]
    open_write_behind_queue(Readings(), key=None)  # type: ignore[call-overload]


def a_repository_has_one_method(repository: Readings) -> None:
    good: Repository[Reading] = repository
    fake: Repository[Visit] = MemoryRepository[Visit]()
    bad: Repository[Visit] = repository  # type: ignore[assignment]
    open_write_behind_queue(object(), key=hash)  # type: ignore[call-overload]
    del good, fake, bad


async def a_sink_takes_letters_of_the_queues_entries(
    repository: MemoryRepository, readings: MemoryRepository[Reading]
) -> None:
    sink: DeadLetterSink[ProvcacheEntry] = Sink()
    wider: DeadLetterSink[ProvcacheEntry] = AnySink()
    fake: DeadLetterSink[ProvcacheEntry] = MemoryDeadLetters()
    for one in (sink, wider, fake):
        async with open_write_behind_queue(repository, dead_letters=one) as queue:
            assert_type(queue, WriteBehindQueue[ProvcacheEntry])
    async with open_write_behind_queue(repository, dead_letters=Sink()) as queue:
        assert_type(queue, WriteBehindQueue[ProvcacheEntry])
    assert_type(MemoryDeadLetters().letters, list[DeadLetter[ProvcacheEntry]])
    # mypy finds this only where the queue is used: it takes it for one of Never.
    open_write_behind_queue(readings, key=sensor_of, dead_letters=Sink())  # pyright: ignore[reportCallIssue, reportArgumentType]


class Recorder:
    """What an application's test passes for a queue."""

    def __init__(self, metrics: WriteBehindMetrics) -> None:
        self.entries: list[object] = []
        self._metrics = metrics

    async def enqueue(self, entry: object, /) -> None:
        await trio.lowlevel.checkpoint()
        self.enqueue_nowait(entry)

    def enqueue_nowait(self, entry: object, /) -> None:
        self.entries.append(entry)

    def metrics(self) -> WriteBehindMetrics:
        return self._metrics


async def decide(queue: EntryQueue[ProvcacheEntry], entry: ProvcacheEntry) -> None:
    await queue.enqueue(entry)
    assert_type(queue.metrics(), WriteBehindMetrics)


async def a_queue_or_something_smaller_is_an_entry_queue(
    queue: WriteBehindQueue[ProvcacheEntry],
    visits: WriteBehindQueue[Visit],
    wider: WriteBehindQueue[object],
    entry: ProvcacheEntry,
) -> None:
    await decide(queue, entry)
    await decide(wider, entry)
    await decide(Recorder(queue.metrics()), entry)
    await decide(visits, entry)  # type: ignore[arg-type]


def errors_carry_data(
    closed: QueueClosedError, rejected: EntryRejectedError, late: DrainTimeoutError
) -> Iterator[object]:
    yield assert_type(closed.accepted, int | None)
    yield assert_type(rejected.index, int | None)
    yield assert_type(rejected.sqlstate, str | None)
    yield assert_type(late.undelivered, tuple[object, ...])
    yield assert_type(late.metrics, WriteBehindMetrics)


def fakes_are_scripted(store: MemoryRepository[Reading], error: Callable[[], OSError]) -> None:
    store.fail_next(OSError)
    store.fail_next(OSError("x"), times=2)
    store.fail_next(error)
    store.fail_next("x")  # type: ignore[arg-type]
    MemoryRepository[Reading](key=sensor_of, merge=larger)
    assert_type(MemoryRepository(key=sensor_of), MemoryRepository[Reading])


async def a_journal_holds_entries_of_its_queue(
    repository: MemoryRepository, visits: MemoryRepository[Visit]
) -> None:
    async with open_journal("journal", durability="always") as journal:
        assert_type(journal, FileJournal[ProvcacheEntry])
        open_write_behind_queue(repository, journal=journal)
        open_write_behind_queue(visits, journal=journal)  # type: ignore[misc]
    async with open_journal("journal", entry_type=Visit) as journal_of_visits:
        assert_type(journal_of_visits, FileJournal[Visit])
        as_protocol: Journal[Visit] = journal_of_visits
        open_write_behind_queue(visits, journal=as_protocol)
    open_journal("journal", durability="never")  # type: ignore[call-overload]


async def a_table_says_what_its_entries_are() -> None:
    table = Table(Reading, "reading", key="sensor")
    assert_type(table, Table[Reading])

    async with open_sqlite_repository("cache.db") as entries:
        assert_type(entries, SQLiteRepository[ProvcacheEntry])
    async with open_sqlite_repository("readings.db", table=table, create=True) as readings:
        assert_type(readings, SQLiteRepository[Reading])
        assert_type(await readings.get_many(["boiler"]), dict[Any, Reading])
        async with open_write_behind_queue(readings) as queue:
            assert_type(queue, WriteBehindQueue[Reading])
            await queue.enqueue(entry_of_nothing())  # type: ignore[arg-type]
    assert_type(MemoryRepository(table=table), MemoryRepository[Reading])


def entry_of_nothing() -> object:
    return None


async def compute() -> ProvcacheEntry:  # noqa: ASYNC124  # as an application has it
    raise NotImplementedError


async def a_cache_knows_the_entries_of_its_queue(
    queue: WriteBehindQueue[ProvcacheEntry],
    readings: WriteBehindQueue[Reading],
    table: Table[Reading],
) -> None:
    async with open_sqlite_repository("cache.db") as repository:
        async with open_cache(queue, repository) as cache:
            assert_type(cache, Cache[ProvcacheEntry])
            assert_type(cache.peek("key"), ProvcacheEntry | None)
            assert_type(await cache.get("key"), ProvcacheEntry | None)
            assert_type(await cache.get_many(["key"]), dict[Hashable, ProvcacheEntry])
            assert_type(await cache.get_or_compute("key", compute), ProvcacheEntry)
            assert_type(await cache.invalidate_where(feed_epoch="x"), int)
            assert_type(cache.metrics(), CacheMetrics)
            await cache.put(Reading("a", 1))  # type: ignore[arg-type]
        open_cache(queue, repository, on_store_error="ignore")  # type: ignore[arg-type]
    async with (
        open_sqlite_repository("readings.db", table=table) as of_readings,
        open_cache(readings, of_readings) as cache_of_readings,
    ):
        assert_type(await cache_of_readings.get(("a", 1)), Reading | None)
        await cache_of_readings.get_or_compute("a", compute)  # type: ignore[arg-type]
    async with open_cache(queue, MemoryRepository()) as in_memory:
        assert_type(in_memory, Cache[ProvcacheEntry])
    open_cache(readings, MemoryRepository[ProvcacheEntry]())  # type: ignore[misc]
    open_cache(queue, Readings())  # type: ignore[arg-type]
