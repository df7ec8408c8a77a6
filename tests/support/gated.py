"""A store whose reads and writes a test holds open, and a cache over it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from provcache_trio import (
    ProvcacheEntry,
    WriteBehindOptions,
    WriteBehindQueue,
    open_write_behind_queue,
)
from provcache_trio.cache import Cache, open_cache
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.entries import NOW

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Iterable, Sequence
    from datetime import datetime


class Gate:
    """Is open; a test closes it."""

    def __init__(self) -> None:
        self._opened = trio.Event()
        self._opened.set()
        self.waiting = 0

    def close(self) -> None:
        self._opened = trio.Event()

    def open(self) -> None:
        self._opened.set()

    async def passed(self) -> None:
        self.waiting += 1
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1


class GatedRepository(MemoryRepository[ProvcacheEntry]):
    """A store that looks, then waits at ``read`` until it may answer; and writes after ``write``."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Gate()
        self.write = Gate()
        self.written = Gate()
        self.delete = Gate()
        self.deleted = Gate()
        self.reads: list[tuple[Hashable, ...]] = []
        self.in_reads = 0
        self.most_in_reads = 0

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        await self.write.passed()
        changed = await super().upsert_many(entries)
        await self.written.passed()
        return changed

    async def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, ProvcacheEntry]:
        self.reads.append(tuple(keys))
        self.in_reads += 1
        self.most_in_reads = max(self.most_in_reads, self.in_reads)
        try:
            found = await super().get_many(self.reads[-1])
            await self.read.passed()
        finally:
            self.in_reads -= 1
        return found

    async def delete_where(self, *, before: object = None, **equals: object) -> int:
        await self.delete.passed()
        count = await super().delete_where(before=before, **equals)
        await self.deleted.passed()
        return count

    def hold(self, *entries: ProvcacheEntry) -> None:
        """Have these, as if another process had stored them."""
        self.rows.update({one.veri_key: one for one in entries})


class Opened(NamedTuple):
    store: GatedRepository
    queue: WriteBehindQueue[ProvcacheEntry]
    cache: Cache[ProvcacheEntry]


def now() -> datetime:
    """Return the time of tests: trio's clock stands at 0 at ``NOW``."""
    return NOW + timedelta(seconds=trio.current_time())


SLOWLY = WriteBehindOptions(flush_interval_seconds=1000, max_retries=0)


@asynccontextmanager
async def opened(  # as ``open_cache``, and with its arguments
    options: WriteBehindOptions = SLOWLY,
    **arguments: Any,  # noqa: ANN401  # of several types
) -> AsyncGenerator[Opened]:
    """Open a queue that writes when it is asked to, and a cache over it."""
    store = GatedRepository()
    letters = MemoryDeadLetters[ProvcacheEntry]()
    async with (
        open_write_behind_queue(store, options, dead_letters=letters) as queue,
        open_cache(queue, store, **{"wall_clock": now, **arguments}) as cache,
    ):
        yield Opened(store, queue, cache)
