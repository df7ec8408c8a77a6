"""Leaving a queue whose journal holds more than was read, and one that the wrong task leaves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    QueueState,
    StoreMisconfiguredError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._vocabulary.errors import reworded
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from trio.testing import MockClock

SMALL = WriteBehindOptions(
    queue_capacity=10, batch_size=5, flush_interval_seconds=1000, drain_timeout_seconds=20
)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


def journal_with(count: int, *, always: bool = False) -> MemoryJournal[Item]:
    return MemoryJournal(holds=dict(enumerate(items(range(count)), 1)), always=always)


@pytest.mark.parametrize("always", [False, True])
async def test_leaving_writes_everything_that_the_journal_holds(
    store: MemoryRepository[Item],
    always: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    store.latency_seconds = 0.1
    journal = journal_with(103, always=always)
    async with open_write_behind_queue(store, SMALL, journal=journal) as queue:
        pass
    assert_settled(queue, recovered=103, persisted=103)
    assert len(store.rows) == 103
    assert not queue.metrics().recovering
    assert journal.rows == {}
    assert trio.current_time() < 4
    assert "default: drained: 103 persisted, 0 coalesced, 0 dead-lettered" in caplog.messages
    replayed = [one for one in caplog.messages if "journal replayed" in one]
    assert replayed == ["default: journal replayed: 103 entries taken over"]


async def test_what_stays_in_the_journal_is_logged_with_what_a_person_has_to_mend(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    denied = reworded(StoreMisconfiguredError("", sqlstate="42501"), "no grant")
    store.fail_next(denied, times=99)
    async with open_write_behind_queue(store, SMALL, journal=journal_with(0)) as queue:
        await queue.enqueue(Item("a"))
    assert caplog.messages[-1] == (
        "default: 1 entry left in the journal, as the last call failed "
        "(StoreMisconfiguredError: no grant, SQLSTATE 42501)"
    )


@pytest.mark.one_lane
async def test_what_was_not_read_by_the_deadline_stays_in_the_journal_and_is_counted(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    store.latency_seconds = 3
    journal = journal_with(200)
    async with open_write_behind_queue(store, SMALL, journal=journal) as queue:
        pass
    assert trio.current_time() == 20
    metrics = queue.metrics()
    assert metrics.recovering
    assert metrics.total_persisted == 5 * 6
    assert metrics.total_recovered == metrics.total_persisted + metrics.total_abandoned
    assert len(queue.undelivered) == metrics.total_abandoned
    stored = {int(str(key)) for key in store.rows}
    left = {int(item.veri_key) for item in journal.rows.values()}
    assert left >= set(range(200)) - stored
    unread = 200 - metrics.total_recovered
    assert unread > 0
    [said] = [record for record in caplog.records if "older entries" in record.getMessage()]
    assert said.__dict__["count"] == unread
    assert said.getMessage() == (
        f"default: {unread} older entries left in the journal: the queue that opens it next replays them"
    )
    assert "drained" not in caplog.text
    # Nothing is lost, so nobody has to be woken.
    assert metrics.total_kept == metrics.total_abandoned > 0


async def test_a_journal_that_does_not_count_its_entries_is_said_to_hold_some(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    journal = journal_with(3)
    del journal.entries_to_replay
    options = WriteBehindOptions(drain_timeout_seconds=0)
    journal.fails = lambda name: "before" if name == "replay" else None
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        pass
    assert queue.metrics().recovering
    assert (
        "older entries stay in the journal: the queue that opens it next replays them"
        in caplog.text
    )
    assert "drained" not in caplog.text
    assert len(journal.rows) == 3


async def test_a_page_that_is_read_when_the_time_is_up_is_not_taken_over(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = journal_with(4)
    journal.latency_seconds = 10
    options = WriteBehindOptions(drain_timeout_seconds=5)
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        await trio.sleep(1)
    assert trio.current_time() >= 10
    metrics = queue.metrics()
    assert metrics.recovering
    assert metrics.total_recovered == 0
    assert queue.undelivered == ()
    assert len(journal.rows) == 4


async def test_a_journal_that_can_be_read_again_before_the_deadline_is_written(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = journal_with(4)
    journal.fails = lambda name: "before" if name == "replay" and trio.current_time() < 10 else None
    async with open_write_behind_queue(store, SMALL, journal=journal) as queue:
        pass
    assert 10 <= trio.current_time() < 11
    assert_settled(queue, recovered=4, persisted=4)
    assert queue.metrics().durable


async def test_a_store_that_is_away_leaves_in_the_journal_what_it_held(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.down()
    journal = journal_with(30)
    async with open_write_behind_queue(store, SMALL, journal=journal) as queue:
        await trio.sleep(1)
    assert trio.current_time() == 21
    assert queue.metrics().recovering
    assert sorted(int(item.veri_key) for item in journal.rows.values()) == list(range(30))


# Which task leaves


async def test_only_the_task_that_entered_can_leave(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    manager = open_write_behind_queue(store)
    queue = await manager.__aenter__()
    errors: list[RuntimeError] = []

    async def leave() -> None:
        try:
            await manager.__aexit__(None, None, None)
        except RuntimeError as error:
            errors.append(error)

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # another task
            nursery.start_soon(leave, name="another")
    [error] = errors
    entered_by = trio.lowlevel.current_task().name
    assert str(error) == (
        f"a queue has to be left by the task that entered it, {entered_by}, and not by another"
    )
    assert queue.metrics().state is QueueState.RUNNING
    await queue.persist(Item("a"))  # it is open
    await manager.__aexit__(None, None, None)
    assert queue.metrics().state is QueueState.CLOSED
    assert_settled(queue, persisted=1)


async def test_the_deadline_hands_back_what_the_journal_does_not_keep(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.down()
    journal = MemoryJournal[Item]()
    journal.fails = lambda _: "before"
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, SMALL, journal=journal) as queue:
            await queue.enqueue(Item("a"))
    assert caught.value.undelivered == (Item("a"),)
