"""What reading through the cache costs, beside the least that could be written and other caches.

Looks at what memory holds are timed by what the thread takes of the processor, and each round takes
every case in turn, so a busy machine disturbs the ratios little.
"""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
import tempfile
import time
from collections import OrderedDict
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from provcache_trio import ProvcacheEntry, open_write_behind_queue
from provcache_trio._vocabulary.columns import entry_of, moment_of
from provcache_trio.cache import Cache, open_cache
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.sqlite._rows import SELECT, cells_of
from provcache_trio.testing import MemoryRepository

from benchmarks.entries import make_entries
from benchmarks.figures import Figure, Findings, absolute, interleaved, ratio
from benchmarks.peers import on_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from provcache_trio.sqlite import SQLiteRepository

PART: Final = "cache"
KEYS: Final = 500
CALLS: Final = 5_000
READS: Final = 10
READERS: Final = 1_000
LASTS: Final = timedelta(days=365)
MEMORY_SECONDS: Final = 3600.0

LOOK_UP: Final = "a method with a dict look-up"
CHECKPOINT: Final = "a dict look-up behind a checkpoint"
BY_HAND: Final = "an LRU with a time limit, by hand"
QUERY: Final = "a query that builds the same objects"
PEEK: Final = "peek"
GET: Final = "await get, of what memory holds"
MANY: Final = f"await get_many of {KEYS}, of which memory holds none"
PEEK_BAR: Final = 2.5
GET_BAR: Final = 1.3
MANY_BAR: Final = 1.25


def lasting_entries() -> list[ProvcacheEntry]:
    """Return entries that have not expired when this runs."""
    now = datetime.now(UTC)
    return [
        msgspec.structs.replace(entry, created_at=now, expires_at=now + LASTS)
        for entry in make_entries(range(KEYS), 0)
    ]


def run(*, quick: bool) -> Findings:
    """Measure."""
    entries = lasting_entries()
    rounds = 2 if quick else 50
    found = Findings()
    _looks(found, entries, rounds)
    _many(found, entries, rounds)
    found.figures.append(absolute(PART, _cold("get"), [_cold_reads(entries[0])], "reads"))
    _peers_cold(found, entries[0])
    return found


# Looks at what memory holds


class Looks:
    """The least that a cache could do, and what somebody would write by hand."""

    def __init__(self, entries: list[ProvcacheEntry]) -> None:
        self._entries = {entry.veri_key: entry for entry in entries}
        until = time.monotonic() + MEMORY_SECONDS
        self._recent = OrderedDict((entry.veri_key, (until, entry)) for entry in entries)

    def peek(self, key: str) -> ProvcacheEntry | None:
        """Look."""
        return self._entries.get(key)

    async def get(self, key: str) -> ProvcacheEntry | None:
        """Let others run, then look."""
        await trio.lowlevel.checkpoint()
        return self._entries.get(key)

    def recent(self, key: str) -> ProvcacheEntry | None:
        """Look as an LRU with a time limit does."""
        found = self._recent.get(key)
        if found is None or found[0] < time.monotonic():
            return None
        self._recent.move_to_end(key)
        return found[1]


@asynccontextmanager
async def warm_cache(entries: list[ProvcacheEntry]) -> AsyncGenerator[Cache[ProvcacheEntry]]:
    """Open a cache that holds ``entries`` in memory."""
    store = MemoryRepository[ProvcacheEntry]()
    await store.upsert_many(entries)
    async with (
        open_write_behind_queue(store) as queue,
        open_cache(queue, store, memory_seconds=MEMORY_SECONDS) as cache,
    ):
        await cache.get_many([entry.veri_key for entry in entries])
        yield cache


def _seconds(look: Callable[[str], object], key: str) -> float:
    began = time.thread_time()
    for _ in range(CALLS):
        look(key)
    return time.thread_time() - began


async def _awaited_seconds(look: Callable[[str], Awaitable[object]], key: str) -> float:
    began = time.thread_time()
    for _ in range(CALLS):
        await look(key)
    return time.thread_time() - began


def _looks(found: Findings, entries: list[ProvcacheEntry], rounds: int) -> None:
    plain, key = Looks(entries), entries[7].veri_key

    async def peek() -> float:
        async with warm_cache(entries) as cache:
            return _seconds(cache.peek, key)

    async def get() -> float:
        async with warm_cache(entries) as cache:
            return await _awaited_seconds(cache.get, key)

    cases: dict[str, Callable[[], float]] = {
        LOOK_UP: partial(_seconds, plain.peek, key),
        PEEK: partial(trio.run, peek),
        BY_HAND: partial(_seconds, plain.recent, key),
        CHECKPOINT: partial(trio.run, _awaited_seconds, plain.get, key),
        GET: partial(trio.run, get),
    }
    peers = {"dogpile.cache": _dogpile, "cashews": _cashews, "aiocache": _aiocache}
    for name, make in peers.items():
        try:
            cases[name] = make(entries[7])
        except ModuleNotFoundError:
            found.absent.append(f"{name} is not installed")
    timings = interleaved(cases, rounds)
    found.figures += [
        absolute(PART, name, [each / CALLS * 1e9 for each in timings[name]], "ns") for name in cases
    ]
    found.figures += [
        ratio(PART, PEEK, timings, PEEK, LOOK_UP, bar=PEEK_BAR),
        ratio(PART, GET, timings, GET, CHECKPOINT, bar=GET_BAR),
        *(
            ratio(PART, f"{name}, of what memory holds", timings, name, LOOK_UP)
            for name in [BY_HAND, *peers]
            if name in cases
        ),
    ]


def _dogpile(entry: ProvcacheEntry) -> Callable[[], float]:
    region: Any = importlib.import_module("dogpile.cache").make_region()
    region.configure("dogpile.cache.memory", expiration_time=MEMORY_SECONDS)
    region.set(entry.veri_key, entry)
    return partial(_seconds, region.get, entry.veri_key)


def _cashews(entry: ProvcacheEntry) -> Callable[[], float]:
    module: Any = importlib.import_module("cashews")

    async def main() -> float:
        cache = module.Cache()
        cache.setup("mem://")
        await cache.set(entry.veri_key, entry, expire=MEMORY_SECONDS)
        return await _awaited_seconds(cache.get, entry.veri_key)

    return lambda: on_asyncio(main())


def _aiocache(entry: ProvcacheEntry) -> Callable[[], float]:
    module: Any = importlib.import_module("aiocache")

    async def main() -> float:
        cache = module.SimpleMemoryCache()
        await cache.set(entry.veri_key, entry)  # with a ttl, a timer would end the loop's life
        return await _awaited_seconds(cache.get, entry.veri_key)

    return lambda: on_asyncio(main())


# Reads of the store


def _many(found: Findings, entries: list[ProvcacheEntry], rounds: int) -> None:
    keys = [entry.veri_key for entry in entries]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "cache.db")

        async def fill() -> None:
            async with open_sqlite_repository(path) as repository:
                await repository.upsert_many(entries)

        async def through_the_cache() -> float:
            async with (
                open_sqlite_repository(path) as repository,
                open_write_behind_queue(repository) as queue,
                open_cache(queue, repository, memory_seconds=0) as cache,
            ):
                await cache.get_many(keys)  # opens the file
                return await _processor_seconds(cache.get_many, keys)

        trio.run(fill)
        cases: dict[str, Callable[[], float]] = {
            MANY: partial(trio.run, through_the_cache),
            QUERY: partial(_query_seconds, path, entries),
        }
        timings = interleaved(cases, rounds)
    found.figures.append(ratio(PART, MANY, timings, MANY, QUERY, bar=MANY_BAR))


async def _processor_seconds(
    read: Callable[[list[str]], Awaitable[dict[Any, ProvcacheEntry]]], keys: list[str]
) -> float:
    """Return what all threads of the process take: the file has one of its own."""
    found: dict[Any, ProvcacheEntry] = {}
    began = time.process_time()
    for _ in range(READS):
        found = await read(keys)
    spent = time.process_time() - began
    if len(found) != len(keys):
        raise AssertionError(f"{len(found)} of {len(keys)} found")
    return spent


def _query_seconds(path: Path, entries: list[ProvcacheEntry]) -> float:
    cells = [cells_of(entry)[:1] for entry in entries]  # the keys
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(SELECT, cells[0]).fetchone()
        found: dict[str, ProvcacheEntry] = {}
        began = time.process_time()
        for _ in range(READS):
            rows = [connection.execute(SELECT, key).fetchone() for key in cells]
            found = {one.veri_key: one for one in (entry_of(row, moment_of) for row in rows)}
        spent = time.process_time() - began
    if len(found) != len(entries):
        raise AssertionError(f"{len(found)} of {len(entries)} found")
    return spent


def _cold(name: str) -> str:
    return f"reads of the store, of {READERS} who ask at once: {name}"


class Counting:
    """A repository that counts its reads."""

    def __init__(self, repository: SQLiteRepository) -> None:
        self._repository = repository
        self.reads = 0

    async def get_many(self, keys: Iterable[str]) -> dict[str, ProvcacheEntry]:
        """See ``SQLiteRepository.get_many``."""
        self.reads += 1
        return await self._repository.get_many(keys)


def _cold_reads(entry: ProvcacheEntry) -> int:
    async def main(path: Path) -> int:
        async with (
            open_sqlite_repository(path) as repository,
            open_write_behind_queue(repository) as queue,
        ):
            await queue.persist(entry)
            counting = Counting(repository)
            async with open_cache(queue, counting) as cache, trio.open_nursery() as nursery:
                for _ in range(READERS):
                    nursery.start_soon(cache.get, entry.veri_key)
            return counting.reads

    with tempfile.TemporaryDirectory() as directory:
        return trio.run(main, Path(directory, "cache.db"))


def _peers_cold(found: Findings, entry: ProvcacheEntry) -> None:
    for name, count in (("cashews", _cashews_reads), ("aiocache", _aiocache_reads)):
        try:
            reads = count(entry)
        except ModuleNotFoundError:
            continue  # said above
        found.figures.append(Figure(part=PART, name=_cold(name), value=reads, unit="reads"))


def _counted_reads(decorate: Callable[[Any], Any], entry: ProvcacheEntry) -> float:
    reads = 0

    async def main() -> float:
        async def read(_: str) -> ProvcacheEntry:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0.01)
            return entry

        decorated = decorate(read)
        await asyncio.gather(*(decorated(entry.veri_key) for _ in range(READERS)))
        return reads

    return on_asyncio(main())


def _cashews_reads(entry: ProvcacheEntry) -> float:
    cache: Any = importlib.import_module("cashews").Cache()
    cache.setup("mem://")
    # As its documentation has it against a stampede.
    return _counted_reads(cache(ttl=MEMORY_SECONDS, key="{_}", lock=True), entry)


def _aiocache_reads(entry: ProvcacheEntry) -> float:
    module: Any = importlib.import_module("aiocache")
    return _counted_reads(module.cached_stampede(lease=2), entry)
