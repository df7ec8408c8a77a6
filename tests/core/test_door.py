"""Who waits, who is admitted and in what order: while a journal is replayed, and after that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    EntryRejectedError,
    JournalError,
    QueueClosedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import Failure, MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trio.testing import MockClock

    from provcache_trio import WriteBehindQueue

SLOW = WriteBehindOptions(queue_capacity=3, batch_size=1, flush_interval_seconds=1000)


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


class Callers:
    """Tasks that wait with an entry each, begun one after another."""

    def __init__(self, queue: WriteBehindQueue[Item], nursery: trio.Nursery) -> None:
        self.queue = queue
        self.nursery = nursery
        self.returned: list[Item] = []
        self.errors: list[Exception] = []

    async def begin(self, *brought: Item) -> None:
        for item in brought:
            self.nursery.start_soon(self._bring, item)
            await trio.sleep(0.001)

    async def _bring(self, item: Item) -> None:
        try:
            await self.queue.enqueue(item)
        except Exception as error:  # noqa: BLE001  # whatever it was, a test wants to see it
            self.errors.append(error)
        else:
            self.returned.append(item)


async def until_replayed(queue: WriteBehindQueue[Item]) -> None:
    while queue.metrics().recovering:  # noqa: ASYNC110  # on the virtual clock
        await trio.sleep(0.01)


# After a replay


@pytest.mark.one_lane
async def test_whose_key_the_journal_brought_into_line_is_admitted_before_later_calls(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    journal = MemoryJournal(holds={1: Item("K", -2), 2: Item("L", -1)}, latency_seconds=1)
    async with (
        open_write_behind_queue(store, SLOW, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items("XYZ"), Item("L", 1), Item("L", 2))
        await until_replayed(queue)
        await trio.sleep(0.001)
        # K is with the writer and L in line: there was room for X and Y.
        assert set(callers.returned) == {*items("XY"), Item("L", 1), Item("L", 2)}
        assert queue.metrics().current_queue_depth == 3
        assert queue.metrics().producers_waiting == 1
        assert queue.pending("L") == Item("L", 2)
        await queue.enqueue(Item("L", 3))
        assert queue.pending("L") == Item("L", 3)
        store.resume()
    assert [call[0] for call in store.calls] == [Item("K", -2), Item("L", 3), *items("XYZ")]


async def test_when_a_replay_is_over_whoever_waits_is_admitted(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = MemoryJournal(holds={1: Item("K")}, latency_seconds=1)
    async with (
        open_write_behind_queue(store, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items("abc"))
        with trio.fail_after(3):
            await until_replayed(queue)
        await trio.sleep(0.001)
        assert set(callers.returned) == set(items("abc"))


@pytest.mark.one_lane
async def test_without_coalescing_who_waited_during_a_replay_comes_first_come_first_served(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=2, batch_size=1, coalesce=False)
    journal = MemoryJournal(holds={1: Item("K", -1), 2: Item("L", -1)}, latency_seconds=1)
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(Item("X"), Item("L", 1), Item("L", 2))
        await until_replayed(queue)
        await trio.sleep(0.001)
        assert callers.returned == [Item("X")]
        store.resume()
    assert [call[0].version for call in store.calls if call[0].veri_key == "L"] == [-1, 1, 2]


@pytest.mark.one_lane
async def test_what_waits_with_a_key_in_line_needs_no_room_before_the_disk_either(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=2, batch_size=1)
    journal = MemoryJournal[Item](always=True, latency_seconds=0.1)
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items("abc"))  # a is written, b and c fill the line
        await trio.sleep(1)
        await callers.begin(Item("x"), Item("c", 1), Item("x", 1), Item("c", 2), Item("b", 1))
        await trio.sleep(1)
        assert set(callers.returned[3:]) == {Item("c", 1), Item("c", 2), Item("b", 1)}
        store.resume()
    assert [call[0] for call in store.calls] == [
        *(Item("a"), Item("b", 1), Item("c", 2), Item("x"), Item("x", 1)),
    ]


class CountingJournal(MemoryJournal[Item]):
    """Notes how many entries each call brings."""

    def __init__(self) -> None:
        super().__init__(always=True, latency_seconds=1)
        self.brought: list[int] = []

    async def append(
        self, entries: Sequence[tuple[Item, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        self.brought.append(len(entries))
        return await super().append(entries, settled)


@pytest.mark.one_lane
async def test_no_more_than_250_go_to_the_disk_at_once_however_many_wait_with_keys_in_line(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=2, batch_size=1)
    journal = CountingJournal()
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items("abc"))  # a is written, b and c fill the line
        await trio.sleep(5)
        del journal.brought[:]
        versions = [Item(key, version) for version in range(1, 301) for key in "bc"]
        await callers.begin(*versions)  # while the first of them is written
        await trio.sleep(5)
        assert journal.brought == [1, 250, 250, 99]
        assert set(callers.returned[3:]) == set(versions)
        store.resume()
    assert [call[0] for call in store.calls] == [Item("a"), Item("b", 300), Item("c", 300)]


@pytest.mark.one_lane
async def test_who_waits_with_a_key_in_line_learns_that_the_disk_fails_however_many_they_are(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=1, batch_size=1)
    journal = CountingJournal()
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items("ab"))  # a is written, and b fills the line
        await trio.sleep(5)
        journal.fails = lambda _: "before"
        await callers.begin(*(Item("b", version) for version in range(1, 300)))
        await trio.sleep(5)
        assert [type(error) for error in callers.errors] == [JournalError] * 299
        store.resume()


@pytest.mark.one_lane
async def test_who_shares_a_key_with_the_one_who_got_the_last_room_is_admitted_after_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 10
    options = WriteBehindOptions(queue_capacity=1, batch_size=1, drain_timeout_seconds=100)
    journal = MemoryJournal[Item](always=True, latency_seconds=0.1)
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items("ax"))  # a is written, and x fills the line
        await trio.sleep(1)
        await callers.begin(Item("b"), Item("c"), Item("b", 1), Item("b", 2))
        await trio.sleep(1)
        assert len(callers.returned) == 2
        await trio.sleep(10)  # now x is written
        assert set(callers.returned[2:]) == {Item("b"), Item("b", 1), Item("b", 2)}
    assert [call[0] for call in store.calls] == [*items("ax"), Item("b", 2), Item("c")]


async def test_closing_says_what_they_waited_for(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    journal = MemoryJournal(holds={1: Item("K")})
    journal.waits = trio.Event()
    options = WriteBehindOptions(drain_timeout_seconds=0)
    async with (
        trio.open_nursery() as nursery,
        open_write_behind_queue(store, options, journal=journal) as queue,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(Item("x"))
        nursery.start_soon(_later, journal.waits.set)
    [error] = callers.errors
    assert isinstance(error, QueueClosedError)
    assert "before the journal had it" in str(error)


async def _later(what: Callable[[], None]) -> None:
    await trio.sleep(1)
    what()


@pytest.mark.one_lane
async def test_those_who_still_wait_when_others_were_admitted_have_a_full_line_written(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=2, batch_size=10, flush_interval_seconds=1000)
    async with (
        open_write_behind_queue(store, options) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(*items(range(9)))
        store.resume()
        await trio.sleep(1)
        assert len(callers.returned) == 9


async def test_a_full_queue_has_the_heads_of_all_its_lines_written(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(
        queue_capacity=2, batch_size=10, flush_interval_seconds=1000, writers=4
    )
    async with open_write_behind_queue(store, options) as queue:
        lines = queue._lanes.lines
        by_lane = {lines.index(queue._lanes.of(item.veri_key)): item for item in items(range(99))}
        for first in range(4):  # whichever line is full
            for lane in (first, (first + 1) % 4, (first + 2) % 4):
                item = by_lane[lane]
                await queue.enqueue(Item(item.veri_key, first))
            await queue.flush()
        assert trio.current_time() == 0


# A merge that raises


def no_merge(older: Item, newer: Item) -> Item:
    raise ValueError("these two don't merge")


@pytest.mark.one_lane
@pytest.mark.parametrize("always", [False, True])
async def test_versions_in_a_journal_that_do_not_merge_are_both_written_in_order(
    store: MemoryRepository[Item],
    always: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    holds = {1: Item("a", 1), 2: Item("b", 1), 3: Item("a", 2), 4: Item("c", 1), 5: Item("a", 3)}
    journal = MemoryJournal(holds=holds, always=always)
    async with open_write_behind_queue(store, journal=journal, merge=no_merge) as queue:
        await queue.flush()
        assert store.rows == {"a": Item("a", 3), "b": Item("b", 1), "c": Item("c", 1)}
    assert [list(call) for call in store.calls] == [
        [Item("a", 1), Item("b", 1)],
        [Item("a", 2), Item("c", 1)],
        [Item("a", 3)],
    ]
    assert_settled(queue, recovered=5, persisted=5, coalesced=0)
    assert journal.aside == []
    assert journal.rows == {}
    lines = [record for record in caplog.records if "does not merge" in record.getMessage()]
    assert [(record.levelno, record.__dict__["key"]) for record in lines] == [
        (logging.ERROR, "a"),
        (logging.ERROR, "a"),
    ]
    assert "these two" not in caplog.text


@pytest.mark.one_lane
async def test_the_newer_of_two_that_do_not_merge_is_judged_by_the_store(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    letters = MemoryDeadLetters[Item]()
    store.reject("a")
    journal = MemoryJournal(holds={1: Item("a", 1), 2: Item("a", 2)})
    async with open_write_behind_queue(
        store, journal=journal, merge=no_merge, dead_letters=letters
    ) as queue:
        await queue.flush()
        assert [letter.entry for letter in letters.letters] == [Item("a", 1), Item("a", 2)]
    assert_settled(queue, recovered=2, failed=2)


@pytest.mark.one_lane
async def test_who_waits_with_a_key_that_does_not_merge_is_told_and_the_others_are_admitted(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    journal = MemoryJournal(holds={1: Item("K"), 2: Item("a", 1)}, latency_seconds=1)
    async with (
        open_write_behind_queue(store, SLOW, journal=journal, merge=no_merge) as queue,
        trio.open_nursery() as nursery,
    ):
        callers = Callers(queue, nursery)
        await callers.begin(Item("a", 2), Item("b"))
        await until_replayed(queue)
        await trio.sleep(0.001)
        assert callers.returned == [Item("b")]
        assert [str(error) for error in callers.errors] == ["these two don't merge"]
        store.resume()
    assert_settled(queue, recovered=2, enqueued=1, persisted=3)


async def test_an_entry_of_a_journal_without_a_key_is_set_aside_and_costs_nothing_else(
    store: MemoryRepository[Item], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    holds = {1: Item("a"), 2: Item(""), 3: Item("b"), 4: Item("")}
    journal = MemoryJournal(holds=holds)
    failures: Iterator[Failure] = iter(["before"])
    journal.fails = lambda name: next(failures, None) if name == "set_aside" else None

    def key(item: Item) -> str:
        if not item.veri_key:
            raise LookupError("no key")
        return item.veri_key

    async with open_write_behind_queue(store, journal=journal, key=key) as queue:
        await queue.flush()
        assert journal.aside == [2, 4]
        assert set(store.rows) == {"a", "b"}
    assert_settled(queue, recovered=2, persisted=2)
    assert caplog.text.count("has no key, and is set aside") == 2


# Lanes


async def test_what_is_replayed_is_spread_over_the_lanes_as_what_is_accepted(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    many = items(range(40))
    store.latency_seconds = 1
    journal = MemoryJournal(holds=dict(enumerate(many, 1)))
    options = WriteBehindOptions(writers=4)
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        await until_replayed(queue)
        for item in many:
            assert queue.pending(item.veri_key) == item
        assert store.max_in_calls == 4
    assert_settled(queue, recovered=40, persisted=40)


@pytest.mark.one_lane
async def test_what_was_replayed_does_not_wait_for_the_interval(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=1000, batch_size=4)
    journal = MemoryJournal(holds=dict(enumerate(items(range(10)), 1)))
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        await trio.sleep(1)
        assert [len(call) for call in store.calls] == [4, 4, 2]
        assert queue.metrics().flushes_due == 3


async def test_an_entry_that_the_disk_does_not_take_is_the_callers_again(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = MemoryJournal[Item](always=True)
    journal.fails = lambda _: "before"
    async with open_write_behind_queue(store, journal=journal) as queue:
        with pytest.raises(JournalError):
            await queue.enqueue(Item("a"))
        with pytest.raises(JournalError):
            await queue.persist(Item("a"))
    assert_settled(queue, enqueued=0)


async def test_a_refused_entry_of_a_replay_is_a_letter(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    letters = MemoryDeadLetters[Item]()
    store.reject("a")
    journal = MemoryJournal(holds={1: Item("a"), 2: Item("b")})
    async with open_write_behind_queue(store, journal=journal, dead_letters=letters) as queue:
        await queue.flush()
        assert [letter.key for letter in letters.letters] == ["a"]
        with pytest.raises(EntryRejectedError):
            await queue.persist(Item("a", 2))
    assert journal.rows == {}
    assert_settled(queue, recovered=2, enqueued=1, failed=2, persisted=1)
