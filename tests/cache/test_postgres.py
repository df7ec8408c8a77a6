"""A cache over a real PostgreSQL, and what another process's cache may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from provcache_trio import (
    DrainTimeoutError,
    ProvcacheEntry,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.cache import open_cache
from provcache_trio.postgres import open_postgres_repository

from tests.support.entries import NOW, entry, key_of
from tests.support.postgres import schema, store
from tests.support.servers import postgres, unused_port

if TYPE_CHECKING:
    from provcache_trio.postgres import PostgresRepository

__all__ = ["schema", "store"]  # fixtures

KEY = key_of(0)
BAD = key_of("bad policy")


async def test_entries_in_postgres_are_read_computed_and_invalidated(
    store: PostgresRepository[ProvcacheEntry],
) -> None:
    calls = 0

    async def compute() -> ProvcacheEntry:
        nonlocal calls
        calls += 1
        await trio.sleep(0.01)
        return entry(policy_hash=BAD)

    async with (
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, wall_clock=lambda: NOW) as cache,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(cache.get_or_compute, KEY, compute)
        assert calls == 1
        for number in range(1, 600):
            await cache.put(entry(number))
        found = await cache.get_many([key_of(number) for number in range(700)])
        assert len(found) == 600
        await queue.flush()
        assert (await store.get_many([KEY]))[KEY] == entry(policy_hash=BAD)
        assert await cache.invalidate_where(policy_hash=BAD) == 1
        assert await cache.get(KEY) is None
        assert await store.count() == 599
        with pytest.raises(ValueError, match="64 lower-case hex digits"):
            await cache.get("no key")


async def test_another_cache_sees_what_was_written_once_memory_seconds_are_over(
    store: PostgresRepository[ProvcacheEntry], schema: str
) -> None:
    newer = entry(hit_count=7)
    async with (
        open_postgres_repository(postgres().dsn, schema=schema) as other_store,
        open_write_behind_queue(store) as queue,
        open_write_behind_queue(other_store) as other_queue,
        open_cache(queue, store, wall_clock=lambda: NOW) as cache,
        open_cache(other_queue, other_store, memory_seconds=1, wall_clock=lambda: NOW) as other,
    ):
        await queue.persist(entry())
        while not other.metrics().hits_memory:
            assert await other.get(KEY) == entry()
        await cache.put(newer)
        await queue.flush()
        stored_at = asked_at = trio.current_time()
        while await other.get(KEY) != newer:
            assert asked_at < stored_at + 1
            await trio.sleep(0.05)
            asked_at = trio.current_time()


async def test_when_postgres_is_away_only_a_computation_may_go_on() -> None:
    async def compute() -> ProvcacheEntry:
        await trio.lowlevel.checkpoint()
        return entry()

    dsn = f"postgresql://somebody@127.0.0.1:{unused_port()}/nothing"
    at_once = WriteBehindOptions(drain_timeout_seconds=0)
    with pytest.raises(DrainTimeoutError):
        async with (
            open_postgres_repository(dsn) as nothing,
            open_write_behind_queue(nothing, at_once) as queue,
            open_cache(queue, nothing, on_store_error="miss", wall_clock=lambda: NOW) as cache,
        ):
            with pytest.raises(StoreUnavailableError):
                await cache.get(KEY)
            assert await cache.get_or_compute(KEY, compute) == entry()
            assert queue.pending(KEY) == entry()
