"""Entries that a queue recovers from its journal while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from provcache_trio import ProvcacheEntry, WriteBehindOptions, open_write_behind_queue
from provcache_trio.cache import open_cache

from tests.support.entries import DAY, NOW, entry, key_of
from tests.support.gated import GatedRepository, now
from tests.support.memory_journal import MemoryJournal
from tests.support.tasks import put_aside

if TYPE_CHECKING:
    from trio.testing import MockClock

KEY = key_of(0)
LEFT_BEHIND = dict(
    enumerate([entry(hit_count=9, created_at=NOW - DAY), entry(feed_epoch="new"), entry(1)], 1)
)


async def test_what_is_recovered_while_the_store_is_read_is_part_of_the_answer(
    autojump_clock: MockClock,
) -> None:
    store = GatedRepository()
    store.read.close()
    journal = MemoryJournal(LEFT_BEHIND, latency_seconds=1)
    async with (
        open_write_behind_queue(store, journal=journal) as queue,
        open_cache(queue, store, wall_clock=now) as cache,
        trio.open_nursery() as nursery,
    ):
        answers = await put_aside(nursery, cache.get_many, [KEY, key_of(1)])
        assert queue.metrics().total_recovered == 0
        await queue.flush()
        assert queue.metrics().total_recovered == 3
        store.read.open()
        await trio.sleep(1)
        assert answers == [{KEY: entry(feed_epoch="new", hit_count=9), key_of(1): entry(1)}]


async def test_while_there_is_no_room_for_what_is_recovered_nobody_is_held_up(
    autojump_clock: MockClock,
) -> None:
    store = GatedRepository()
    store.write.close()
    journal = MemoryJournal(LEFT_BEHIND, latency_seconds=1)
    options = WriteBehindOptions(queue_capacity=1)
    async with (
        open_write_behind_queue(store, options, journal=journal) as queue,
        open_cache(queue, store, on_store_error="miss", wall_clock=now) as cache,
    ):
        await trio.sleep(10)

        async def compute() -> ProvcacheEntry:
            await trio.lowlevel.checkpoint()
            return entry(2)

        assert await cache.get_or_compute(key_of(2), compute) == entry(2)
        assert queue.metrics().recovering
        assert queue.pending(key_of(2)) is None
        store.write.open()
