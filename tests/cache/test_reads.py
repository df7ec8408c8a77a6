"""What a read answers, whatever is under way, and what is remembered of it."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from provcache_trio import (
    ProvcacheEntry,
    StoreUnavailableError,
    Table,
    WriteBehindOptions,
    merge_entries,
    open_write_behind_queue,
)
from provcache_trio.cache import open_cache
from provcache_trio.testing import MemoryRepository

from tests.support.entries import DAY, NOW, entry, key_of
from tests.support.gated import GatedRepository, now, opened
from tests.support.tasks import put_aside

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

KEY = key_of(0)
OLD = entry(created_at=NOW - DAY, hit_count=9, feed_epoch="old")
NEW = entry(feed_epoch="new")
BOTH = entry(feed_epoch="new", hit_count=9)


async def test_what_the_store_has_is_found(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache):
        store.hold(NEW)
        assert await cache.get(KEY) == NEW
        assert await cache.get(key_of(1)) is None
        assert await cache.get_many([KEY, key_of(1)]) == {KEY: NEW}
        metrics = cache.metrics()
    assert (metrics.hits_store, metrics.hits_memory, metrics.misses) == (1, 1, 2)
    assert metrics.entries == 1


async def test_an_expired_entry_is_not_found(autojump_clock: MockClock) -> None:
    async with opened(memory_seconds=100) as (store, _, cache):
        store.hold(entry(expires_at=NOW + DAY / 8640))  # in ten seconds
        assert await cache.get(KEY) is not None
        await trio.sleep(10)
        assert cache.peek(KEY) is None
        assert await cache.get(KEY) is None
        assert await cache.get_many([KEY]) == {}


async def test_what_was_put_is_found_before_it_is_stored(autojump_clock: MockClock) -> None:
    async with opened() as (store, queue, cache):
        store.hold(OLD)
        await cache.put(NEW)
        assert await cache.get(KEY) == BOTH
        assert queue.metrics().current_queue_depth == 1
        assert cache.metrics().hits_pending == 1


async def test_what_others_enqueue_past_the_cache_is_found_too(autojump_clock: MockClock) -> None:
    async with opened() as (store, queue, cache):
        store.hold(OLD)
        assert await cache.get(KEY) == OLD
        await queue.enqueue(entry(1))  # into an open batch there is a shorter way
        queue.enqueue_nowait(NEW)
        assert cache.peek(KEY) == BOTH
        newer = entry(feed_epoch="newer", created_at=NOW + DAY, expires_at=NOW + 2 * DAY)
        await queue.enqueue_many([newer])
        assert cache.peek(KEY) == merge_entries(BOTH, newer)
        assert len(store.reads) == 1


async def test_what_is_pending_is_not_served_alone_when_the_store_is_away(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, queue, cache):
        await cache.put(NEW)
        store.down()
        assert queue.pending(KEY) == NEW
        with pytest.raises(StoreUnavailableError):
            await cache.get(KEY)
        with pytest.raises(StoreUnavailableError):
            await cache.get_many([KEY])
        assert cache.metrics().errors == 2
        store.up()


async def test_every_open_version_is_merged_and_not_only_the_newest(
    autojump_clock: MockClock,
) -> None:
    options = WriteBehindOptions(flush_interval_seconds=0, coalesce=False, batch_size=2)
    async with opened(options) as (store, _, cache):
        store.write.close()
        most_hits = entry(hit_count=9, feed_epoch="first")
        await cache.put(most_hits)
        await wait_all_tasks_blocked()  # it is with the writer
        await cache.put(entry(hit_count=3, feed_epoch="second"))
        await cache.put(entry(hit_count=1, feed_epoch="third"))
        assert await cache.get(KEY) == entry(hit_count=9, feed_epoch="third")
        store.write.open()


async def test_with_coalescing_what_is_written_and_what_is_in_line_are_merged(
    autojump_clock: MockClock,
) -> None:
    async with opened(WriteBehindOptions(flush_interval_seconds=0)) as (store, _, cache):
        store.write.close()
        await cache.put(OLD)
        await wait_all_tasks_blocked()
        await cache.put(NEW)
        assert await cache.get(KEY) == BOTH
        store.write.open()


async def test_what_is_accepted_while_the_store_is_read_is_part_of_the_answer(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, queue, cache), trio.open_nursery() as nursery:
        store.hold(OLD)
        store.read.close()
        answers = await put_aside(nursery, cache.get, KEY)
        await queue.enqueue(NEW)
        await queue.enqueue(entry(feed_epoch="newest", created_at=NOW + DAY / 2))
        await queue.flush()  # and it is stored before the read returns with what was there before
        store.read.open()
        await wait_all_tasks_blocked()
        assert answers == [entry(feed_epoch="newest", created_at=NOW + DAY / 2, hit_count=9)]
        assert cache.peek(KEY) == answers[0]


async def test_an_expired_version_stays_the_base_of_what_comes_later(
    autojump_clock: MockClock,
) -> None:
    expired = entry(created_at=NOW - 2 * DAY, expires_at=NOW - DAY, hit_count=9)
    async with opened(negative_seconds=5) as (store, queue, cache):
        store.hold(expired)
        assert await cache.get(KEY) is None
        assert await cache.get(KEY) is None
        assert len(store.reads) == 1
        await queue.enqueue(NEW)
        assert cache.peek(KEY) == BOTH


async def test_a_write_does_not_go_blindly_into_memory(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache):
        store.hold(NEW)
        await cache.put(OLD)
        assert cache.peek(KEY) is None  # what wins is not known
        assert await cache.get(KEY) == BOTH


async def test_a_refused_version_is_forgotten(autojump_clock: MockClock) -> None:
    async with opened() as (store, queue, cache):
        store.hold(OLD)
        store.reject(KEY)
        await cache.get(KEY)
        await queue.enqueue(NEW)
        assert await cache.get(KEY) == BOTH
        await queue.flush()
        assert cache.peek(KEY) is None
        assert await cache.get(KEY) == OLD


async def test_a_read_that_has_seen_a_version_that_is_refused_reads_again(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (store, queue, cache), trio.open_nursery() as nursery:
        store.hold(OLD, entry(1))
        store.reject(KEY)
        await queue.enqueue(NEW)
        store.read.close()
        one = await put_aside(nursery, cache.get, KEY)
        many = await put_aside(nursery, cache.get_many, [KEY, key_of(1)])
        await queue.flush()
        later = await put_aside(nursery, cache.get, KEY)
        store.read.open()
        await wait_all_tasks_blocked()
        assert one == later == [OLD]
        assert many == [{KEY: OLD, key_of(1): entry(1)}]


async def test_a_version_that_is_refused_but_may_yet_be_tried_again_counts(
    autojump_clock: MockClock,
) -> None:
    async with opened(WriteBehindOptions(flush_interval_seconds=0)) as (store, queue, cache):
        store.reject(*(key_of(number) for number in range(30)))
        # Twenty refusals in a row may be the store's fault.
        await queue.enqueue_many([entry(number) for number in range(30)])
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert queue.metrics().state == "waiting"
        assert await cache.get(KEY) == entry(0)
        store.accept(*(key_of(number) for number in range(30)))


async def test_memory_is_used_for_memory_seconds(autojump_clock: MockClock) -> None:
    async with opened(memory_seconds=5) as (store, _, cache):
        store.hold(OLD)
        await cache.get(KEY)
        store.hold(BOTH)  # another process
        await trio.sleep(4.9)
        assert cache.peek(KEY) == await cache.get(KEY) == OLD
        await trio.sleep(0.1)
        assert cache.peek(KEY) is None
        assert await cache.get(KEY) == BOTH
        assert len(store.reads) == 2


async def test_a_version_that_is_put_makes_no_answer_younger(autojump_clock: MockClock) -> None:
    async with opened(memory_seconds=5) as (store, _, cache):
        store.hold(OLD)
        await cache.get(KEY)
        await trio.sleep(3)
        await cache.put(NEW)
        store.hold(entry(hit_count=20))  # another process
        await trio.sleep(2)
        assert (await cache.get(KEY)) == entry(feed_epoch="new", hit_count=20)


async def test_without_memory_every_read_asks_the_store(autojump_clock: MockClock) -> None:
    async with opened(memory_seconds=0) as (store, _, cache):
        store.hold(NEW)
        for _ in range(3):
            assert await cache.get(KEY) == NEW
        assert len(store.reads) == 3
        assert cache.metrics().entries == 0


async def test_that_there_is_no_entry_is_remembered_for_negative_seconds(
    autojump_clock: MockClock,
) -> None:
    async with opened(memory_seconds=5, negative_seconds=2) as (store, _, cache):
        for _ in range(2):
            assert await cache.get(KEY) is None
            assert await cache.get_many([KEY]) == {}
        store.hold(NEW)  # another process
        assert len(store.reads) == 1
        await trio.sleep(2)
        assert await cache.get(KEY) == NEW
    async with opened() as (store, _, cache):
        for _ in range(2):
            assert await cache.get(KEY) is None
        assert len(store.reads) == 2
        assert cache.metrics().entries == 0


async def test_a_thousand_readers_of_a_cold_key_cost_one_read(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache), trio.open_nursery() as nursery:
        store.hold(NEW)
        store.latency_seconds = 1
        for _ in range(1000):
            nursery.start_soon(cache.get, KEY)
        await trio.sleep(2)
        assert len(store.reads) == 1
        assert cache.metrics().shared_waits == 999
        assert cache.metrics().hits_store == 1000


async def test_cold_keys_are_gathered_in_few_calls_at_once(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache), trio.open_nursery() as nursery:
        store.latency_seconds = 1
        for number in range(3000):
            nursery.start_soon(cache.get, key_of(number))
        await wait_all_tasks_blocked()
        later = await put_aside(nursery, cache.get_many, [key_of(n) for n in range(2900, 3100)])
        await trio.sleep(10)
        assert later == [{}]
        assert store.most_in_reads == 2
        assert max(map(len, store.reads)) == 500
        assert len(store.reads) == 7
        read = [key for keys in store.reads for key in keys]
        assert len(read) == 3100
        assert set(read) == {key_of(number) for number in range(3100)}


async def test_get_many_reads_all_that_is_missing_at_once(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache):
        store.hold(*map(entry, range(1200)))
        await cache.get(KEY)
        found = await cache.get_many([key_of(number) for number in range(1200)])
        assert found == store.rows
        assert list(found) == list(store.rows)
        assert [len(keys) for keys in store.reads] == [1, 500, 500, 199]


async def test_get_many_counts_where_its_answers_come_from(autojump_clock: MockClock) -> None:
    async with opened() as (store, queue, cache):
        store.hold(entry(0), entry(1))
        await queue.enqueue(entry(2))
        await cache.get_many(map(key_of, range(4)))
        assert cache.metrics().hits_store == 2
        assert cache.metrics().hits_pending == 1
        assert cache.metrics().misses == 1
        await cache.get_many(map(key_of, range(4, 6)))
        assert cache.metrics().misses == 3
        await cache.get_many(map(key_of, range(3)))
        assert cache.metrics().hits_memory == 3


async def test_those_who_wait_for_one_call_share_an_event(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache), trio.open_nursery() as nursery:
        store.latency_seconds = 1
        gc.collect()
        before = {id(one) for one in gc.get_objects() if isinstance(one, trio.Event)}
        nursery.start_soon(cache.get_many, [key_of(number) for number in range(500)])
        await wait_all_tasks_blocked()
        events = [one for one in gc.get_objects() if isinstance(one, trio.Event)]
        assert len([one for one in events if id(one) not in before]) == 1


async def test_get_many_returns_nothing_that_expired_while_it_waited(
    autojump_clock: MockClock,
) -> None:
    async with opened(memory_seconds=60) as (store, _, cache):
        store.hold(entry(0, expires_at=NOW + DAY / 8640), entry(1))
        await cache.get(KEY)
        store.latency_seconds = 10
        assert await cache.get_many([KEY, key_of(1)]) == {key_of(1): entry(1)}


@pytest.mark.parametrize("keys", ["text", b"bytes", 7])
async def test_get_many_takes_an_iterable_of_keys(
    keys: list[str], autojump_clock: MockClock
) -> None:
    async with opened() as (_, _, cache):
        with pytest.raises(TypeError, match="keys must be an iterable of keys"):
            await cache.get_many(keys)
        assert await cache.get_many([]) == {}


async def test_a_key_that_can_not_be_hashed_is_a_type_error(autojump_clock: MockClock) -> None:
    async with opened() as (_, _, cache):
        unhashable = cast("str", [])
        with pytest.raises(TypeError, match="unhashable"):
            await cache.get(unhashable)
        with pytest.raises(TypeError, match="unhashable"):
            cache.peek(unhashable)


class Scan(msgspec.Struct, frozen=True):
    """Has a key of two fields."""

    tenant_id: int
    digest: str


async def test_a_list_for_a_key_of_two_fields_is_told_to_be_a_tuple(
    autojump_clock: MockClock,
) -> None:
    store = MemoryRepository(table=Table(Scan, "scan", key=("tenant_id", "digest")))
    listed = cast("tuple[int, str]", [7, "d"])
    why = r"^a key of 2 fields is a tuple \(tenant_id, digest\), not a list$"

    async def compute() -> Scan:
        await trio.sleep_forever()

    async with open_write_behind_queue(store) as queue, open_cache(queue, store) as cache:
        with pytest.raises(TypeError, match=why):
            await cache.get(listed)
        with pytest.raises(TypeError, match=why):
            cache.peek(listed)
        with pytest.raises(TypeError, match=why):
            await cache.get_or_compute(listed, compute)
        with pytest.raises(TypeError, match=why):
            await cache.get_many([(8, "d"), listed])
        with pytest.raises(TypeError, match="unhashable type: 'dict'"):
            await cache.get(cast("tuple[int, str]", {}))
        with pytest.raises(TypeError, match="unhashable type: 'dict'"):
            await cache.get_many([(8, "d"), cast("tuple[int, str]", {})])


async def test_a_key_that_the_store_does_not_take_fails_nobody_else(
    autojump_clock: MockClock,
) -> None:
    class Strict(GatedRepository):
        async def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, ProvcacheEntry]:
            if "bad" in keys:
                await trio.lowlevel.checkpoint()
                raise ValueError("not such a key")
            return await super().get_many(keys)

    store = Strict()
    store.hold(*map(entry, range(9)))
    async with (
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=now) as cache,
        trio.open_nursery() as nursery,
    ):
        bad = await put_aside(nursery, cache.get, "bad")
        good = [await put_aside(nursery, cache.get, key_of(number)) for number in range(9)]
        nursery.start_soon(cache.get, key_of(3))
        assert [answers[0] for answers in good] == [entry(number) for number in range(9)]
        assert isinstance(bad[0], ValueError)

        async def both(key: str) -> None:
            if key == "bad":
                with pytest.raises(ValueError, match="not such a key"):
                    await cache.get(key)
            else:
                assert await cache.get(key) is not None

        await trio.sleep(6)
        store.reads.clear()
        for key in ["bad", *(key_of(number) for number in range(9))]:
            nursery.start_soon(both, key)


async def test_each_reader_raises_an_error_of_its_own(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache), trio.open_nursery() as nursery:
        store.down()
        raised = [await put_aside(nursery, cache.get, KEY) for _ in range(2)]
        store.latency_seconds = 1
        raised += [await put_aside(nursery, cache.get, KEY) for _ in range(2)]
        await trio.sleep(2)
        errors = [one[0] for one in raised]
        assert all(type(error) is StoreUnavailableError for error in errors)
        assert len({id(error) for error in errors}) == 4
        assert {str(error) for error in errors} == {"the store is down, as the test asked"}
        assert cache.metrics().errors == 3
        store.up()


async def test_a_read_that_began_too_long_ago_is_not_joined(autojump_clock: MockClock) -> None:
    async with opened(memory_seconds=5) as (store, _, cache), trio.open_nursery() as nursery:
        store.hold(OLD)
        store.read.close()
        first = await put_aside(nursery, cache.get, KEY)
        store.hold(BOTH)  # another process
        await trio.sleep(4.9)
        joined = await put_aside(nursery, cache.get, KEY)
        await trio.sleep(0.1)
        second = await put_aside(nursery, cache.get, KEY)
        assert len(store.reads) == 2
        store.read.open()
        await wait_all_tasks_blocked()
        assert (first, joined, second) == ([OLD], [OLD], [BOTH])
        # What the first one found must not be remembered, whichever came back last.
        assert await cache.get(KEY) == BOTH


async def test_memory_holds_as_many_as_it_may_and_those_that_are_used(
    autojump_clock: MockClock,
) -> None:
    async with opened(max_entries=3) as (store, _, cache):
        store.hold(*map(entry, range(30)))
        for number in range(30):
            assert await cache.get(KEY) == entry(0)
            assert await cache.get(key_of(number)) == entry(number)
            assert cache.metrics().entries <= 3
        assert sum(KEY in keys for keys in store.reads) == 1
        # When all are in use, somebody has to go all the same.
        used = [key for key in map(key_of, range(30)) if cache.peek(key) is not None]
        assert len(used) == 3
        await cache.get(key_of(5))
        assert cache.metrics().entries == 3


async def test_no_step_gives_everybody_a_second_chance(autojump_clock: MockClock) -> None:
    async with opened(max_entries=100) as (store, _, cache):
        store.hold(*map(entry, range(101)))
        await cache.get_many([key_of(number) for number in range(100)])
        for number in range(100):
            assert cache.peek(key_of(number)) is not None
        await cache.get(key_of(100))
        gone = [number for number in range(101) if cache.peek(key_of(number)) is None]
        assert gone == [16]


async def test_a_reader_that_is_cancelled_takes_nobody_down(autojump_clock: MockClock) -> None:
    async with opened() as (store, _, cache), trio.open_nursery() as nursery:
        store.hold(NEW)
        store.read.close()
        with trio.move_on_after(1) as scope:
            nursery.start_soon(cache.get, KEY)
            await cache.get(KEY)
        assert scope.cancelled_caught
        store.read.open()
        await wait_all_tasks_blocked()
        assert cache.peek(KEY) == NEW


async def test_whoever_waits_when_the_cache_closes_is_sent_away(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with opened() as (store, _, cache):
            store.hold(NEW)
            await cache.get(KEY)
            store.read.close()
            waiting = [
                await put_aside(nursery, cache.get, key_of(1)),
                await put_aside(nursery, cache.get_many, [key_of(1), key_of(2)]),
                *[await put_aside(nursery, cache.get, key_of(number)) for number in range(3, 6)],
            ]
        await wait_all_tasks_blocked()
        assert all(isinstance(one[0], trio.ClosedResourceError) for one in waiting)
        assert cache.peek(KEY) is None
        for call in (
            lambda: cache.get(KEY),
            lambda: cache.get_many([KEY]),
            lambda: cache.put(NEW),
            lambda: cache.invalidate_where(feed_epoch="x"),
        ):
            with pytest.raises(trio.ClosedResourceError):
                await call()


async def test_a_merge_that_raises_fails_the_read_of_its_key_and_no_write(
    autojump_clock: MockClock,
) -> None:
    def merge(older: ProvcacheEntry, later: ProvcacheEntry) -> ProvcacheEntry:
        if later.hit_count == 7:
            raise LookupError("can't merge")
        return later

    options = WriteBehindOptions(flush_interval_seconds=0, coalesce=False, batch_size=1)
    store = GatedRepository()
    store.hold(OLD, entry(1), entry(2))
    async with (
        open_write_behind_queue(store, options, merge=merge) as queue,
        open_cache(queue, store, wall_clock=now) as cache,
        trio.open_nursery() as nursery,
    ):
        store.write.close()
        await cache.get(KEY)
        await cache.put(entry(hit_count=7))
        assert cache.peek(KEY) is None
        with pytest.raises(LookupError):  # with what is stored
            await cache.get(KEY)
        assert await cache.get_many([key_of(1)]) == {key_of(1): entry(1)}
        store.read.close()
        await cache.put(entry(2))
        during = await put_aside(nursery, cache.get, key_of(2))
        await cache.put(entry(2, hit_count=7))
        store.read.open()
        await wait_all_tasks_blocked()
        assert isinstance(during[0], LookupError)  # of the versions that are open
        with pytest.raises(LookupError):
            await cache.get_many([key_of(1), key_of(2), key_of(3)])
        store.write.open()


async def test_a_repository_that_returns_no_mapping_is_a_type_error(
    autojump_clock: MockClock,
) -> None:
    class Wrong(MemoryRepository):
        async def get_many(self, _keys: object) -> dict[Hashable, ProvcacheEntry]:
            await trio.lowlevel.checkpoint()
            return cast("dict[Hashable, ProvcacheEntry]", 7)

    store = Wrong()
    async with open_write_behind_queue(store) as queue, open_cache(queue, store) as cache:
        with pytest.raises(TypeError):
            await cache.get(KEY)


async def test_nobody_raises_a_cancelled_that_is_not_its_own(autojump_clock: MockClock) -> None:
    stray: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            stray.append(error)
            raise

    class Stray(MemoryRepository):
        async def get_many(self, _keys: object) -> dict[Hashable, ProvcacheEntry]:
            await trio.lowlevel.checkpoint()
            raise stray.pop()

    store = Stray()
    async with open_write_behind_queue(store) as queue, open_cache(queue, store) as cache:
        with pytest.raises(RuntimeError, match="cancelled, and not by us"):
            await cache.get(KEY)
