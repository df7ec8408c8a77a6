"""Dead letters: what the store refused, on its way to the sink."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueState,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, balance, items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio import DeadLetter

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    """Return a store that refuses the keys "bad0" to "bad9"."""
    store = MemoryRepository[Item]()
    store.reject(*(f"bad{n}" for n in range(10)))
    return store


@pytest.fixture
def letters() -> MemoryDeadLetters[Item]:
    return MemoryDeadLetters[Item]()


@pytest.mark.one_lane
async def test_a_letter_holds_the_entry_and_why(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    def wall_clock() -> datetime:
        return (NOON + timedelta(seconds=trio.current_time())).astimezone()

    options = WriteBehindOptions(flush_interval_seconds=2)
    async with open_write_behind_queue(
        store, options, dead_letters=letters, wall_clock=wall_clock
    ) as queue:
        await queue.enqueue_many([Item("good"), Item("bad1", 7)])
        await trio.sleep(3)
        (letter,) = letters.letters
        assert queue.metrics().timestamp == NOON + timedelta(seconds=3)
    assert letter.entry == Item("bad1", 7)
    assert letter.key == "bad1"
    assert letter.error_class == "EntryRejectedError"
    assert letter.sqlstate is None
    assert letter.constraint is None
    assert letter.attempts == 2
    assert letter.opened_at == NOON
    assert letter.failed_at == NOON + timedelta(seconds=2)
    assert letter.failed_at.tzinfo is UTC


async def test_a_wall_clock_at_the_beginning_of_time_stops_nothing(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    first = datetime.min.replace(tzinfo=UTC)
    async with open_write_behind_queue(
        store, dead_letters=letters, wall_clock=lambda: first
    ) as queue:
        await queue.enqueue(Item("bad1"))
        await trio.sleep(1)
    (letter,) = letters.letters
    assert (letter.opened_at, letter.failed_at) == (first, first)


async def test_without_a_sink_the_key_is_logged_and_the_payload_is_not(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_write_behind_queue(store, name="q") as queue:
        await queue.enqueue(Item("bad1", 4711))
    assert_settled(queue, failed=1)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "bad1" in record.getMessage()
    assert "payload is gone" in record.getMessage()
    assert "4711" not in caplog.text
    assert record.__dict__["key"] == "bad1"
    assert record.__dict__["queue"] == "q"
    assert record.__dict__["error_class"] == "EntryRejectedError"


async def test_refused_entries_are_counted_only_when_the_sink_has_them(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    letters.stall()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue(Item("bad1"))
        await trio.sleep(1)
        assert queue.metrics().total_failed == 0
        assert queue.metrics().in_flight == 1
        letters.resume()
        await wait_all_tasks_blocked()
        assert queue.metrics().total_failed == 1
        assert queue.metrics().in_flight == 0


async def test_persist_and_flush_return_after_a_healthy_sink_has_the_letter(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        with pytest.raises(EntryRejectedError):
            await queue.persist(Item("bad1"))
        assert queue.metrics().total_failed == 1
        await queue.enqueue(Item("bad2"))
        await queue.flush()
        assert queue.metrics().total_failed == 2
        assert queue.pending("bad2") is None


async def test_a_sink_that_hangs_is_retried_after_five_seconds(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    letters.stall()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue(Item("bad1"))
        started = trio.current_time()
        await queue.flush()  # goes on when the sink is known to fail
        assert trio.current_time() - started == 5
        error = queue.metrics().last_error
        assert error is not None
        assert error.error_class == "TooSlowError"
        letters.resume()
    assert [letter.key for letter in letters.letters] == ["bad1"]


@pytest.mark.one_lane
async def test_a_failing_sink_does_not_stop_the_writer_until_batch_size_letters_wait(
    store: MemoryRepository[Item],
    letters: MemoryDeadLetters[Item],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    letters.down()
    options = WriteBehindOptions(batch_size=2, retry_cap_seconds=1)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        for n in range(2):
            await queue.enqueue(Item(f"bad{n}"))
            await queue.persist(Item(f"good{n}"))
        assert queue.metrics().in_flight == 2
        assert queue.metrics().state is QueueState.RUNNING
        await queue.enqueue_many([Item("bad2"), Item("good2")])
        await queue.enqueue_many(items(["after", "that"]))
        await trio.sleep(60)
        assert "good2" in store.rows
        assert "after" not in store.rows
        metrics = queue.metrics()
        assert metrics.state is QueueState.PAUSED
        assert metrics.in_flight == 3
        assert metrics.current_queue_depth == 2
        assert balance(metrics) == 0
        letters.up()
        await trio.sleep(2)
        assert "after" in store.rows
        assert queue.metrics().state is QueueState.RUNNING
    assert [letter.key for letter in letters.letters] == ["bad0", "bad1", "bad2"]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("sink failed" in message for message in messages) == 1
    assert sum("sink works again" in message for message in messages) == 1


async def test_a_letter_that_waits_for_the_sink_counts_in_the_oldest_age(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    letters.down()
    options = WriteBehindOptions(flush_interval_seconds=0)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue(Item("bad1"))
        await trio.sleep(600)
        assert queue.metrics().oldest_pending_seconds == 600
        letters.up()
        await trio.sleep(60)
        assert queue.metrics().oldest_pending_seconds == 0.0


async def test_a_letter_that_came_during_a_call_of_the_sink_keeps_its_age(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    class Sink(MemoryDeadLetters[Item]):
        async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
            if trio.current_time() == began_at:
                raise OSError  # so that nobody waits for it
            await trio.sleep(4)
            if self.letters:
                await trio.sleep_forever()
            await super().put_many(letters)

    began_at = trio.current_time()
    options = WriteBehindOptions(flush_interval_seconds=0, drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, options, dead_letters=Sink()) as queue:
            await queue.enqueue(Item("bad1"))
            await trio.sleep(2)
            await queue.enqueue(Item("bad2"))
            await trio.sleep(4)
            assert queue.metrics().total_failed == 1
            assert queue.metrics().oldest_pending_seconds == 4
    assert caught.value.undelivered == (Item("bad2"),)


async def test_more_letters_than_fit_are_handed_over_piece_by_piece(
    letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item]()
    store.reject(*map(str, range(15)))
    options = WriteBehindOptions(batch_size=20)
    letters.down()
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        for start in (0, 8):
            await queue.enqueue_many(items(range(start, start + 7)))
            await queue.enqueue(Item(f"ok{start}"))
            await queue.flush()
        letters.up()
    assert len(letters.letters) == 14


@pytest.mark.one_lane
async def test_what_the_sink_never_took_is_handed_back(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    letters.down()
    options = WriteBehindOptions(batch_size=2)
    with pytest.raises(DrainTimeoutError) as info:
        async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
            for n in range(6):
                await queue.enqueue(Item(f"bad{n}"))
    assert info.value.undelivered == tuple(items(f"bad{n}" for n in range(6)))
    assert queue.undelivered == info.value.undelivered
    metrics = queue.metrics()
    assert metrics.total_abandoned == 6
    assert metrics.total_failed == 0
    assert balance(metrics) == 0


@pytest.mark.one_lane
async def test_a_key_is_pending_until_the_verdict_on_its_batch(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store) as queue:
        store.fail_next(EntryRejectedError("no", index=0), times=1)
        await queue.enqueue_many(items(["x", "y"]))
        store.latency_seconds = 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.flush)
            await trio.sleep(1.5)
            assert queue.pending("x") == Item("x")
            assert queue.pending("y") == Item("y")
        assert queue.pending("x") is None


@pytest.mark.one_lane
async def test_the_sink_gets_one_call_at_a_time_oldest_first(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    under_way = 0
    taken: list[str] = []

    class Sink:
        async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
            nonlocal under_way
            under_way += 1
            assert under_way == 1
            await trio.sleep(0.5)
            under_way -= 1
            taken.extend(letter.entry.veri_key for letter in letters)

    options = WriteBehindOptions(batch_size=3)
    async with open_write_behind_queue(store, options, dead_letters=Sink()) as queue:
        await queue.enqueue_many(items(f"bad{n}" for n in range(10)))
    assert taken == [f"bad{n}" for n in range(10)]


@pytest.mark.one_lane
async def test_attempts_are_the_calls_that_included_the_entry_though_it_was_put_back(
    letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    store = MemoryRepository[Item](reject_with_index=True)
    bad = items(range(25))  # so many that the store is blamed until it takes the good one
    store.reject(*(item.veri_key for item in bad))
    options = WriteBehindOptions(flush_interval_seconds=0)
    async with open_write_behind_queue(store, options, dead_letters=letters) as queue:
        await queue.enqueue_many([*bad, Item("good")])
        await trio.sleep(600)
    assert_settled(queue, failed=25, persisted=1)
    for letter in letters.letters:
        assert letter.attempts == sum(letter.entry in call for call in store.calls), letter.key


async def test_in_a_forked_child_the_sink_gets_nothing(
    store: MemoryRepository[Item], letters: MemoryDeadLetters[Item], autojump_clock: MockClock
) -> None:
    letters.down()
    async with open_write_behind_queue(store, dead_letters=letters) as queue:
        await queue.enqueue(Item("bad1"))
        await trio.sleep(60)
        queue._lifetime.forked = True  # as the hook does in a child that goes on
        letters.up()
        await trio.sleep(60)
    assert letters.letters == []
