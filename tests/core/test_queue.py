"""Accepting: every call of the queue, coalescing, waiting for room, and waiting for a fate."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from provcache_trio import (
    EntryRejectedError,
    Histogram,
    QueueClosedError,
    QueueState,
    Table,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item, assert_settled, balance, items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from provcache_trio import WriteBehindQueue


@pytest.fixture
def store() -> MemoryRepository[Item]:
    return MemoryRepository[Item]()


SMALL = WriteBehindOptions(queue_capacity=4, batch_size=2, flush_interval_seconds=1)


async def test_an_entry_is_written_when_the_flush_interval_is_over(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(0.999)
        assert store.calls == []
        await trio.sleep(0.002)
        assert store.calls == [(Item("a"),)]
    assert_settled(queue, enqueued=1, persisted=1, batches=1)


@pytest.mark.one_lane
async def test_a_full_batch_is_written_at_once(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items("ab"))
        await wait_all_tasks_blocked()
        assert store.calls == [tuple(items("ab"))]
        assert trio.current_time() == 0


@pytest.mark.one_lane
async def test_a_batch_waiting_for_a_busy_writer_goes_on_filling(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(batch_size=10, flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("a"))
        await wait_all_tasks_blocked()
        for key in "bcd":
            await queue.enqueue(Item(key))
            await trio.sleep(1)
        store.resume()
    assert store.calls == [tuple(items("a")), tuple(items("bcd"))]


@pytest.mark.one_lane
async def test_the_interval_counts_from_the_oldest_entry(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=1)
    async with open_write_behind_queue(store, options) as queue:
        for key in range(4):
            await queue.enqueue(Item(str(key)))
            await trio.sleep(0.375)
        assert store.calls == [tuple(items(range(3)))]


async def test_enqueue_is_a_checkpoint_and_enqueue_nowait_is_not(
    store: MemoryRepository[Item],
) -> None:
    async with open_write_behind_queue(store) as queue:
        with assert_checkpoints():
            await queue.enqueue(Item("a"))
        with assert_no_checkpoints():
            queue.enqueue_nowait(Item("b"))
        with assert_checkpoints():
            await queue.enqueue_many([])
        with assert_checkpoints():
            await queue.flush()
        with assert_checkpoints():
            await queue.flush()


async def test_a_cancelled_enqueue_leaves_no_trace(store: MemoryRepository[Item]) -> None:
    async with open_write_behind_queue(store) as queue:
        with trio.CancelScope() as scope:
            scope.cancel()
            await queue.enqueue(Item("a"))
        assert scope.cancelled_caught
        assert queue.metrics().total_enqueued == 0
    assert store.rows == {}


@pytest.mark.one_lane
async def test_enqueue_many_accepts_any_iterable_and_holds_back_nothing(
    store: MemoryRepository[Item],
) -> None:
    taken: list[str] = []

    def source() -> Iterator[Item]:
        for key in "abcdefgh":
            taken.append(key)
            yield Item(key)

    store.stall()
    async with open_write_behind_queue(store, SMALL) as queue:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue_many, source())
            await wait_all_tasks_blocked()
            accepted = queue.metrics().total_enqueued
            assert accepted == 6  # two are being written, four wait in line
            assert taken == list("abcdefg")  # the last one waits for room
            nursery.cancel_scope.cancel()
        assert queue.metrics().total_enqueued == accepted
        store.resume()
    assert list(store.rows) == list("abcdef")


@pytest.mark.one_lane
@pytest.mark.parametrize("kind", [list, tuple, iter])
async def test_enqueue_many_takes_every_kind_of_iterable_in_its_order(
    kind: Callable[[list[Item]], Iterable[Item]], store: MemoryRepository[Item]
) -> None:
    everything = items(range(1250))
    store.stall()
    options = WriteBehindOptions(batch_size=10, queue_capacity=700)
    async with open_write_behind_queue(store, options) as queue:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue_many, kind(everything))
            await wait_all_tasks_blocked()
            assert queue.metrics().total_enqueued == 710
            store.resume()
        assert queue.metrics().total_enqueued == 1250
    assert list(store.rows.values()) == everything


async def test_enqueue_many_returns_the_number_of_accepted_entries(
    store: MemoryRepository[Item],
) -> None:
    async with open_write_behind_queue(store) as queue:
        assert await queue.enqueue_many(items("aab")) == 3
        assert queue.metrics().total_coalesced == 1


@pytest.mark.parametrize("size", [10, 600])
async def test_enqueue_many_lets_other_tasks_run_every_batch_size_entries(
    size: int, store: MemoryRepository[Item]
) -> None:
    steps = 0

    async def bystander() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    options = WriteBehindOptions(batch_size=size)
    async with open_write_behind_queue(store, options) as queue, trio.open_nursery() as nursery:
        nursery.start_soon(bystander)
        await queue.enqueue_many(items(range(3000)))
        assert 3000 // size - 1 <= steps <= 3000 // size + 10
        nursery.cancel_scope.cancel()


@pytest.mark.one_lane
async def test_enqueue_many_tells_where_the_closed_queue_stopped_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    refused: list[QueueClosedError] = []

    async def produce(queue: WriteBehindQueue[Item]) -> None:
        try:
            await queue.enqueue_many(items(range(100)))
        except QueueClosedError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        async with open_write_behind_queue(store, SMALL) as queue:
            nursery.start_soon(produce, queue)  # noqa: ASYNC111  # outlives the queue
            await wait_all_tasks_blocked()
            nursery.start_soon(store_up_later, store)
        assert [error.accepted for error in refused] == [6]
    assert_settled(queue, enqueued=6, persisted=6)


async def test_entries_that_call_a_closed_queue_do_not_hide_how_many_were_accepted(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, SMALL) as closed:
        pass

    def calling() -> Iterator[Item]:
        yield from items("ab")
        closed.enqueue_nowait(Item("c"))

    async with open_write_behind_queue(store, SMALL) as queue:
        with pytest.raises(QueueClosedError) as caught:
            await queue.enqueue_many(calling())
    assert caught.value.accepted == 2
    assert_settled(queue, enqueued=2, persisted=2)


async def store_up_later(store: MemoryRepository[Item]) -> None:
    await trio.sleep(1)
    store.resume()


async def test_what_the_iterable_raises_arrives_and_what_it_gave_is_kept(
    store: MemoryRepository[Item],
) -> None:
    def source() -> Iterator[Item]:
        yield Item("a")
        raise LookupError("no more")

    async with open_write_behind_queue(store) as queue:
        with pytest.raises(LookupError, match="no more"):
            await queue.enqueue_many(source())
    assert list(store.rows) == ["a"]


async def test_enqueue_nowait_would_block_when_full(store: MemoryRepository[Item]) -> None:
    async with open_write_behind_queue(store, SMALL) as queue:
        for item in items("abcd"):
            queue.enqueue_nowait(item)
        with pytest.raises(trio.WouldBlock):
            queue.enqueue_nowait(Item("e"))
        assert queue.metrics().total_refused == 1
        assert queue.metrics().total_enqueued == 4


@pytest.mark.one_lane
async def test_a_key_in_line_is_admitted_though_the_queue_is_full(
    store: MemoryRepository[Item],
) -> None:
    async with open_write_behind_queue(store, SMALL) as queue:
        for item in items("abcd"):
            queue.enqueue_nowait(item)
        queue.enqueue_nowait(Item("a", 1))  # in a sealed batch
        await queue.enqueue(Item("d", 1))  # in the open one
        assert queue.metrics().total_coalesced == 2
    assert store.rows["a"] == Item("a", 1)
    assert store.rows["d"] == Item("d", 1)
    assert_settled(queue, enqueued=6, persisted=4, coalesced=2)


@pytest.mark.one_lane
async def test_nobody_overtakes_producers_that_wait(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    accepted: list[str] = []

    async def produce(queue: WriteBehindQueue[Item], key: str) -> None:
        await queue.enqueue(Item(key))
        accepted.append(key)

    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items(range(6)))
        async with trio.open_nursery() as nursery:
            for key in "abcdefg":
                nursery.start_soon(produce, queue, key)
                await wait_all_tasks_blocked()
            assert queue.metrics().producers_waiting == 7
            with pytest.raises(trio.WouldBlock):
                queue.enqueue_nowait(Item("late"))
            store.resume()
            await wait_all_tasks_blocked()
    assert [item.veri_key for call in store.calls[3:] for item in call] == list("abcdefg")
    assert sorted(accepted) == list("abcdefg")


@pytest.mark.one_lane
async def test_a_merge_function_does_not_overtake_producers_that_wait_either(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    refused: list[Item] = []

    def merge(_: Item, new: Item) -> Item:
        try:
            queue.enqueue_nowait(Item("w", 2))
        except trio.WouldBlock:
            refused.append(new)
        return new

    async with open_write_behind_queue(store, SMALL, merge=merge) as queue:
        with trio.fail_after(60):
            await queue.enqueue_many(items(range(6)))
            async with trio.open_nursery() as nursery:
                for item in [Item("k", 1), Item("k", 2), Item("w", 1)]:
                    nursery.start_soon(queue.enqueue, item)
                    await wait_all_tasks_blocked()
                store.resume()
            await wait_all_tasks_blocked()
        queue.enqueue_nowait(Item("x"))
    assert refused == [Item("k", 2)]
    assert store.rows["w"] == Item("w", 1)
    assert_settled(queue, enqueued=10, coalesced=1, persisted=9)


@pytest.mark.one_lane
async def test_everyone_who_waits_with_a_key_is_let_in_with_it_in_order(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items(range(6)))
        async with trio.open_nursery() as nursery:
            for item in [Item("k", 1), *items("xyz"), Item("k", 2), Item("k", 3)]:
                nursery.start_soon(queue.enqueue, item)
                await wait_all_tasks_blocked()
            store.resume()
            await wait_all_tasks_blocked()
    assert store.rows["k"] == Item("k", 3)
    assert [item.version for call in store.calls for item in call if item.veri_key == "k"] == [3]
    assert_settled(queue, enqueued=12, coalesced=2, persisted=10)


@pytest.mark.one_lane
async def test_a_cancelled_producer_leaves_its_place_to_the_next(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items(range(6)))
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1) as scope:
                await queue.enqueue(Item("gone"))
            assert scope.cancelled_caught
            nursery.start_soon(queue.enqueue, Item("next"))
            await wait_all_tasks_blocked()
            assert queue.metrics().producers_waiting == 1
            store.resume()
    assert "gone" not in store.rows
    assert "next" in store.rows


@pytest.mark.one_lane
async def test_one_of_two_producers_with_one_key_can_be_cancelled(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items(range(6)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue, Item("k", 1))
            await wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await queue.enqueue(Item("k", 2))
            store.resume()
    assert store.rows["k"] == Item("k", 1)


async def test_a_full_queue_is_written_without_waiting_for_the_interval(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(queue_capacity=1, flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items(range(20)))
        with pytest.raises(trio.WouldBlock):
            queue.enqueue_nowait(Item("refused"))
        await wait_all_tasks_blocked()
        assert queue.metrics().current_queue_depth == 0
        assert trio.current_time() == 0


@pytest.mark.one_lane
async def test_coalescing_keeps_the_place_and_the_age(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=1)
    async with open_write_behind_queue(store, options) as queue:
        for version in range(30):
            await queue.enqueue(Item("hot", version))
            await queue.enqueue(Item(f"cold{version}"))
            await trio.sleep(0.3)
        # The first version opens its batch; a second later it is written, 4 versions on.
        assert [call[0] for call in store.calls] == [Item("hot", n) for n in range(3, 28, 4)]


async def test_a_key_being_written_gets_a_new_place_behind(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(flush_interval_seconds=0)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("k", 1))
        await wait_all_tasks_blocked()
        await queue.enqueue(Item("k", 2))
        assert queue.pending("k") == Item("k", 2)
        assert queue.metrics().total_coalesced == 0
        store.resume()
    assert store.calls == [(Item("k", 1),), (Item("k", 2),)]


@pytest.mark.one_lane
async def test_without_coalescing_every_version_is_written_in_order(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(batch_size=3, coalesce=False)
    async with open_write_behind_queue(store, options) as queue:
        entries = [Item(key, n) for n, key in enumerate("aabbacabcabb")]
        await queue.enqueue_many(entries)
        assert queue.pending("a") == entries[9]
        assert queue.pending("b") == entries[11]
        assert queue.pending("d") is None
    assert [item for call in store.calls for item in call] == entries
    for call in store.calls:
        assert len({item.veri_key for item in call}) == len(call) <= 3


async def test_without_coalescing_a_waiting_key_is_not_admitted_to_a_full_queue(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(queue_capacity=2, batch_size=2, coalesce=False)
    store.stall()
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many([Item("a", n) for n in range(3)])
        with pytest.raises(trio.WouldBlock):
            queue.enqueue_nowait(Item("a", 3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue, Item("a", 4))
            await wait_all_tasks_blocked()
            store.resume()
    assert [item.version for call in store.calls for item in call] == [0, 1, 2, 4]


async def test_a_custom_merge_makes_one_entry_of_two(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    def total(old: Item, new: Item) -> Item:
        return Item(new.veri_key, old.version + new.version)

    async with open_write_behind_queue(store, merge=total) as queue:
        await queue.enqueue_many([Item("a", n) for n in range(10)])
    assert store.rows == {"a": Item("a", 45)}


@pytest.mark.one_lane
async def test_what_merge_raises_arrives_and_nothing_is_counted(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    def fussy(old: Item, new: Item) -> Item:
        raise ArithmeticError("odd")

    store.stall()
    failures: list[BaseException] = []

    async def late(queue: WriteBehindQueue[Item]) -> None:
        try:
            await queue.enqueue(Item("w", 2))
        except ArithmeticError as error:
            failures.append(error)

    async with open_write_behind_queue(store, SMALL, merge=fussy) as queue:
        queue.enqueue_nowait(Item("a", 1))
        with pytest.raises(ArithmeticError, match="odd"):
            queue.enqueue_nowait(Item("a", 2))
        with pytest.raises(ArithmeticError, match="odd"):
            await queue.persist(Item("a", 2))
        with pytest.raises(ArithmeticError, match="odd"):
            await queue.enqueue_many([Item("a", 2)])
        assert queue.metrics().total_enqueued == 1
        assert balance(queue.metrics()) == 0
        await queue.enqueue_many(items(range(5)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.enqueue, Item("w", 1))
            await wait_all_tasks_blocked()
            nursery.start_soon(late, queue)
            await wait_all_tasks_blocked()
            store.resume()
    assert len(failures) == 1
    assert store.rows["a"] == Item("a", 1)
    assert store.rows["w"] == Item("w", 1)
    assert_settled(queue, enqueued=7, persisted=7)


@pytest.mark.parametrize(
    ("entry", "why"),
    [(object(), "AttributeError"), (Item([]), "TypeError")],  # type: ignore[arg-type]
    ids=["no key", "unhashable key"],
)
@pytest.mark.parametrize("coalesce", [True, False])
async def test_an_entry_without_a_usable_key_is_a_type_error_and_not_counted(
    store: MemoryRepository[Item], entry: Item, why: str, coalesce: bool
) -> None:
    async with open_write_behind_queue(store, WriteBehindOptions(coalesce=coalesce)) as queue:
        for call in (queue.enqueue, queue.persist):
            with pytest.raises(
                TypeError,
                match=f"{type(entry).__name__} can't be.*{why}.*it is entry.veri_key, unless",
            ):
                await call(entry)
        with pytest.raises(TypeError, match=why):
            queue.enqueue_nowait(entry)
        assert queue._lanes.tails() == []  # not even an empty batch
        with pytest.raises(TypeError, match=why):
            await queue.enqueue_many([Item("a"), entry])
        assert queue.metrics().total_enqueued == 1
        await queue.flush()
    assert queue.metrics().total_batches == len(store.rows) == 1


async def test_a_queue_with_a_table_says_which_class_an_entry_must_be(
    autojump_clock: MockClock,
) -> None:
    table = Table(Item, "item", key="veri_key")
    async with open_write_behind_queue(MemoryRepository(table=table)) as queue:
        row: Item = {"veri_key": "a"}  # type: ignore[assignment]  # that is it
        with pytest.raises(TypeError, match=r"type dict can't be .*; an entry must be a Item$"):
            await queue.enqueue(row)
        # It is an Item, so what is wrong is its key.
        with pytest.raises(TypeError, match=r"type Item can't be read or hashed \(TypeError\)$"):
            await queue.enqueue(Item([]))  # type: ignore[arg-type]  # likewise


async def test_persist_waits_until_the_entry_is_stored_but_not_for_the_interval(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 2
    options = WriteBehindOptions(flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        await queue.persist(Item("a"))
        assert trio.current_time() == 2
        assert store.rows == {"a": Item("a")}
        assert queue.pending("a") is None


@pytest.mark.one_lane
async def test_persist_is_told_that_a_newer_version_was_stored(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=60, batch_size=5)
    store.stall()
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("first"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.flush)
            await wait_all_tasks_blocked()
            nursery.start_soon(queue.persist, Item("a", 1))
            await wait_all_tasks_blocked()
            await queue.enqueue(Item("a", 2))
            store.resume()
        assert store.rows["a"] == Item("a", 2)
    assert_settled(queue, enqueued=3, persisted=2, coalesced=1)


async def test_persist_of_a_refused_entry_raises_an_error_of_its_own(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("bad")
    errors: list[EntryRejectedError] = []

    async def wait(queue: WriteBehindQueue[Item]) -> None:
        try:
            await queue.persist(Item("bad"))
        except EntryRejectedError as error:
            errors.append(error)

    async with open_write_behind_queue(store) as queue, trio.open_nursery() as nursery:
        nursery.start_soon(wait, queue)
        nursery.start_soon(wait, queue)
        nursery.start_soon(queue.persist, Item("good"))
    assert len(errors) == 2
    assert errors[0] is not errors[1]
    assert "good" in store.rows
    assert_settled(queue, enqueued=3, persisted=1, coalesced=1, failed=1)


async def test_a_cancelled_persist_keeps_the_entry(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store) as queue, trio.open_nursery() as nursery:
        nursery.start_soon(queue.persist, Item("a", 0))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await queue.persist(Item("b", 0))
        assert scope.cancelled_caught
        with trio.move_on_after(1):
            async with trio.open_nursery() as both:
                both.start_soon(queue.persist, Item("b", 1))
                both.start_soon(queue.persist, Item("b", 2))
        store.resume()
    assert set(store.rows) == {"a", "b"}


async def test_persist_waits_for_room_too(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items(range(6)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.persist, Item("a"))
            await wait_all_tasks_blocked()
            store.resume()
        assert "a" in store.rows


@pytest.mark.one_lane
async def test_flush_waits_for_everything_accepted_before_and_nothing_after(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=60, batch_size=10)
    store.latency_seconds = 1
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue_many(items("abc"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.flush)
            await wait_all_tasks_blocked()
            await queue.enqueue(Item("later"))
            await queue.enqueue(Item("later2"))
        assert trio.current_time() == 1
        assert store.calls == [tuple(items("abc"))]


@pytest.mark.one_lane
async def test_flush_seals_but_a_key_may_still_be_replaced_in_place(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("first"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.flush)
            await wait_all_tasks_blocked()
            await queue.enqueue(Item("a", 1))
            nursery.start_soon(queue.flush)
            await wait_all_tasks_blocked()
            await queue.enqueue(Item("a", 2))
            await queue.enqueue(Item("b"))
            store.resume()
        assert store.calls == [(Item("first"),), (Item("a", 2),)]


@pytest.mark.one_lane
async def test_flush_is_not_blocked_by_poison(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.reject("b")
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue_many(items("abc"))
        await queue.flush()
        assert list(store.rows) == ["a", "c"]


async def test_flush_after_a_clean_exit_returns(store: MemoryRepository[Item]) -> None:
    async with open_write_behind_queue(store) as queue:
        await queue.enqueue(Item("a"))
    await queue.flush()


async def test_pending_is_the_newest_version_until_its_fate_is_known(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(batch_size=2, flush_interval_seconds=60)
    store.stall()
    async with open_write_behind_queue(store, options) as queue:
        assert queue.pending("a") is None
        await queue.enqueue(Item("a", 1))
        assert queue.pending("a") == Item("a", 1)
        await queue.enqueue(Item("b", 1))
        await wait_all_tasks_blocked()  # the batch is being written
        assert queue.pending("a") == Item("a", 1)
        await queue.enqueue_many([Item("c"), Item("a", 2)])
        await wait_all_tasks_blocked()  # and this one is sealed, or would be
        assert queue.pending("a") == Item("a", 2)
        await queue.enqueue(Item("d"))
        assert queue.pending("c") == Item("c")
        assert queue.pending("z") is None
        store.resume()
        await queue.flush()
        assert queue.pending("a") is None


@pytest.mark.one_lane
async def test_the_memory_bound_holds_with_a_stalled_store(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    options = WriteBehindOptions(queue_capacity=10, batch_size=3)
    async with open_write_behind_queue(store, options) as queue:
        async with trio.open_nursery() as nursery:
            for producer in range(5):
                source = items(range(producer * 100, producer * 100 + 100))
                nursery.start_soon(queue.enqueue_many, source)
            await trio.sleep(60)
            metrics = queue.metrics()
            assert metrics.current_queue_depth == 10
            assert metrics.in_flight == 3
            assert metrics.producers_waiting == 5
            nursery.cancel_scope.cancel()
        store.resume()


async def test_metrics_tell_age_and_state(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        assert queue.metrics().oldest_pending_seconds == 0.0
        assert queue.metrics().state is QueueState.RUNNING
        await queue.enqueue(Item("a"))
        await trio.sleep(7)
        assert queue.metrics().oldest_pending_seconds == 7.0
        store.stall()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.flush)
            await trio.sleep(1)
            assert queue.metrics().oldest_pending_seconds == 8.0
            store.resume()
        assert queue.metrics().oldest_pending_seconds == 0.0
        assert queue.metrics().durable is None
    assert queue.metrics().state is QueueState.CLOSED


async def test_unchanged_rows_are_counted_beside_the_identity(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store) as queue:
        await queue.persist(Item("a"))
        await queue.persist(Item("a"))
        assert queue.metrics().total_unchanged == 1
        assert queue.metrics().total_persisted == 2


def flushes(queue: WriteBehindQueue[Item]) -> dict[str, int]:
    metrics = queue.metrics()
    counts = {
        "full": metrics.flushes_full,
        "due": metrics.flushes_due,
        "flush": metrics.flushes_requested,
        "drain": metrics.flushes_drain,
    }
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.one_lane
async def test_every_batch_is_counted_under_the_first_reason_to_write_it(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue(Item("a"))
        await trio.sleep(2)
        assert flushes(queue) == {"due": 1}
        await queue.enqueue_many(items("ab"))
        await trio.sleep(0.5)
        assert flushes(queue) == {"due": 1, "full": 1}
        await queue.persist(Item("a"))
        await queue.enqueue(Item("a"))
        await queue.flush()
        await queue.enqueue_many(items("abc"))  # two of them are full
        assert flushes(queue) == {"due": 1, "full": 1, "flush": 2}
    assert flushes(queue) == {"due": 1, "full": 2, "flush": 2, "drain": 1}
    assert sum(flushes(queue).values()) == queue.metrics().total_batches


@pytest.mark.one_lane
async def test_a_full_batch_stays_a_full_one_when_it_is_asked_for_while_it_waits(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.stall()
    async with open_write_behind_queue(store, SMALL) as queue:
        await queue.enqueue_many(items("ab"))  # with the writer
        await trio.sleep(1)
        await queue.enqueue_many(items("cd"))  # full, behind it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.flush)
            nursery.start_soon(queue.persist, Item("c", 2))
            await trio.sleep(1)
            store.resume()
    assert flushes(queue) == {"full": 2}


@pytest.mark.parametrize("nowait", [True, False])
async def test_a_batch_that_makes_room_counts_as_full(
    nowait: bool, store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    options = WriteBehindOptions(queue_capacity=1, flush_interval_seconds=60)
    async with open_write_behind_queue(store, options) as queue:
        await queue.enqueue(Item("a"))
        if nowait:
            with pytest.raises(trio.WouldBlock):
                queue.enqueue_nowait(Item("b"))
            await trio.sleep(1)
        else:
            await queue.enqueue(Item("b"))
        assert flushes(queue) == {"full": 1}


async def test_durations_and_ages_of_batches_are_counted_by_size(
    store: MemoryRepository[Item], autojump_clock: MockClock
) -> None:
    store.latency_seconds = 0.25
    store.fail_next(OSError("gone"))  # no flush; it makes the batch older
    options = WriteBehindOptions(
        flush_interval_seconds=4, retry_base_seconds=1e-9, retry_cap_seconds=1e-9
    )
    async with open_write_behind_queue(store, options) as queue:
        for _ in range(3):
            await queue.enqueue(Item("a"))
            await trio.sleep(8)
        metrics = queue.metrics()
        times, ages = metrics.flush_seconds, metrics.age_seconds
    assert times.bounds == ages.bounds
    assert sum(times.counts) == sum(ages.counts) == 3
    assert times.counts[times.bounds.index(0.25)] == 3
    assert times.sum == pytest.approx(0.75)
    assert ages.counts[ages.bounds.index(5.0)] == 3
    assert ages.sum == pytest.approx(4.5 + 4.25 + 4.25)


def test_a_histogram_puts_a_value_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram()
    for value in (0.0, 0.001, 0.0011, 1800, 1801):
        histogram = histogram.plus(value)
    assert histogram.counts[:2] == (2, 1)
    assert histogram.counts[-2:] == (1, 1)
    assert sum(histogram.counts) == 5
    assert histogram.sum == pytest.approx(3601.0021)
    assert Histogram().counts == (0,) * (len(Histogram().bounds) + 1)


async def test_a_queue_has_the_name_it_was_given(store: MemoryRepository[Item]) -> None:
    async with open_write_behind_queue(store, name="decisions") as queue:
        assert queue.name == "decisions"


async def test_who_gave_a_key_is_told_of_no_other(autojump_clock: MockClock) -> None:
    repository = MemoryRepository[Item]()
    async with open_write_behind_queue(repository, key=attrgetter("nope")) as queue:
        with pytest.raises(TypeError, match=r"or hashed \(AttributeError\)$"):
            queue.enqueue_nowait(Item("a"))
