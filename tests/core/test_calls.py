"""Calls of foreign code: slow ones are logged, and one that calls the queue back is refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from provcache_trio import DeadLetter, WriteBehindQueue

pytestmark = pytest.mark.one_lane

AT_ONCE = WriteBehindOptions(flush_interval_seconds=0, batch_size=2, queue_capacity=2)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# Slow calls


async def test_a_call_of_more_than_half_a_minute_is_one_warning_and_in_metrics(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_write_behind_queue(store, AT_ONCE) as queue:
        assert queue.metrics().call_seconds == 0.0
        store.stall()
        await queue.enqueue(Item("a"))
        await trio.sleep(29)
        assert queue.metrics().call_seconds == 29
        assert warnings_in(caplog) == []
        await trio.sleep(2)
        said = (
            "default: MemoryRepository.upsert_many has not returned for 30 s; "
            "what it was given waits for it"
        )
        assert warnings_in(caplog) == [said]
        await trio.sleep(3600)
        assert queue.metrics().call_seconds == 3631
        store.resume()
        await queue.flush()
        assert queue.metrics().call_seconds == 0.0
        store.stall()
        await queue.enqueue(Item("b"))
        await trio.sleep(60)
        assert warnings_in(caplog) == [said, said]
        store.resume()
    assert queue.metrics().call_seconds == 0.0


async def test_calls_that_are_quick_are_no_warning_however_many_follow_each_other(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.latency_seconds = 20
    async with open_write_behind_queue(
        store, WriteBehindOptions(batch_size=1, drain_timeout_seconds=300)
    ) as queue:
        await queue.enqueue_many(items(range(10)))
        await trio.sleep(195)
        assert queue.metrics().call_seconds == 15
    assert warnings_in(caplog) == []


async def test_of_several_calls_the_oldest_counts_and_each_slow_one_is_logged(
    store: MemoryRepository[Item],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # keys go to their own lanes
    options = WriteBehindOptions(flush_interval_seconds=0, writers=2)
    async with open_write_behind_queue(store, options) as queue:
        first, second = (
            next(item for item in items(range(99)) if queue._lanes.of(item.veri_key) is line)
            for line in queue._lanes.lines
        )
        store.stall()
        await queue.enqueue(first)
        await trio.sleep(20)
        await queue.enqueue(second)
        await trio.sleep(20)
        assert queue.metrics().call_seconds == 40
        assert len(warnings_in(caplog)) == 1
        await trio.sleep(20)
        assert len(warnings_in(caplog)) == 2
        store.resume()


class Deaf:
    """A store or sink that does not return when it is cancelled, but after a minute."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        return len(entries)

    async def put_many(self, _: Sequence[DeadLetter[Item]], /) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)


async def test_a_repository_that_does_not_return_when_cancelled_is_named_after_five_seconds(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options = WriteBehindOptions(drain_timeout_seconds=1)
    async with open_write_behind_queue(Deaf(), options) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(10)
        assert warnings_in(caplog) == []
    assert trio.current_time() > 60
    said = (
        "default: Deaf.upsert_many does not return, 5 s after it was cancelled; "
        "the queue can't end before"
    )
    assert warnings_in(caplog) == [said]
    assert_settled(queue, persisted=1)


async def test_a_sink_that_does_not_return_when_cancelled_is_named_too(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.reject("a")
    options = WriteBehindOptions(drain_timeout_seconds=1)
    async with open_write_behind_queue(store, options, dead_letters=Deaf()) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(1)
        assert queue.metrics().call_seconds == 0.0  # which is of the store
    assert "Deaf.put_many does not return, 5 s after it was cancelled" in caplog.text


# The queue is called from inside


class CallsBack(MemoryRepository[Item]):
    """Is store and sink of a queue, and does something with that queue in one of its methods."""

    def __init__(
        self,
        where: Literal["upsert_many", "prepare", "put_many"],
        what: Callable[[WriteBehindQueue[Item]], Awaitable[object]],
    ) -> None:
        super().__init__()
        self.where = where
        self.what = what
        self.queue: WriteBehindQueue[Item]
        self.errors: list[BaseException] = []
        self.done = 0

    async def _call_back(self, here: str) -> None:
        if here == self.where and not (self.errors or self.done):
            try:
                await self.what(self.queue)
            except RuntimeError as error:
                self.errors.append(error)
            except BaseExceptionGroup as group:
                self.errors += group.exceptions
            else:
                self.done += 1

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        await self._call_back("upsert_many")
        await trio.sleep(0.1)
        return await super().upsert_many(entries)

    async def prepare(self, entries: Sequence[Item], /) -> Sequence[Item]:
        await self._call_back("prepare")
        return entries

    async def put_many(self, _: Sequence[DeadLetter[Item]], /) -> None:
        await self._call_back("put_many")


async def fill(queue: WriteBehindQueue[Item]) -> None:
    for item in items(range(100)):
        await queue.enqueue(item)


async def in_child_task(queue: WriteBehindQueue[Item]) -> None:
    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own
        nursery.start_soon(queue.flush)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda queue: queue.persist(Item("x")), "persist"),
        (lambda queue: queue.flush(), "flush"),
        (fill, "waiting for room"),
        (lambda queue: queue.enqueue_many(items(range(100))), "waiting for room"),
        (in_child_task, "flush"),
    ],
    ids=["persist", "flush", "enqueue", "enqueue_many", "child task"],
)
@pytest.mark.parametrize("where", ["upsert_many", "prepare", "put_many"])
async def test_what_would_wait_for_the_call_that_it_is_made_in_is_refused(
    where: Literal["upsert_many", "prepare", "put_many"],
    what: Callable[[WriteBehindQueue[Item]], Awaitable[object]],
    said: str,
    autojump_clock: MockClock,
) -> None:
    both = CallsBack(where, what)
    both.reject("bad")
    options = WriteBehindOptions(flush_interval_seconds=0, batch_size=2, queue_capacity=4)
    with trio.fail_after(60):
        async with open_write_behind_queue(both, options, dead_letters=both) as both.queue:
            await both.queue.enqueue_many(items(["bad", "b", "c", "d"]))
            await both.queue.flush()
    [error] = both.errors
    assert isinstance(error, RuntimeError)
    assert str(error) == (
        f"queue 'default': {said} inside CallsBack.{where} would wait for that very call"
    )
    assert both.rows["b"] == Item("b")
    assert "x" not in both.rows


async def test_what_need_not_wait_is_accepted_from_inside_a_call(
    autojump_clock: MockClock,
) -> None:
    both = CallsBack("upsert_many", lambda queue: queue.enqueue(Item("x")))
    async with open_write_behind_queue(both) as both.queue:
        await both.queue.persist(Item("a"))
    assert both.done == 1
    assert set(both.rows) == {"a", "x"}


async def test_with_a_journal_that_every_entry_waits_for_none_is_accepted_from_inside_a_call(
    autojump_clock: MockClock,
) -> None:
    both = CallsBack("upsert_many", lambda queue: queue.enqueue(Item("x")))
    journal = MemoryJournal[Item](always=True)
    async with open_write_behind_queue(both, journal=journal) as both.queue:
        await both.queue.persist(Item("a"))
    assert len(both.errors) == 1
    assert set(both.rows) == {"a"}


async def test_a_queue_may_be_the_store_of_another(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, AT_ONCE, name="behind") as behind:

        class Forward:
            async def upsert_many(self, entries: Sequence[Item], /) -> int:
                for entry in entries:
                    await behind.persist(entry)
                await behind.flush()
                return len(entries)

        async with open_write_behind_queue(Forward(), AT_ONCE, name="before") as before:
            await before.enqueue_many(items(range(10)))
    assert len(store.rows) == 10


async def test_a_call_that_goes_through_another_queue_and_comes_back_is_found(
    autojump_clock: MockClock,
) -> None:
    errors: list[RuntimeError] = []

    class Inner:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            try:
                await outer.flush()
            except RuntimeError as error:
                errors.append(error)
            return len(entries)

    class Outer:
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            async with open_write_behind_queue(Inner(), name="inner") as inner:
                await inner.enqueue_many(entries)
            return len(entries)

    with trio.fail_after(60):
        async with open_write_behind_queue(Outer(), name="outer") as outer:
            await outer.persist(Item("a"))
    [error] = errors
    assert "Outer.upsert_many would wait for that very call" in str(error)


async def test_a_task_that_outlives_the_call_it_was_started_in_may_wait(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    flushed: list[float] = []

    class Starts(MemoryRepository[Item]):
        nursery: trio.Nursery

        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            if not self.calls:
                self.nursery.start_soon(later)
            return await super().upsert_many(entries)

    async def later() -> None:
        await trio.sleep(1)
        await queue.flush()
        await queue.persist(Item("z"))
        flushed.append(trio.current_time())

    starts = Starts()
    async with (
        trio.open_nursery() as starts.nursery,
        open_write_behind_queue(starts, AT_ONCE) as queue,
    ):
        await queue.persist(Item("a"))
        await trio.sleep(2)
    assert flushed == [1]


# A prepare that takes too long


class Prepares(MemoryRepository[Item]):
    """A repository of which every preparation takes some time, and does not end if it is inf."""

    def __init__(self, *seconds: float) -> None:
        super().__init__(latency_seconds=1)
        self.seconds = list(seconds)
        self.begun = 0
        self.cancelled = 0

    async def prepare(self, entries: Sequence[Item], /) -> Sequence[Item]:
        self.begun += 1
        try:
            await trio.sleep(self.seconds[min(self.begun, len(self.seconds)) - 1])
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return entries


async def test_a_prepare_that_does_not_return_is_cancelled_once_the_writer_is_free(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Prepares(1e9)
    options = WriteBehindOptions(batch_size=2)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(20)))
        with trio.fail_after(60):
            await queue.flush()
        assert trio.current_time() == 10  # as without prepare
        assert (store.begun, store.cancelled) == (3, 3)
    assert_settled(queue, persisted=20)
    [said] = warnings_in(caplog)
    assert said.startswith("default: Prepares.prepare did not return before the writer was free")


async def test_a_prepare_that_is_late_now_and_then_goes_on_being_called(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Prepares(2, 2, 0.5, 2, 2, 0.5, 2, 2, 0.5)
    options = WriteBehindOptions(batch_size=2)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(20)))
        await queue.flush()
        assert (store.begun, store.cancelled) == (9, 6)
    assert warnings_in(caplog) == []


async def test_a_prepare_that_is_cut_off_by_the_end_is_no_reason_to_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Prepares(1e9)
    store.latency_seconds = 1e9
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(
            store, WriteBehindOptions(batch_size=2, drain_timeout_seconds=1)
        ) as queue:
            await queue.enqueue_many(items(range(4)))
            await wait_all_tasks_blocked()
    assert (store.begun, store.cancelled) == (1, 1)
    assert warnings_in(caplog) == []


async def test_an_entry_that_a_prepared_batch_was_joined_by_is_written_with_it(
    autojump_clock: MockClock,
) -> None:
    store = Prepares(0)
    async with (
        open_write_behind_queue(store, WriteBehindOptions(batch_size=4)) as queue,
        trio.open_nursery() as nursery,
    ):
        for key in "abc":
            await queue.enqueue(Item(key))
            nursery.start_soon(queue.flush)
            await trio.sleep(0.01)
    assert [list(call) for call in store.calls] == [items("a"), items("bc")]
    assert store.begun == 1


async def test_a_refused_entry_that_is_persisted_from_outside_is_told(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("a")
    async with open_write_behind_queue(store) as queue:
        with pytest.raises(EntryRejectedError):
            await queue.persist(Item("a"))
