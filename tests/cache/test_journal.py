"""Entries that a queue recovers from its journal while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from provcache_trio import ProvcacheEntry, WriteBehindOptions, open_write_behind_queue
from provcache_trio.cache import open_cache
from provcache_trio.journal import open_journal
from provcache_trio.testing import MemoryRepository

from tests.support.entries import DAY, NOW, entry, key_of
from tests.support.gated import GatedRepository
from tests.support.tasks import put_aside
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of(0)
VERSIONS = [entry(hit_count=9, created_at=NOW - DAY), entry(feed_epoch="new"), entry(1)]


async def leave_behind(path: Path) -> None:
    """Have a journal with ``VERSIONS``, each a record of its own."""
    store = MemoryRepository()
    store.down()
    options = WriteBehindOptions(coalesce=False, drain_timeout_seconds=0)
    async with (
        open_journal(path) as journal,
        open_write_behind_queue(store, options, journal=journal) as queue,
    ):
        await queue.enqueue_many(VERSIONS)


async def test_what_is_recovered_while_the_store_is_read_is_part_of_the_answer(
    tmp_path: Path,
) -> None:
    await leave_behind(tmp_path / "journal")
    store = GatedRepository()
    store.read.close()
    async with (
        open_journal(tmp_path / "journal") as journal,
        open_write_behind_queue(store, journal=journal) as queue,
        open_cache(queue, store, wall_clock=lambda: NOW) as cache,
        trio.open_nursery() as nursery,
    ):
        answers = await put_aside(nursery, cache.get_many, [KEY, key_of(1)])
        await queue.flush()
        store.read.open()
        await until(lambda: bool(answers))
        assert answers == [{KEY: entry(feed_epoch="new", hit_count=9), key_of(1): entry(1)}]


async def test_while_there_is_no_room_for_what_is_recovered_nobody_is_held_up(
    tmp_path: Path,
) -> None:
    await leave_behind(tmp_path / "journal")
    store = GatedRepository()
    store.write.close()
    options = WriteBehindOptions(queue_capacity=1)
    async with (
        open_journal(tmp_path / "journal") as journal,
        open_write_behind_queue(store, options, journal=journal) as queue,
        open_cache(queue, store, on_store_error="miss", wall_clock=lambda: NOW) as cache,
    ):
        await until(lambda: queue.metrics().total_recovered == 2)

        async def compute() -> ProvcacheEntry:
            await trio.lowlevel.checkpoint()
            return entry(2)

        assert await cache.get_or_compute(key_of(2), compute) == entry(2)
        assert queue.metrics().recovering
        assert queue.pending(key_of(2)) is None
        store.write.open()
