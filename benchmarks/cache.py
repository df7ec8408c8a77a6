"""What a look at the cache costs, beside the least that could be written instead.

    python -m benchmarks.cache

Each ratio is that of the shortest of many rounds, which a busy machine disturbs least.
"""

from __future__ import annotations

import math
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from provcache_trio import ProvcacheEntry, open_write_behind_queue
from provcache_trio.cache import Cache, open_cache
from provcache_trio.sqlite import open_sqlite_repository

from benchmarks.entries import make_entries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from provcache_trio.sqlite import SQLiteRepository

KEYS = 500
CALLS = 1000
ROUNDS = 100
READERS = 1000
LASTS = timedelta(days=365)


def lasting(entry: ProvcacheEntry) -> ProvcacheEntry:
    """Return ``entry`` as one that has not expired when this runs."""
    now = datetime.now(UTC)
    return msgspec.structs.replace(entry, created_at=now, expires_at=now + LASTS)


class Looks:
    """The least that a cache could do."""

    def __init__(self, entries: dict[str, ProvcacheEntry]) -> None:
        self._entries = entries

    def peek(self, key: str) -> ProvcacheEntry | None:
        """Look."""
        return self._entries.get(key)

    async def get(self, key: str) -> ProvcacheEntry | None:
        """Let others run, then look."""
        await trio.lowlevel.checkpoint()
        return self._entries.get(key)


class Counting:
    """A repository that counts its reads."""

    def __init__(self, repository: SQLiteRepository) -> None:
        self._repository = repository
        self.reads = 0

    async def get_many(self, keys: Iterable[str]) -> dict[str, ProvcacheEntry]:
        """See ``SQLiteRepository.get_many``."""
        self.reads += 1
        return await self._repository.get_many(keys)


def seconds_of(look: Callable[[str], object], key: str) -> float:
    """Return how long a call takes, in the shortest round."""
    shortest = math.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            look(key)
        shortest = min(shortest, time.perf_counter() - began)
    return shortest / CALLS


async def seconds_of_await(call: Callable[[], Awaitable[object]], calls: int, rounds: int) -> float:
    """Return how much of the processor an awaited call takes, in the shortest round."""
    shortest = math.inf
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            await call()
        shortest = min(shortest, time.process_time() - began)
    return shortest / calls


async def looks(cache: Cache[ProvcacheEntry], entries: Sequence[ProvcacheEntry]) -> None:
    """Compare looks at what memory holds."""
    plain = Looks({entry.veri_key: entry for entry in entries})
    key = entries[7].veri_key
    await cache.get(key)
    print(f"peek / dict look-up: {seconds_of(cache.peek, key) / seconds_of(plain.peek, key):.2f}")
    ours = await seconds_of_await(lambda: cache.get(key), CALLS // 10, ROUNDS)
    least = await seconds_of_await(lambda: plain.get(key), CALLS // 10, ROUNDS)
    print(f"get / dict look-up behind a checkpoint: {ours / least:.2f}")


async def main() -> None:
    """Measure and print."""
    entries = [lasting(entry) for entry in make_entries(range(KEYS), 0)]
    keys = [entry.veri_key for entry in entries]
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_sqlite_repository(Path(folder, "cache.db")) as repository,
            open_write_behind_queue(repository) as queue,
        ):
            await repository.upsert_many(entries)
            async with open_cache(queue, repository, memory_seconds=3600) as cache:
                await looks(cache, entries)
            counting = Counting(repository)
            async with (
                open_cache(queue, counting) as cache,
                trio.open_nursery() as nursery,
            ):
                for _ in range(READERS):
                    nursery.start_soon(cache.get, keys[0])
            print(f"reads of {READERS} readers of a cold key: {counting.reads}")
            async with open_cache(queue, repository, memory_seconds=0) as cache:
                ours = await seconds_of_await(lambda: cache.get_many(keys), 1, ROUNDS // 5)
            least = await seconds_of_await(lambda: repository.get_many(keys), 1, ROUNDS // 5)
            print(f"get_many of {KEYS} / the repository's own: {ours / least:.2f}")


if __name__ == "__main__":
    trio.run(main)
