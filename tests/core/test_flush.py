"""``flush``: what it waits for, and that a flush for each request batches as well as ``persist``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueClosedError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from provcache_trio import DeadLetter, WriteBehindQueue

QUIET = WriteBehindOptions(flush_interval_seconds=1000)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


@asynccontextmanager
async def nursery_for_a_minute() -> AsyncGenerator[trio.Nursery]:
    """Fail if a task of it waits for ever."""
    with trio.fail_after(60):  # noqa: ASYNC100  # around the user's block
        async with trio.open_nursery() as nursery:
            yield nursery


# Joining


async def flush_each(
    queue: WriteBehindQueue[Item], brought: Sequence[Item], nursery: trio.Nursery
) -> list[Item]:
    """Have each accepted and flushed by a task of its own; return what was flushed so far."""
    flushed: list[Item] = []

    async def request(item: Item) -> None:
        await queue.enqueue(item)
        await queue.flush()
        flushed.append(item)

    for item in brought:
        nursery.start_soon(request, item)
        await trio.sleep(0.001)
    return flushed


@pytest.mark.one_lane
async def test_a_flush_for_each_request_takes_as_few_calls_as_persist(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 0.05
    async with (
        open_write_behind_queue(store) as queue,
        trio.open_nursery() as nursery,
    ):
        await flush_each(queue, items(range(2000)), nursery)
    assert len(store.calls) <= 41
    assert_settled(queue, persisted=2000)


@pytest.mark.one_lane
async def test_sealed_batches_join_in_order_as_far_as_they_fit_into_one_call(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(batch_size=5, flush_interval_seconds=1000)
    async with (
        open_write_behind_queue(store, options) as queue,
        trio.open_nursery() as nursery,
    ):
        await queue.enqueue(Item("first"))
        for sizes in (1, 2, 2, 1, 5, 1, 3):
            nursery.start_soon(queue.flush)
            await trio.sleep(0.001)
            count = queue.metrics().total_enqueued
            await queue.enqueue_many(items(range(count, count + sizes)))
        await trio.sleep(0.001)
        store.resume()
        await trio.sleep(0.001)
        assert [len(call) for call in store.calls] == [
            1,
            5,
            1,
            5,
            1,
        ]  # three more are in the open batch
        assert queue.metrics().flushes_requested == 4
    keys = [item.veri_key for call in store.calls for item in call]
    assert keys == ["first", *map(str, range(1, 16))]


@pytest.mark.one_lane
async def test_without_coalescing_batches_with_a_key_in_common_do_not_join(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(coalesce=False)
    async with (
        open_write_behind_queue(store, options) as queue,
        trio.open_nursery() as nursery,
    ):
        brought = [Item("z"), *items("ab"), Item("a", 1), Item("c"), Item("b", 1)]
        await flush_each(queue, brought, nursery)
        assert queue.pending("b") == Item("b", 1)
        store.resume()
    assert [list(call) for call in store.calls] == [
        [Item("z")],
        [Item("a"), Item("b")],
        [Item("a", 1), Item("c"), Item("b", 1)],
    ]


@pytest.mark.one_lane
async def test_a_key_that_joined_another_batch_is_known_until_it_is_written(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with (
        open_write_behind_queue(store, QUIET) as queue,
        trio.open_nursery() as nursery,
    ):
        await flush_each(queue, items("abc"), nursery)
        store.resume()
        store.latency_seconds = 1
        await trio.sleep(0.1)
        store.stall()  # b and c are in one call
        assert queue.pending("b") == Item("b")
        assert queue.pending("c") == Item("c")
        await queue.enqueue(Item("c", 1))  # gets a place behind
        assert queue.metrics().current_queue_depth == 1
        assert queue.pending("c") == Item("c", 1)
        store.resume()
    assert [list(call) for call in store.calls] == [
        *([Item("a")], items("bc"), [Item("c", 1)]),
    ]


@pytest.mark.one_lane
async def test_whoever_waits_for_a_batch_that_joins_another_learns_its_fate(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    store.reject("bad")
    ended: dict[str, object] = {}

    async def persist(queue: WriteBehindQueue[Item], key: str) -> None:
        try:
            await queue.persist(Item(key))
        except EntryRejectedError as error:
            ended[key] = error
        else:
            ended[key] = None

    async with (
        nursery_for_a_minute() as nursery,
        open_write_behind_queue(store, QUIET) as queue,
    ):
        for key in ("first", "a", "bad", "c"):
            nursery.start_soon(persist, queue, key)
            await trio.sleep(0.001)
            nursery.start_soon(queue.flush)
            await trio.sleep(0.001)
        with trio.move_on_after(0.001):  # one that does not wait any more
            await queue.persist(Item("c", 1))
        assert ended == {}
        store.resume()
        await trio.sleep(1)
        assert isinstance(ended.pop("bad"), EntryRejectedError)
        assert ended == {"first": None, "a": None, "c": None}
    assert list(store.calls[1]) == [*items(["a", "bad"]), Item("c", 1)]


@pytest.mark.one_lane
async def test_who_flushed_a_batch_that_joined_one_that_was_abandoned_is_told(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(drain_timeout_seconds=1)
    told: list[str] = []

    async def flush(queue: WriteBehindQueue[Item], key: str) -> None:
        await queue.enqueue(Item(key))
        try:
            await queue.flush()
        except QueueClosedError:
            told.append(key)

    async with trio.open_nursery() as nursery:
        with pytest.raises(DrainTimeoutError) as caught:
            async with open_write_behind_queue(store, options) as queue:
                for key in "abc":
                    nursery.start_soon(flush, queue, key)  # noqa: ASYNC111  # outlives it on purpose
                    await trio.sleep(0.001)
                store.resume()
                store.latency_seconds = 1000
                await trio.sleep(0.001)
                assert queue.metrics().in_flight == 2
    assert caught.value.undelivered == tuple(items("bc"))
    assert sorted(told) == ["b", "c"]


# Letters


class SlowSink:
    """A sink whose calls take a second, and fail as asked."""

    def __init__(self) -> None:
        self.failing: set[int] = set()  # numbers of calls
        self.calls: list[list[str]] = []
        self.taken: list[str] = []

    async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
        keys = [letter.entry.veri_key for letter in letters]
        self.calls.append(keys)
        number = len(self.calls)
        await trio.sleep(1)
        if number in self.failing:
            raise OSError("as the test asked")
        self.taken += keys


AT_ONCE = WriteBehindOptions(flush_interval_seconds=0, retry_base_seconds=0.001)


async def test_a_flush_waits_for_a_letter_that_came_while_the_sink_failed(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    sink = SlowSink()
    sink.failing = {1}
    store.reject("a", "b")
    async with open_write_behind_queue(store, AT_ONCE, dead_letters=sink) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(1.5)  # the sink has failed, and is in its second call
        await queue.enqueue(Item("b"))
        await trio.sleep(0.1)
        assert sink.calls == [["a"], ["a"]]
        await queue.flush()
        assert sink.calls == [["a"], ["a"], ["b"]]
        assert sink.taken == ["a", "b"]


async def test_a_flush_does_not_wait_longer_than_for_one_call_that_fails_with_its_letters(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    sink = SlowSink()
    sink.failing = {1, 2, 3}
    store.reject("a", "b")
    async with open_write_behind_queue(store, AT_ONCE, dead_letters=sink) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(1.5)  # in the second call
        await queue.enqueue(Item("b"))
        await trio.sleep(0.1)
        await queue.flush()
        assert sink.calls == [["a"], ["a"], ["a", "b"]]
        assert sink.taken == []
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        await queue.flush()  # they were tried, so there is nothing to wait for
        assert trio.current_time() == pytest.approx(3, abs=0.1)
    assert sink.taken == ["a", "b"]


async def test_a_flush_does_not_wait_for_the_letters_of_later_entries(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    sink = SlowSink()
    store.reject("a", "b")
    options = WriteBehindOptions(flush_interval_seconds=0, writers=4)
    async with (
        open_write_behind_queue(store, options, dead_letters=sink) as queue,
        trio.open_nursery() as nursery,
    ):
        await queue.enqueue(Item("a"))
        await trio.sleep(0.5)
        flushed_at: list[float] = []

        async def flush() -> None:
            await queue.flush()
            flushed_at.append(trio.current_time())

        nursery.start_soon(flush)
        await trio.sleep(0.1)
        await queue.enqueue(Item("b"))
        await trio.sleep(3)
        assert flushed_at == [1]
        assert sink.calls == [["a"], ["b"]]


async def test_a_flush_that_waits_for_a_letter_is_told_that_it_was_handed_back(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    sink = MemoryDeadLetters[Item]()
    sink.crash_next(10)
    sink.stall()
    store.reject("a")
    ended: list[bool] = []

    async def flush(queue: WriteBehindQueue[Item]) -> None:
        with pytest.raises(QueueClosedError):
            await queue.flush()
        ended.append(True)

    options = WriteBehindOptions(flush_interval_seconds=0, drain_timeout_seconds=0)
    async with nursery_for_a_minute() as nursery:
        with pytest.raises(WriteBehindCrashedError) as caught:
            async with open_write_behind_queue(store, options, dead_letters=sink) as queue:
                await queue.enqueue(Item("a"))
                await trio.sleep(1)
                nursery.start_soon(flush, queue)  # noqa: ASYNC111  # outlives it on purpose
                await trio.sleep(0.1)
                sink.resume()
                await trio.sleep(30)
    assert caught.value.undelivered == (Item("a"),)
    assert ended == [True]
    with pytest.raises(QueueClosedError):
        await queue.flush()


# What a journal holds


async def test_a_flush_waits_for_everything_that_the_journal_held(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 0.1
    journal = MemoryJournal(holds=dict(enumerate(items(range(50)), 1)), latency_seconds=0.1)
    options = WriteBehindOptions(flush_interval_seconds=1000, queue_capacity=7, batch_size=3)
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        await queue.flush()
        assert len(store.rows) == 50
        assert not queue.metrics().recovering


async def test_a_flush_during_a_replay_does_not_wait_for_what_is_accepted_after_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = MemoryJournal(holds={1: Item("a", -1)}, latency_seconds=1)
    flushed: list[set[object]] = []
    async with (
        open_write_behind_queue(store, QUIET, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):

        async def flush() -> None:
            await queue.flush()
            flushed.append(set(store.rows))

        nursery.start_soon(flush)
        nursery.start_soon(queue.enqueue, Item("b"))
        await trio.sleep(100)
        assert flushed == [{"a"}]
        assert queue.pending("b") == Item("b")


async def test_a_flush_is_told_when_the_journal_was_not_read_to_its_end(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = MemoryJournal(holds={1: Item("a")})
    journal.fails = lambda name: "before" if name == "replay" else None
    options = WriteBehindOptions(drain_timeout_seconds=5)
    ended: list[float] = []

    async def flush(queue: WriteBehindQueue[Item]) -> None:
        with pytest.raises(QueueClosedError):
            await queue.flush()
        ended.append(trio.current_time())

    async with nursery_for_a_minute() as nursery:
        async with open_write_behind_queue(store, options, journal=journal) as queue:
            nursery.start_soon(flush, queue)  # noqa: ASYNC111  # outlives it on purpose
            await trio.sleep(10)
        assert queue.metrics().recovering
        await wait_all_tasks_blocked()
    assert ended == [15]
    with pytest.raises(QueueClosedError):
        await queue.flush()
