"""What the journal's task writes and when, seen by a journal in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import DrainTimeoutError, WriteBehindOptions, open_write_behind_queue
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, assert_settled, items
from tests.support.journals import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio.testing import MockClock

    from tests.support.journals import Failure

AT_ONCE = WriteBehindOptions(flush_interval_seconds=0)
TOO_MANY = 10_000


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


class Watched(MemoryJournal[Item]):
    """A journal that remembers what it was asked to write."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[Item] = []
        self.longest = 0  # of what one call wrote

    async def append(
        self, entries: Sequence[tuple[Item, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        self.appended += [entry for entry, _ in entries]
        # Else a recorder that never has done would keep the test from its end.
        assert len(self.appended) < TOO_MANY, "the same is written again and again"
        self.longest = max(self.longest, len(entries))
        return await super().append(entries, settled)


def held(journal: MemoryJournal[Item]) -> list[Item]:
    return [entry for _, entry in sorted(journal.rows.items())]


async def test_what_is_on_disk_is_accepted_though_the_call_after_it_fails(
    autojump_clock: MockClock,
) -> None:
    journal = MemoryJournal[Item](always=True, latency_seconds=1)
    # a, b, and then that a was settled while b was written.
    outcomes: Iterator[Failure] = iter([None, None, "before"])
    journal.fails = lambda _: next(outcomes, None)
    store = MemoryRepository[Item](latency_seconds=0.5)
    async with open_write_behind_queue(store, AT_ONCE, journal=journal) as queue:
        await queue.enqueue(Item("a"))
        await queue.enqueue(Item("b"))
        assert next(outcomes, None) is None
    assert held(journal) == []
    assert_settled(queue, persisted=2)


# Letters


async def test_a_letter_that_comes_while_the_sink_is_called_stays_until_the_sink_has_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("a", "b")
    sink = MemoryDeadLetters[Item](latency_seconds=2)
    sink.fail_next(OSError("as the test asked"))
    journal = MemoryJournal[Item]()
    options = WriteBehindOptions(flush_interval_seconds=0, retry_base_seconds=0.001)
    async with open_write_behind_queue(store, options, dead_letters=sink, journal=journal) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(3)  # the sink has failed, and is called again
        await queue.enqueue(Item("b"))
        await trio.sleep(0.5)
        assert held(journal) == items("ab")
        await trio.sleep(1)  # now it has a, and is called with b
        assert [letter.key for letter in sink.letters] == ["a"]
        assert held(journal) == items("b")
        await trio.sleep(2)
        assert [letter.key for letter in sink.letters] == ["a", "b"]
        assert held(journal) == []
    assert_settled(queue, failed=2)


async def test_a_letter_that_waits_for_its_sink_is_written_once(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("a")
    sink = MemoryDeadLetters[Item]()
    sink.down()
    journal = Watched()
    async with open_write_behind_queue(store, AT_ONCE, dead_letters=sink, journal=journal) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(60)
        assert held(journal) == items("a")
        assert journal.appended == items("a")
        sink.up()


# Rewriting


async def test_what_is_settled_while_the_journal_is_rewritten_leaves_it_all_the_same(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    journal = MemoryJournal[Item]()

    def hold_up(name: str) -> None:
        if name == "rewrite" and journal.shrinks:
            journal.shrinks = False  # once is enough
            journal.waits = trio.Event()

    async with open_write_behind_queue(store, AT_ONCE, journal=journal) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(1)
        journal.fails, journal.shrinks = hold_up, True
        await queue.enqueue(Item("b"))  # so that it writes
        await trio.sleep(1)
        assert journal.in_call
        store.resume()
        await queue.flush()
        journal.waits.set()
        await trio.sleep(1)
        assert held(journal) == []


async def test_what_a_rewrite_can_not_write_is_not_said_to_be_durable(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    class Forgetful(MemoryJournal[Item]):
        """Can't write what it has written before."""

        async def rewrite(self, entries: Sequence[Item], /) -> Sequence[int | None]:
            await super().rewrite([])
            return [None for _ in entries]

    store.down()
    journal = Forgetful()
    options = WriteBehindOptions(flush_interval_seconds=0, drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError):
        async with open_write_behind_queue(store, options, journal=journal) as queue:
            await queue.enqueue(Item("a"))
            await trio.sleep(1)
            assert queue.metrics().durable
            journal.shrinks = True
            await queue.enqueue(Item("b"))
            await trio.sleep(0.2)
            journal.shrinks = False
            await trio.sleep(1)
            assert not queue.metrics().durable


@pytest.mark.parametrize("holds_something", [False, True])
async def test_a_journal_that_heals_by_itself_is_emptied_first_if_it_holds_nothing(
    store: MemoryRepository[Item], holds_something: bool, autojump_clock: MockClock
) -> None:
    class Healing(MemoryJournal[Item]):
        heals = True

        async def append(
            self, entries: Sequence[tuple[Item, Sequence[int]]], settled: Sequence[int], /
        ) -> Sequence[int | None]:
            self._is_trusted = True
            return await super().append(entries, settled)

    journal, calls, is_broken = Healing(), list[str](), False

    def fails(name: str) -> Failure:
        calls.append(name)
        return "before" if is_broken and name == "append" else None

    async with open_write_behind_queue(store, journal=journal) as queue:
        if holds_something:
            store.down()
        await queue.enqueue(Item("a"))
        await trio.sleep(1)
        assert queue.metrics().durable
        journal.fails, is_broken = fails, True
        await queue.enqueue(Item("b"))
        await trio.sleep(1)
        is_broken = False
        await trio.sleep(2)
        assert queue.metrics().durable
        assert ("rewrite" in calls) is not holds_something
        store.up()


async def test_a_large_batch_is_written_in_several_calls(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    journal = Watched()
    options = WriteBehindOptions(batch_size=2000, flush_interval_seconds=60)
    async with open_write_behind_queue(store, options, journal=journal) as queue:
        await queue.enqueue_many(Item(str(number)) for number in range(1800))
        await trio.sleep(1)
        assert len(held(journal)) == 1800
        assert journal.longest <= 500
        assert queue.metrics().durable
        store.resume()


# Batches that join


@pytest.mark.one_lane
async def test_what_joined_another_batch_is_in_the_journal_until_it_is_settled(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    journal = MemoryJournal[Item]()
    async with (
        open_write_behind_queue(store, AT_ONCE, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        for key in "abc":
            await queue.enqueue(Item(key))
            nursery.start_soon(queue.flush)
            await trio.sleep(0.1)
        assert held(journal) == items("abc")
        store.resume()
        await trio.sleep(0.2)
        assert [list(call) for call in store.calls] == [items("a"), items("bc")]
        assert held(journal) == []


@pytest.mark.one_lane
@pytest.mark.parametrize("replaced", ["bc", "b", "c"])
async def test_what_joined_another_batch_before_it_was_written_is_written_all_the_same(
    store: MemoryRepository[Item], replaced: str, autojump_clock: MockClock
) -> None:
    store.latency_seconds = 3
    journal = MemoryJournal[Item]()
    journal.sync_interval_seconds = 1.2
    async with (
        open_write_behind_queue(store, AT_ONCE, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        for key in "abc":
            await queue.enqueue(Item(key))
            nursery.start_soon(queue.flush)
            await trio.sleep(0.001)
        await trio.sleep(2.5)
        assert held(journal) == items("abc")
        for key in replaced:
            await queue.enqueue(Item(key, 1))
        await trio.sleep(0.8)
        expected = [Item(key, int(key in replaced)) for key in "bc"]
        assert list(store.calls[-1]) == expected  # they joined
        assert held(journal) == items("abc")
        await trio.sleep(1)
        assert sorted(held(journal), key=lambda item: item.veri_key) == expected
    assert journal.rows == {}


@pytest.mark.one_lane
async def test_versions_are_written_in_the_order_of_their_batches(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    """Although a younger batch was marked first: a replay would end with the wrong version."""
    store.latency_seconds = 3
    journal = MemoryJournal[Item]()
    journal.sync_interval_seconds = 1.2
    async with (
        open_write_behind_queue(store, AT_ONCE, journal=journal) as queue,
        trio.open_nursery() as nursery,
    ):
        await queue.enqueue(Item("x"))
        await trio.sleep(0.001)
        await queue.enqueue(Item("a"))
        nursery.start_soon(queue.flush)
        await trio.sleep(2.5)
        await queue.enqueue(Item("b"))  # opens a batch and marks it
        await queue.enqueue(Item("a", 1))  # marks the batch before
        await trio.sleep(0.6)
        assert list(store.calls[-1]) == [Item("a", 1)]
        await queue.enqueue(Item("a", 2))  # in the batch of b
        await trio.sleep(0.9)
        assert [item.version for item in held(journal) if item.veri_key == "a"] == [1, 2]


async def test_an_entry_that_is_settled_before_it_was_written_is_never_written(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    journal = Watched()
    async with open_write_behind_queue(store, AT_ONCE, journal=journal) as queue:
        await queue.persist(Item("a"))
        await trio.sleep(1)
        assert journal.appended == []
