"""Opening a cache, and every way to leave it."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import ProvcacheEntry, open_write_behind_queue
from provcache_trio.cache import CacheMetrics, open_cache
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.testing import MemoryRepository

from tests.support.entries import DAY, NOW, entry, key_of
from tests.support.gated import GatedRepository, now, opened
from tests.support.tasks import put_aside

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of(0)


async def never() -> ProvcacheEntry:  # noqa: ASYNC124  # as computations are
    raise AssertionError("it is there")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_entries": 0}, ValueError, "max_entries must be 1 to"),
        ({"max_entries": True}, TypeError, "max_entries must be an int, not bool"),
        ({"memory_seconds": -1}, ValueError, "memory_seconds must be finite"),
        ({"memory_seconds": "5"}, TypeError, "memory_seconds must be a number"),
        ({"negative_seconds": None}, TypeError, "negative_seconds must be a number"),
        ({"negative_seconds": 6}, ValueError, "negative_seconds must be at most memory_seconds"),
        ({"on_store_error": "ignore"}, ValueError, 'on_store_error must be "raise" or "miss"'),
        ({"wall_clock": NOW}, TypeError, "wall_clock must be callable, not datetime"),
        ({"wall_clock": lambda: 7}, TypeError, "what wall_clock returns must be a datetime"),
        (
            {"wall_clock": lambda: datetime(2026, 1, 1)},  # noqa: DTZ001  # that is the point
            ValueError,
            "an aware datetime",
        ),
        ({"repository": object()}, TypeError, "repository must have a method get_many; object"),
        ({"queue": object()}, TypeError, "queue must be a WriteBehindQueue, not object"),
        (
            {"queue": open_write_behind_queue(MemoryRepository())},
            TypeError,
            "queue is not open yet: give what 'async with open_write_behind_queue",
        ),
        (
            {"repository": open_sqlite_repository("a.db")},
            TypeError,
            "repository is not open yet: give what 'async with open_sqlite_repository",
        ),
    ],
)
async def test_arguments_are_checked(
    arguments: dict[str, Any], error: type[Exception], text: str, autojump_clock: MockClock
) -> None:
    store = MemoryRepository()
    async with open_write_behind_queue(store) as queue:
        with pytest.raises(error, match=text):
            open_cache(**{"queue": queue, "repository": store, **arguments})


async def test_a_queue_has_one_cache_at_a_time(autojump_clock: MockClock) -> None:
    store = MemoryRepository()
    async with open_write_behind_queue(store, name="mine") as queue:
        async with open_cache(queue, store, wall_clock=now) as cache:
            with pytest.raises(RuntimeError, match="'mine' has a cache already"):
                async with open_cache(queue, store):
                    raise AssertionError("unreachable")
            queue.enqueue_nowait(entry())
            assert await cache.get(KEY) == entry()
        async with open_cache(queue, store) as cache:
            assert repr(cache) == "<Cache of queue 'mine', 0 entries>"
        queue.enqueue_nowait(entry(1))
        assert queue.pending(key_of(1)) == entry(1)


async def test_a_queue_has_the_metrics_of_its_cache_and_those_of_earlier_ones(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository()
    async with open_write_behind_queue(store) as queue:
        assert queue.cache_metrics() is None
        async with open_cache(queue, store, wall_clock=now) as cache:
            await cache.get(KEY)
            await cache.put(entry())
            await cache.get_or_compute(KEY, never)
            assert queue.cache_metrics() == cache.metrics()
            assert cache.metrics().entries == 1
        first = cache.metrics()
        assert queue.cache_metrics() == first
        async with open_cache(queue, store, wall_clock=now) as cache:
            await cache.get(KEY)
            await cache.get(KEY)
            seen, second = queue.cache_metrics(), cache.metrics()
            assert (second.hits_store + second.hits_pending, second.hits_memory) == (1, 1)
            assert seen is not None
            for field in CacheMetrics.__struct_fields__:
                assert getattr(seen, field) == getattr(first, field) + getattr(second, field)
    seen = queue.cache_metrics()
    assert seen is not None
    assert (seen.misses, seen.entries) == (first.misses, 0)


async def test_what_the_block_raises_goes_on_untouched(autojump_clock: MockClock) -> None:
    error = ExceptionGroup("mine", [ValueError("x")])
    with pytest.RaisesGroup(ValueError) as caught:
        async with opened() as (store, _, cache):
            store.read.close()
            with trio.move_on_after(1):
                await cache.get(KEY)
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_a_cancelled_block_leaves_without_a_group(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        async with opened() as (store, _, cache):
            store.read.close()
            await cache.get_many([KEY, key_of(1)])
    assert scope.cancelled_caught


async def test_another_task_can_not_leave_it(autojump_clock: MockClock) -> None:
    store = MemoryRepository()
    async with open_write_behind_queue(store) as queue:
        opening = open_cache(queue, store)
        cache = await opening.__aenter__()

        async def leave() -> None:
            with pytest.raises(RuntimeError, match="has to be left by the task that entered it"):
                await opening.__aexit__(None, None, None)

        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # another task is the point
            nursery.start_soon(leave)
        assert await cache.get(KEY) is None
        await opening.__aexit__(None, None, None)


def test_ctrl_c_goes_to_the_main_task_and_never_into_a_computation() -> None:
    seen: list[str] = []

    async def compute() -> ProvcacheEntry:
        signal.raise_signal(signal.SIGINT)
        await trio.lowlevel.checkpoint()
        seen.append("computed")
        return entry()

    async def main() -> None:
        async with opened() as (_, _, cache):
            await cache.get_or_compute(KEY, compute)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


def test_ctrl_c_while_it_closes_is_raised_without_a_group() -> None:
    class Slow(GatedRepository):
        async def get_many(self, _keys: object) -> dict[Any, ProvcacheEntry]:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                closing.set()
                await go_on.wait()
            return {}

    closing, go_on = trio.Event(), trio.Event()

    async def main() -> None:
        store = Slow()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            async with open_write_behind_queue(store) as queue, open_cache(queue, store) as cache:
                await put_aside(nursery, cache.get, KEY)

    @trio.lowlevel.enable_ki_protection  # so that it is raised in the main task
    async def interrupt() -> None:
        await closing.wait()
        await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)
        go_on.set()

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # looked at below
        trio.run(main)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):  # of the test's nursery
        (error,) = error.exceptions
    assert type(error) is KeyboardInterrupt


def test_leaving_ends_every_task(autojump_clock: MockClock) -> None:
    async def main() -> None:
        root = trio.lowlevel.current_task()
        async with opened() as (store, _, cache), trio.open_nursery() as nursery:
            store.read.close()
            await put_aside(nursery, cache.get, KEY)
            nursery.cancel_scope.cancel()
        assert not root.child_nurseries

    trio.run(main)


async def test_by_the_system_clock_entries_expire_too() -> None:
    store = MemoryRepository()
    soon = timedelta(seconds=1)

    def fresh(number: int, lasts: timedelta) -> ProvcacheEntry:
        created = datetime.now(NOW.tzinfo)
        return entry(number, created_at=created, expires_at=created + lasts)

    async with open_write_behind_queue(store) as queue, open_cache(queue, store) as cache:
        await cache.put(fresh(0, soon))
        await cache.put(fresh(1, DAY))
        assert len(await cache.get_many([KEY, key_of(1)])) == 2
        assert len(await cache.get_many([KEY, key_of(1)])) == 2
        assert cache.metrics().hits_memory == 2
        await trio.sleep(1)
        assert cache.peek(KEY) is None
        assert cache.peek(key_of(1)) is not None
        assert await cache.get(KEY) is None
        assert await cache.get(key_of(1)) is not None


async def test_a_wall_clock_that_fails_later_is_replaced_by_the_systems(
    autojump_clock: MockClock,
) -> None:
    works = True

    def clock() -> datetime:
        if not works:
            raise LookupError("no clock")
        return now()

    async with opened(wall_clock=clock) as (store, _, cache):
        store.hold(entry(expires_at=NOW + 100 * 365 * DAY))
        assert await cache.get(KEY) is not None
        works = False
        assert cache.peek(KEY) is not None


async def test_a_queue_whose_entries_have_no_table_and_are_none_of_ours_never_expire(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[str](key=str)
    async with (
        open_write_behind_queue(store, key=str) as queue,
        open_cache(queue, store) as cache,
    ):
        await cache.put("text")
        assert await cache.get("text") == "text"


async def test_its_metrics_can_be_read_from_any_thread(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache):
        store.hold(entry())
        await cache.get(KEY)
        metrics = await trio.to_thread.run_sync(cache.metrics)
        assert metrics == cache.metrics()
        assert metrics.hits_store == metrics.entries == 1
    assert cache.metrics().entries == 0


async def test_over_a_real_file_a_missing_entry_is_computed_once(tmp_path: Path) -> None:
    async with (
        open_sqlite_repository(tmp_path / "cache.db") as store,
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=lambda: NOW) as cache,
    ):

        async def compute() -> ProvcacheEntry:
            await trio.sleep(0.01)
            return entry()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(cache.get_or_compute, KEY, compute)
        await queue.flush()
        assert await store.get_many([KEY]) == {KEY: entry()}
        assert cache.metrics().computations == 1
        with pytest.raises(ValueError, match="64 lower-case hex digits"):
            await cache.get("not a key")


async def test_an_interrupt_that_a_task_of_the_cache_gets_comes_out_as_itself(
    autojump_clock: MockClock,
) -> None:
    async def interrupted() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        async with opened() as (_, _, cache):
            cache._computations._tasks.nursery.start_soon(interrupted)
            await trio.sleep(1)
    assert type(caught.value) is KeyboardInterrupt
