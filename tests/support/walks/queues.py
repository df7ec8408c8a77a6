"""Queues, and the cache over one."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    JournalError,
    QueueClosedError,
    StoreUnavailableError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.cache import open_cache
from provcache_trio.journal import open_journal
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from . import HERE, SECRET, calls, walk
from .values import VISITS, WRONG, Visit
from tests.support.entries import NOW, entry, key_of
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from provcache_trio import ProvcacheEntry, WriteBehindQueue
    from provcache_trio.cache import Cache

AT_ONCE = WriteBehindOptions(flush_interval_seconds=0, drain_timeout_seconds=0)


def row(number: object = 0) -> ProvcacheEntry:
    """Return an entry that holds the secret."""
    return entry(number, feed_epoch=SECRET)


@asynccontextmanager
async def a_queue(store: Any = None, **arguments: Any) -> AsyncGenerator[WriteBehindQueue[Any]]:  # noqa: ANN401  # wrong on purpose
    store = MemoryRepository() if store is None else store
    async with open_write_behind_queue(store, AT_ONCE, **arguments) as queue:
        yield queue


# Opening


def opens(error: type[Exception], about: str, *more: str, **arguments: Any) -> None:  # noqa: ANN401  # wrong on purpose
    repository = arguments.pop("repository", MemoryRepository())
    calls(
        "open_write_behind_queue",
        error,
        about,
        lambda: open_write_behind_queue(repository, **arguments),
        *more,
    )


opens(TypeError, "repository", "upsert_many", repository=WRONG)
opens(TypeError, "options", options=WRONG)
opens(TypeError, "name", name=WRONG)
opens(TypeError, "dead_letters", "put_many", dead_letters=WRONG)
opens(TypeError, "journal", "append", journal=WRONG)
opens(TypeError, "merge", merge=WRONG)
opens(TypeError, "telemetry", telemetry=WRONG)
opens(TypeError, "wall_clock", wall_clock=lambda: WRONG)
opens(
    TypeError,
    "repository",
    "async with open_sqlite_repository",
    repository=open_sqlite_repository("cache.db"),
)
opens(ValueError, "name", name="")
opens(ValueError, "wall_clock", wall_clock=lambda: NOW.replace(tzinfo=None))


@walk("open_write_behind_queue", TypeError, "journal", "Visit", "ProvcacheEntry")
async def entry_types_that_differ(path: Path) -> None:
    async with (
        open_sqlite_repository(path / "cache.db") as store,
        open_journal(path / "log", entry_type=VISITS) as journal,
        a_queue(store, journal=journal),
    ):
        raise AssertionError("it opened")


@walk("open_write_behind_queue", RuntimeError, f"journal {HERE}/log", "open it again")
async def a_journal_of_another_queue(path: Path) -> None:
    async with (
        open_journal(path / "log") as journal,
        a_queue(journal=journal),
        a_queue(journal=journal),
    ):
        raise AssertionError("it opened")


@walk("open_write_behind_queue", RuntimeError, "a queue", "open_write_behind_queue")
async def a_queue_that_is_entered_twice(_: Path) -> None:
    opening = open_write_behind_queue(MemoryRepository[Any]())
    async with opening:
        pass
    async with opening:
        raise AssertionError("it opened")


@walk("open_write_behind_queue", RuntimeError, "a queue", "other task")
async def a_queue_that_another_task_leaves(_: Path) -> None:
    opening = open_write_behind_queue(MemoryRepository[Any]())
    await opening.__aenter__()
    errors: list[BaseException] = []

    async def leave() -> None:
        try:
            await opening.__aexit__(None, None, None)
        except RuntimeError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # another task is the point
        nursery.start_soon(leave, name="other task")
    await opening.__aexit__(None, None, None)
    raise errors[0]


@walk("open_write_behind_queue", DrainTimeoutError, "queue 'jobs'", "1 entry", ".undelivered")
async def a_store_that_stays_away(_: Path) -> None:
    store = MemoryRepository[Any]()
    store.down()
    async with a_queue(store, name="jobs") as queue:
        await queue.enqueue(row())


@walk("open_write_behind_queue", WriteBehindCrashedError, "queue 'jobs'", "2 entries", "the log")
async def a_task_that_crashes(_: Path) -> None:
    store = MemoryRepository[Any]()
    store.crash_next(times=3)
    options = WriteBehindOptions(flush_interval_seconds=0, retry_base_seconds=0.01)
    async with open_write_behind_queue(store, options, name="jobs") as queue:
        await queue.enqueue_many([row(1), row(2)])
        await trio.sleep_forever()


# Accepting


NO_KEY = "the key of an entry of type Visit"


@walk("WriteBehindQueue.enqueue", TypeError, NO_KEY, "key=")
async def an_entry_without_a_key(_: Path) -> None:
    async with a_queue() as queue:
        await queue.enqueue(Visit(SECRET))


@walk("WriteBehindQueue.enqueue_nowait", TypeError, NO_KEY)
async def an_entry_without_a_key_at_once(_: Path) -> None:
    async with a_queue() as queue:
        queue.enqueue_nowait(Visit(SECRET))


@walk("WriteBehindQueue.persist", TypeError, NO_KEY)
async def an_entry_without_a_key_to_persist(_: Path) -> None:
    async with a_queue() as queue:
        await queue.persist(Visit(SECRET))


@walk("WriteBehindQueue.enqueue_many", TypeError, "int")
async def entries_that_are_none(_: Path) -> None:
    async with a_queue() as queue:
        await queue.enqueue_many(WRONG)


@walk("WriteBehindQueue.pending", TypeError, "list")
async def a_key_that_can_not_be_hashed(_: Path) -> None:
    async with a_queue() as queue:
        queue.pending([SECRET])  # type: ignore[arg-type]  # the mistake


@asynccontextmanager
async def closed() -> AsyncGenerator[WriteBehindQueue[Any]]:
    async with a_queue(name="jobs") as queue:
        pass
    yield queue


for method, arguments in {
    "enqueue": (row(),),
    "enqueue_many": ([row()],),
    "enqueue_nowait": (row(),),
    "persist": (row(),),
}.items():

    @walk(f"WriteBehindQueue.{method}", QueueClosedError, "queue 'jobs'")
    async def after_the_end(_: Path, method: str = method, arguments: Any = arguments) -> None:  # noqa: ANN401  # of any method
        async with closed() as queue:
            answer = getattr(queue, method)(*arguments)
            await answer


@walk("WriteBehindQueue.flush", QueueClosedError, "queue 'jobs'")
async def a_flush_that_outlives_the_queue(_: Path) -> None:
    await outlived(lambda queue: queue.flush())


@walk("WriteBehindQueue.persist", QueueClosedError, "queue 'jobs'")
async def a_caller_that_outlives_the_queue(_: Path) -> None:
    await outlived(lambda queue: queue.persist(row(2)))


async def outlived(call: Callable[[WriteBehindQueue[Any]], Any]) -> None:
    """Raise what ``call`` raises if the queue ends meanwhile with its store away."""
    store = MemoryRepository[Any]()
    store.down()
    errors: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        with suppress(DrainTimeoutError):
            async with a_queue(store, name="jobs") as queue:

                async def wait() -> None:
                    try:
                        await call(queue)
                    except QueueClosedError as error:
                        errors.append(error)

                await queue.enqueue(row(1))
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked(0.01)
    raise errors[0]


@walk("WriteBehindQueue.persist", EntryRejectedError, "refused the entry", "EntryRejectedError")
async def an_entry_that_the_store_refuses(_: Path) -> None:
    store = MemoryRepository[Any]()
    store.reject(row().veri_key)
    async with a_queue(store) as queue:
        await queue.persist(row())


class Inside:
    """A repository that uses its own queue."""

    def __init__(self, use: Callable[[WriteBehindQueue[Any]], Any]) -> None:
        self.use = use
        self.queue: WriteBehindQueue[Any]
        self.error: Exception | None = None

    async def upsert_many(self, entries: Any, /) -> int:  # noqa: ANN401  # whatever it is given
        if self.error is None:
            try:
                await self.use(self.queue)
            except RuntimeError as error:
                self.error = error
        return len(entries)


for method, use in {
    "persist": lambda queue: queue.persist(row(2)),
    "flush": lambda queue: queue.flush(),
    "enqueue": lambda queue: enqueue_without_room(queue, queue.enqueue),
    "enqueue_many": lambda queue: enqueue_without_room(
        queue, lambda one: queue.enqueue_many([one])
    ),
}.items():

    @walk(f"WriteBehindQueue.{method}", RuntimeError, "queue 'jobs'", "Inside.upsert_many")
    async def from_inside_a_call(_: Path, use: Any = use) -> None:  # noqa: ANN401  # as above
        store = Inside(use)
        async with open_write_behind_queue(
            store, WriteBehindOptions(flush_interval_seconds=0, queue_capacity=2), name="jobs"
        ) as store.queue:
            await store.queue.enqueue(row(1))
            await until(lambda: store.error)
        assert store.error is not None
        raise store.error


async def enqueue_without_room(queue: WriteBehindQueue[Any], enqueue: Callable[[Any], Any]) -> None:
    for number in range(10, 20):
        try:
            queue.enqueue_nowait(row(number))
        except trio.WouldBlock:
            break
    await enqueue(row(99))


@walk("WriteBehindQueue.enqueue_nowait", RuntimeError, "queue 'jobs'", "trio.from_thread.run")
async def from_another_thread(_: Path) -> None:
    async with a_queue(name="jobs") as queue:
        await trio.to_thread.run_sync(queue.enqueue_nowait, row())


@walk("WriteBehindQueue.enqueue_nowait", RuntimeError, "queue 'jobs'", "'always'", "use enqueue")
async def without_waiting_for_the_disk(path: Path) -> None:
    async with (
        open_journal(path / "log", durability="always") as journal,
        a_queue(journal=journal, name="jobs") as queue,
    ):
        queue.enqueue_nowait(row())


@walk("WriteBehindQueue.enqueue_nowait", trio.WouldBlock)
async def without_room(_: Path) -> None:
    store = MemoryRepository[Any]()
    async with open_write_behind_queue(store, WriteBehindOptions(queue_capacity=1)) as queue:
        while True:
            queue.enqueue_nowait(row(queue.metrics().total_enqueued))


for method, enqueue in {
    "enqueue": lambda queue: queue.enqueue(row(2)),
    "enqueue_many": lambda queue: queue.enqueue_many([row(2)]),
    "persist": lambda queue: queue.persist(row(2)),
}.items():

    @walk(f"WriteBehindQueue.{method}", JournalError, f"journal {HERE}/there/log", "made anew")
    async def without_the_journals_directory(path: Path, enqueue: Any = enqueue) -> None:  # noqa: ANN401  # as above
        (path / "there").mkdir()
        async with (
            open_journal(path / "there" / "log", durability="always") as journal,
            a_queue(journal=journal) as queue,
        ):
            shutil.rmtree(path / "there")
            await enqueue(queue)


# The cache


@asynccontextmanager
async def a_cache(**arguments: Any) -> AsyncGenerator[Cache[Any]]:  # noqa: ANN401  # as above
    store = arguments.pop("store", None) or MemoryRepository[Any]()
    async with (
        open_write_behind_queue(store, AT_ONCE, name="jobs") as queue,
        open_cache(queue, store, **arguments) as cache,
    ):
        yield cache


@walk("cache.open_cache", TypeError, "queue")
def no_queue(_: Path) -> None:
    open_cache(WRONG, MemoryRepository[Any]())


@walk("cache.open_cache", TypeError, "repository", "get_many")
async def a_repository_that_can_not_be_read(_: Path) -> None:
    async with a_queue() as queue:
        open_cache(queue, WRONG)


@walk("cache.open_cache", ValueError, "on_store_error")
async def an_unknown_way(_: Path) -> None:
    async with a_cache(on_store_error="ignore"):
        raise AssertionError("it opened")


@walk("cache.open_cache", ValueError, "max_entries")
async def room_for_none(_: Path) -> None:
    async with a_cache(max_entries=0):
        raise AssertionError("it opened")


@walk("cache.open_cache", RuntimeError, "queue 'default'", "share it")
async def a_second_cache(_: Path) -> None:
    store = MemoryRepository[Any]()
    async with a_queue(store) as queue, open_cache(queue, store), open_cache(queue, store):
        raise AssertionError("it opened")


async def compute_another() -> ProvcacheEntry:  # noqa: ASYNC124  # as compute has to be
    return row("another")


async def compute_nothing() -> Any:  # noqa: ANN401, ASYNC124  # the mistake
    return SECRET


for method, error, about, use in (
    ("get", TypeError, "list", lambda cache: cache.get([SECRET])),
    ("get_many", TypeError, "keys", lambda cache: cache.get_many(WRONG)),
    ("peek", TypeError, "list", lambda cache: cache.peek([SECRET])),
    ("get_or_compute", TypeError, "compute", lambda cache: cache.get_or_compute("k", WRONG)),
    ("get_or_compute", TypeError, "compute", lambda cache: cache.get_or_compute("k", lambda: 5)),
    (
        "get_or_compute",
        TypeError,
        "compute",
        lambda cache: cache.get_or_compute("k", compute_nothing),
    ),
    (
        "get_or_compute",
        ValueError,
        "compute",
        lambda cache: cache.get_or_compute(key_of(1), compute_another),
    ),
    (
        "get_or_compute",
        RuntimeError,
        "its own key",
        lambda cache: cache.get_or_compute("k", lambda: cache.get_or_compute("k", WRONG_LATER)),
    ),
    ("invalidate_where", TypeError, "field=value", lambda cache: cache.invalidate_where()),
    ("invalidate_where", ValueError, "'url'", lambda cache: cache.invalidate_where(url=SECRET)),
):

    @walk(f"cache.Cache.{method}", error, about)
    async def of_a_cache(_: Path, use: Any = use) -> None:  # noqa: ANN401  # as above
        async with a_cache() as cache:
            answer = use(cache)
            await answer


async def WRONG_LATER() -> Any:  # noqa: ANN401, ASYNC124, N802  # never called
    raise AssertionError("it was called")


@walk("cache.Cache.get", ValueError, "keys", "sha256:")
async def a_key_of_another_form(path: Path) -> None:
    async with open_sqlite_repository(path / "cache.db") as store, a_cache(store=store) as cache:
        await cache.get(SECRET)


@walk("cache.Cache.get", trio.ClosedResourceError, "the cache of queue 'jobs'")
async def a_closed_cache(_: Path) -> None:
    async with a_cache() as cache:
        pass
    await cache.get(key_of(1))


async def compute() -> ProvcacheEntry:  # noqa: ASYNC124  # as compute has to be
    return row(1)


for method, use in {
    "get": lambda cache: cache.get(key_of(1)),
    "get_or_compute": lambda cache: cache.get_or_compute(key_of(1), compute),
    "invalidate_where": lambda cache: cache.invalidate_where(feed_epoch="x"),
}.items():

    @walk(f"cache.Cache.{method}", StoreUnavailableError, "down")
    async def of_a_store_that_is_down(_: Path, use: Any = use) -> None:  # noqa: ANN401  # as above
        store = MemoryRepository[Any]()
        async with a_cache(store=store) as cache:
            store.down()
            await use(cache)


@walk("cache.Cache.get_or_compute", QueueClosedError, "queue 'jobs'")
async def of_a_queue_that_ended(_: Path) -> None:
    store = MemoryRepository[Any]()
    leave = trio.Event()
    errors: list[BaseException] = []

    async def hold(task_status: Any) -> None:  # noqa: ANN401, ASYNC114  # trio's; started here only
        async with a_queue(store, name="jobs") as queue:
            task_status.started(queue)
            await leave.wait()

    async with trio.open_nursery() as nursery:
        queue = await nursery.start(hold)
        async with open_cache(queue, store) as cache:
            leave.set()
            await until(lambda: queue.metrics().state == "closed")
            try:
                await cache.get_or_compute(key_of(1), compute)
            except QueueClosedError as error:
                errors.append(error)
    raise errors[0]


@walk("cache.Cache.invalidate_where", QueueClosedError, "queue 'jobs'")
async def of_a_queue_that_ends(_: Path) -> None:
    await outlived(of_a_cache_over)


async def of_a_cache_over(queue: WriteBehindQueue[Any]) -> None:
    store = MemoryRepository[Any]()
    async with open_cache(queue, store) as cache:
        await cache.invalidate_where(feed_epoch="x")


@walk("cache.Cache.put", TypeError, NO_KEY)
async def a_put_without_a_key(_: Path) -> None:
    async with a_cache() as cache:
        await cache.put(Visit(SECRET))
