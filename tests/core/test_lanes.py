"""Several writers: lanes that go on without each other, and keys that stay in theirs."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueClosedError,
    QueueState,
    StoreUnavailableError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._core.lanes import Lanes
from provcache_trio._core.ledger import Ledger
from provcache_trio._core.line import Line
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provcache_trio import WriteBehindQueue

TWO = WriteBehindOptions(writers=2, batch_size=2, flush_interval_seconds=0)


class Picky:
    """A repository in which the calls with chosen keys stall or fail."""

    def __init__(self) -> None:
        self.stalled: set[str] = set()
        self.failing: dict[str, BaseException] = {}
        self.rows: list[Item] = []
        self.tries: list[float] = []
        self._changed = trio.Event()

    def mend(self) -> None:
        self.stalled.clear()
        self.failing.clear()
        self.look_again()

    def look_again(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        self.tries.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        while self.stalled.intersection(item.veri_key for item in entries):
            await self._changed.wait()
        for item in entries:
            if item.veri_key in self.failing:
                raise self.failing[item.veri_key]
        self.rows += entries
        return len(entries)


def one_of_each_lane(queue: WriteBehindQueue[Item]) -> list[Item]:
    """Return an entry of each lane, in the order of the lanes."""
    found: dict[int, Item] = {}
    lines = queue._lanes.lines
    for item in items(range(200)):
        found.setdefault(lines.index(queue._lanes.of(item.veri_key)), item)
    return [found[lane] for lane in range(len(lines))]


@pytest.fixture
def store() -> Picky:
    return Picky()


async def test_as_many_batches_are_written_at_once_as_there_are_writers(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item]()
    store.stall()
    async with open_write_behind_queue(store, WriteBehindOptions(writers=4)) as queue:
        await queue.enqueue_many(items(range(200)))
        with trio.move_on_after(1):
            await queue.flush()
        assert store.max_in_calls == 4
        store.resume()
    assert_settled(queue, persisted=200)


async def test_a_lane_that_is_held_up_holds_up_no_other(store: Picky) -> None:
    async with open_write_behind_queue(store, TWO) as queue:
        stuck, free = one_of_each_lane(queue)
        store.stalled.add(stuck.veri_key)
        await queue.enqueue(stuck)
        await queue.persist(free)
        assert store.rows == [free]
        store.mend()
    assert store.rows == [free, stuck]


async def test_versions_of_a_key_are_written_in_order(store: Picky) -> None:
    async with open_write_behind_queue(store, TWO) as queue:
        first, other = one_of_each_lane(queue)
        newer = Item(first.veri_key, version=1)
        store.stalled.add(first.veri_key)
        await queue.enqueue(first)
        await wait_all_tasks_blocked()
        await queue.enqueue(newer)
        await queue.persist(other)
        assert queue.pending(first.veri_key) == newer
        store.mend()
    assert store.rows == [other, first, newer]


async def test_a_flush_waits_for_every_lane(store: Picky, autojump_clock: MockClock) -> None:
    async with open_write_behind_queue(store, TWO) as queue:
        stuck, free = one_of_each_lane(queue)
        store.stalled.add(stuck.veri_key)
        await queue.enqueue_many([stuck, free])
        with trio.move_on_after(60) as scope:
            await queue.flush()
        assert scope.cancelled_caught
        store.mend()
        await queue.flush()
        assert len(store.rows) == 2


async def test_a_flush_has_every_lane_written_at_once(
    store: Picky, autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(
        store, WriteBehindOptions(writers=4, flush_interval_seconds=60)
    ) as queue:
        await queue.enqueue_many(one_of_each_lane(queue))
        await queue.flush()
        assert trio.current_time() == 0
        assert len(store.rows) == 4


async def test_a_flush_tells_that_one_lane_was_handed_back(store: Picky) -> None:
    told: list[type] = []

    async def flush(queue: WriteBehindQueue[Item]) -> None:
        with pytest.raises(QueueClosedError) as caught:
            await queue.flush()
        told.append(caught.type)

    options = WriteBehindOptions(writers=2, drain_timeout_seconds=0.01)
    async with trio.open_nursery() as nursery:
        with pytest.raises(DrainTimeoutError) as caught:
            async with open_write_behind_queue(store, options) as queue:
                free, stuck = one_of_each_lane(queue)
                store.stalled.add(stuck.veri_key)
                await queue.enqueue_many([free, stuck])
                nursery.start_soon(flush, queue)  # noqa: ASYNC111  # outlives it on purpose
                await wait_all_tasks_blocked()
    assert caught.value.undelivered == (stuck,)
    assert told == [QueueClosedError]


async def test_the_capacity_is_that_of_all_lanes_together(store: Picky) -> None:
    options = WriteBehindOptions(writers=2, queue_capacity=3, flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        some, other = one_of_each_lane(queue)
        for item in (some, other, *items(["another"])):
            queue.enqueue_nowait(item)
        with pytest.raises(trio.WouldBlock):
            queue.enqueue_nowait(*items(["one more"]))
        await queue.enqueue(*items(["one more"]))
    assert len(store.rows) == 4


async def test_a_full_queue_makes_room_by_writing_what_is_not_due_in_any_lane(
    store: Picky, autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(writers=2, queue_capacity=1, flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        started = autojump_clock.current_time()
        await queue.enqueue_many(one_of_each_lane(queue))  # the second lane is empty till then
        assert autojump_clock.current_time() == started


async def test_what_is_handed_back_is_in_the_order_of_its_batches(
    store: Picky, mock_clock: MockClock
) -> None:
    options = WriteBehindOptions(writers=2, batch_size=1, drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, options) as queue:
            some, other = one_of_each_lane(queue)
            store.stalled |= {some.veri_key, other.veri_key}
            alternating = [
                Item(item.veri_key, version) for version in range(3) for item in (other, some)
            ]
            for item in alternating:
                mock_clock.jump(0.001)
                await queue.enqueue(item)
                await wait_all_tasks_blocked()
    # The second version of each was replaced in line.
    assert caught.value.undelivered == (*alternating[:2], *alternating[4:])


async def test_the_first_lane_that_finds_the_store_again_wakes_the_others(
    store: Picky, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    options = WriteBehindOptions(writers=4, retry_base_seconds=1000, retry_cap_seconds=1000)
    async with open_write_behind_queue(store, options) as queue:
        each = one_of_each_lane(queue)
        store.failing = {item.veri_key: StoreUnavailableError("down") for item in each}
        await queue.enqueue_many(each)
        await trio.sleep(1)
        assert queue.metrics().state is QueueState.WAITING
        first_try_in = queue.metrics().next_try_in_seconds
        assert first_try_in is not None
        store.mend()
        began_at = trio.current_time()
        await queue.flush()
        assert trio.current_time() == pytest.approx(began_at + first_try_in)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "store lost" in line]) == 1
    assert lines.count("default: store found again") == 1


async def test_while_one_lane_cannot_write_the_queue_says_that_it_waits(
    store: Picky, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provcache_trio")
    options = WriteBehindOptions(writers=2, retry_base_seconds=100, retry_cap_seconds=100)
    async with open_write_behind_queue(store, options) as queue:
        locked, free = one_of_each_lane(queue)
        store.failing[locked.veri_key] = StoreUnavailableError("a lock")
        await queue.enqueue(locked)
        await trio.sleep(1)
        tries = len(store.tries)
        await queue.persist(free)
        await wait_all_tasks_blocked()
        assert queue.metrics().state is QueueState.WAITING
        assert len(store.tries) == tries + 1, "the other lane's success is no news of the lock"
        store.mend()
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "store lost" in line]) == 1
    assert lines.count("default: store found again") == 1


async def test_the_oldest_age_is_that_of_any_lane(store: Picky, autojump_clock: MockClock) -> None:
    async with open_write_behind_queue(store, TWO) as queue:
        ages: list[float] = []
        for item in reversed(one_of_each_lane(queue)):
            store.stalled.add(item.veri_key)
            await queue.enqueue(item)
            await trio.sleep(2)
            ages.append(queue.metrics().oldest_pending_seconds)
        assert ages == [2, 4]
        store.mend()


async def test_a_lane_whose_task_crashes_again_and_again_ends_the_queue(
    store: Picky, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WriteBehindCrashedError) as caught:
        async with open_write_behind_queue(store, TWO) as queue:
            fatal, free = one_of_each_lane(queue)
            store.failing[fatal.veri_key] = SystemExit("a bug")
            await queue.enqueue(fatal)
            for _ in range(100):  # what the other lane persists does not excuse this one
                await queue.persist(free)
                await trio.sleep(0.1)
    assert caught.value.undelivered == (fatal,)
    crashes = [record.__dict__["task"] for record in caplog.records if hasattr(record, "task")]
    assert crashes == ["writer 1"] * 3


async def test_crashes_of_the_shared_task_are_forgiven_when_any_lane_persists(
    autojump_clock: MockClock,
) -> None:
    store, sink = MemoryRepository[Item](), MemoryDeadLetters[Item]()
    async with open_write_behind_queue(store, TWO, dead_letters=sink) as queue:
        bad, good = one_of_each_lane(queue)
        store.reject(bad.veri_key)
        for version in range(5):
            sink.crash_next()
            await queue.enqueue(Item(bad.veri_key, version))
            await queue.flush()
            await queue.persist(good)
    assert_settled(queue, failed=5, persisted=5)


async def test_crashes_in_several_lanes_do_not_add_up(
    store: Picky, autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(writers=4, flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        each = one_of_each_lane(queue)
        store.failing = {item.veri_key: SystemExit("a bug") for item in each}
        await queue.enqueue_many(each)
        await trio.sleep(1.5)  # each lane's task has crashed twice
        store.mend()
        await queue.flush()
    assert_settled(queue, persisted=4)


async def test_crashes_of_the_shared_task_add_up_with_those_of_the_worst_lane(
    store: Picky, autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, WriteBehindOptions(writers=4)) as queue:
        lifetime = queue._lifetime
        in_a_row = [lifetime.note_crash(lane) for lane in (0, 1, None, 2, 2, None)]
        assert in_a_row == [1, 1, 2, 2, 3, 4]
        lifetime.note_persisted(2)
        assert [lifetime.note_crash(lane) for lane in (None, 2)] == [2, 2]


@pytest.mark.parametrize("first", [0, 1])
async def test_a_flush_during_a_replay_waits_for_every_lane(
    store: Picky, first: int, autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, TWO) as queue:
        each = one_of_each_lane(queue)
    journal = MemoryJournal(holds=dict(enumerate(each, 1)))
    store.stalled = {item.veri_key for item in each}
    flushed = trio.Event()
    async with (
        open_write_behind_queue(store, TWO, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):

        async def flush() -> None:
            await queue.flush()
            flushed.set()

        nursery.start_soon(flush)
        await trio.sleep(1)
        assert not queue.metrics().recovering
        store.stalled.remove(each[first].veri_key)
        store.look_again()
        await trio.sleep(1)
        assert store.rows == [each[first]]
        assert not flushed.is_set()
        store.mend()
    assert flushed.is_set()
    assert_settled(queue, recovered=2, persisted=2)


async def test_lanes_that_wait_for_the_sink_go_on_together(autojump_clock: MockClock) -> None:
    store, sink = MemoryRepository[Item](), MemoryDeadLetters[Item]()
    sink.down()
    async with open_write_behind_queue(store, TWO, dead_letters=sink) as queue:
        pairs = [items([n]) for n in range(12)]
        store.reject(*(item.veri_key for [item] in pairs))
        for [item] in pairs:
            await queue.enqueue(item)
        await trio.sleep(60)
        assert queue.metrics().state is QueueState.PAUSED
        sink.up()
        await queue.flush()
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, failed=12)


async def test_a_lane_that_is_stuck_is_older_than_a_younger_lanes_letter(
    store: Picky, autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(
        writers=2, flush_interval_seconds=0, drain_timeout_seconds=1, batch_size=2
    )
    sink = MemoryDeadLetters[Item]()
    sink.down()
    with pytest.raises(DrainTimeoutError) as caught:
        async with open_write_behind_queue(store, options, dead_letters=sink) as queue:
            old, young = one_of_each_lane(queue)
            store.stalled.add(old.veri_key)
            store.failing[young.veri_key] = EntryRejectedError("bad")
            await queue.enqueue(old)
            await trio.sleep(100)
            await queue.enqueue(young)
            await trio.sleep(10)
            assert sink.letters == []
            assert queue.metrics().oldest_pending_seconds == pytest.approx(110)
    assert caught.value.undelivered == queue.undelivered == (old, young)


class Table:
    """A repository that refuses every row until a person mends its table."""

    def __init__(self) -> None:
        self.broken = True
        self.rows: dict[str, Item] = {}
        self.slow: set[str] = set()

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        broken = self.broken
        if self.slow.intersection(item.veri_key for item in entries):
            await trio.sleep(60)
        await trio.sleep(0.01)
        if broken:
            raise EntryRejectedError("no such column", index=0, sqlstate="23502")
        self.rows.update((item.veri_key, item) for item in entries)
        return len(entries)


def of_lane(queue: WriteBehindQueue[Item], lane: int, many: int) -> list[Item]:
    lines = queue._lanes.lines
    found = [item for item in items(range(1000)) if queue._lanes.of(item.veri_key) is lines[lane]]
    return found[:many]


@pytest.mark.parametrize("seed", range(20))
async def test_what_one_lane_refused_under_suspicion_is_stored_whichever_lane_proves_the_store(
    seed: int, autojump_clock: MockClock
) -> None:
    random.seed(seed)  # which lane is the first to get through
    table = Table()
    async with open_write_behind_queue(table, WriteBehindOptions(writers=2)) as queue:
        await queue.enqueue_many(of_lane(queue, 0, 30))
        await trio.sleep(100)
        await queue.enqueue_many(of_lane(queue, 1, 1))
        await trio.sleep(100)
        assert queue.metrics().state is QueueState.WAITING
        table.broken = False
        await trio.sleep(1000)
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, persisted=31, failed=0)


async def test_a_slow_call_that_began_before_the_store_broke_is_no_proof(
    autojump_clock: MockClock,
) -> None:
    table = Table()
    table.broken = False
    async with open_write_behind_queue(table, WriteBehindOptions(writers=2)) as queue:
        (slow,) = of_lane(queue, 1, 1)
        table.slow.add(slow.veri_key)
        await queue.enqueue(slow)
        await trio.sleep(1)
        table.broken = True
        await queue.enqueue_many(of_lane(queue, 0, 40))
        await trio.sleep(600)
        assert slow.veri_key in table.rows
        assert queue.metrics().state is QueueState.WAITING
        assert queue.metrics().total_failed == 0
        table.broken = False
        await queue.flush()
    assert_settled(queue, persisted=41, failed=0)


async def test_a_batch_of_only_bad_entries_is_refused_for_good_once_another_lane_is_proof(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository[Item]()
    async with open_write_behind_queue(store, WriteBehindOptions(writers=2)) as queue:
        bad = of_lane(queue, 0, 45)
        store.reject(*(item.veri_key for item in bad))
        await queue.enqueue_many(bad)
        await trio.sleep(100)
        assert queue.metrics().state is QueueState.WAITING
        for item in of_lane(queue, 1, 5):
            await queue.persist(item)
            await trio.sleep(100)
        assert queue.metrics().state is QueueState.RUNNING
        assert queue.metrics().total_failed == 45
    assert_settled(queue, persisted=5, failed=45)


async def test_another_lane_s_success_does_not_condemn_what_fails_for_an_unknown_reason(
    store: Picky, autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(writers=2, max_retries=None, flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        broken, good = of_lane(queue, 0, 2), of_lane(queue, 1, 30)
        store.failing.update((item.veri_key, RuntimeError("odd")) for item in broken)
        await queue.enqueue_many(broken)
        for item in good:
            await queue.persist(item)
            await trio.sleep(10)
        assert queue.metrics().total_failed == 0
        store.mend()
    assert_settled(queue, persisted=32, failed=0)


async def test_what_failed_alone_and_is_then_refused_counts_once(
    store: Picky, autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, WriteBehindOptions(writers=2)) as queue:
        await fail_alone_and_be_refused(queue, store, of_lane(queue, 0, 19))
        assert queue.metrics().state is QueueState.RUNNING
    assert_settled(queue, failed=19)


async def test_what_failed_alone_before_another_lane_was_proof_counts_again_when_it_is_refused(
    store: Picky, autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, WriteBehindOptions(writers=2)) as queue:
        entries = of_lane(queue, 0, 25)
        good = of_lane(queue, 1, 1)
        await fail_alone_and_be_refused(queue, store, entries[:19], proof=good)
        store.failing.update((item.veri_key, EntryRejectedError("no")) for item in entries[19:])
        await queue.enqueue_many(entries[19:])
        await trio.sleep(100)
        assert queue.metrics().state is QueueState.WAITING
        store.mend()
    assert_settled(queue, persisted=7, failed=19)


async def fail_alone_and_be_refused(
    queue: WriteBehindQueue[Item], store: Picky, entries: list[Item], proof: Sequence[Item] = ()
) -> None:
    store.failing.update((item.veri_key, RuntimeError("odd")) for item in entries)
    await queue.enqueue_many(entries)
    await trio.sleep(10)
    for item in proof:
        await queue.persist(item)
    store.failing.update((item.veri_key, EntryRejectedError("no")) for item in entries)
    await trio.sleep(100)


async def test_a_lane_without_refusals_does_not_wait_for_another_lanes_letters(
    store: Picky, autojump_clock: MockClock
) -> None:
    sink = MemoryDeadLetters[Item](latency_seconds=4)
    async with open_write_behind_queue(store, TWO, dead_letters=sink) as queue:
        good, bad = one_of_each_lane(queue)
        store.failing[bad.veri_key] = EntryRejectedError("bad")
        await queue.enqueue(bad)
        await trio.sleep(1)
        began = trio.current_time()
        await queue.persist(good)
        await queue.enqueue(good)
        await trio.sleep(0.1)
        assert trio.current_time() - began < 0.2
        assert store.rows == [good, good]
    assert_settled(queue, persisted=2, failed=1)


@pytest.mark.parametrize("step", [1, 2, 4, 64, 1000])
@pytest.mark.parametrize("writers", [2, 3, 4, 8])
def test_keys_that_follow_a_pattern_are_spread_over_the_lanes(writers: int, step: int) -> None:
    lines = [
        Line[Item](batch_size=1, coalesce=True, merge=None, ledger=Ledger(), clock=float)
        for _ in range(writers)
    ]
    lanes = Lanes(lines)
    chosen = [lines.index(lanes.of(number)) for number in range(0, step * 1000, step)]
    for lane in range(writers):
        assert chosen.count(lane) == pytest.approx(1000 / writers, rel=0.4)
