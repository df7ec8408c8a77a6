"""A cache in a process of its own, beside another one on the same store; and what each saw.

    python -m tests.support.cache_worker STORE NUMBER RECORD

STORE is the URL of a PostgreSQL or the path of a SQLite file, NUMBER 0 or 1. Each process writes
later and later versions of its own keys, now and then invalidates all that it wrote, and reads its
own keys and the other's. What it did it writes to RECORD, a JSON array a line. It says when it is
ready, and begins when it is told to.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio.cache import open_cache
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.sqlite import open_sqlite_repository

from tests.support.entries import entry, key_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from contextlib import AbstractAsyncContextManager

    from provcache_trio import ProvcacheEntry, WriteBehindQueue
    from provcache_trio.cache import Cache
    from provcache_trio.postgres import PostgresRepository
    from provcache_trio.sqlite import SQLiteRepository

MEMORY_SECONDS: Final = 0.3
OPTIONS: Final = WriteBehindOptions(batch_size=5, flush_interval_seconds=0.01)
KEYS: Final = 3  # of each process
ROUNDS: Final = 3
VERSIONS: Final = 12  # of all keys in a round
READERS: Final = 2


class Line(NamedTuple):
    """What is written down.

    Attributes:
        what: ``accepted``, ``stored`` and ``invalidated`` (all up to ``version``), or ``read``.
        process: whose key it is about.
        key: its number; -1: all of them.
        version: 0: there was none.
        began: when the call began, by the machine's one clock.
        ended: when it ended.
        reader: whose record it is in.
    """

    what: str
    process: int
    key: int
    version: int
    began: float
    ended: float
    reader: int


def name_of(process: int, key: int) -> str:
    return key_of(f"{process} {key}")


class Worker:
    """One process."""

    def __init__(
        self,
        number: int,
        queue: WriteBehindQueue[ProvcacheEntry],
        cache: Cache[ProvcacheEntry],
        record: TextIO,
    ) -> None:
        self._number = number
        self._queue = queue
        self._cache = cache
        self._record = record
        self._version = 0
        self._chance = random.Random(number)  # noqa: S311  # no secret
        self._is_over = False

    @contextmanager
    def _noting(self, what: str, process: int, key: int) -> Generator[list[int]]:
        """Write down a call; the block gives the version."""
        began, version = time.monotonic(), [0]
        yield version
        line = Line(what, process, key, version[0], began, time.monotonic(), self._number)
        self._record.write(json.dumps(line) + "\n")

    async def run(self) -> None:
        """Write, invalidate and read, and read for somewhat longer than memory lasts."""
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(self._read)
            for _ in range(ROUNDS):
                for _ in range(VERSIONS):
                    await self._write()
                with self._noting("invalidated", self._number, -1) as version:
                    version[0] = self._version
                    await self._cache.invalidate_where(signer_set_hash=key_of(self._number))
                await trio.sleep(MEMORY_SECONDS)
            await self._write()
            await trio.sleep(2 * MEMORY_SECONDS)
            self._is_over = True

    async def _write(self) -> None:
        for key in range(KEYS):
            await self._write_one(key)
        with self._noting("stored", self._number, -1) as version:
            version[0] = self._version
            await self._queue.flush()
        await trio.sleep(self._chance.uniform(0, 0.02))

    async def _write_one(self, key: int) -> None:
        self._version += 1
        # Dated by the clock, as an invalidation spares what is dated later.
        now = datetime.now(UTC)
        one = entry(
            f"{self._number} {key}",
            created_at=now,
            expires_at=now + timedelta(days=1),
            signer_set_hash=key_of(self._number),
            hit_count=self._version,
        )
        with self._noting("accepted", self._number, key) as version:
            version[0] = self._version
            await self._cache.put(one)

    async def _read(self) -> None:
        while not self._is_over:
            process, key = self._chance.randrange(2), self._chance.randrange(KEYS)
            with self._noting("read", process, key) as version:
                found = await self._cache.get(name_of(process, key))
                version[0] = 0 if found is None else found.hit_count
            await trio.sleep(self._chance.uniform(0, 0.005))


def opening(
    store: str,
) -> AbstractAsyncContextManager[PostgresRepository | SQLiteRepository]:
    if store.startswith("postgresql:"):
        return open_postgres_repository(store, create=True)
    return open_sqlite_repository(store)


async def main(store: str, number: str, path: str) -> None:
    """Run one process."""
    async with (
        opening(store) as repository,
        open_write_behind_queue(repository, OPTIONS) as queue,
        open_cache(queue, repository, memory_seconds=MEMORY_SECONDS) as cache,
    ):
        await repository.check()
        print("ready", flush=True)  # noqa: T201  # it is a program
        sys.stdin.readline()
        # It is blocking, and as quick as memory.
        with Path(path).open("w", encoding="utf-8") as record:  # noqa: ASYNC230  # see above
            await Worker(int(number), queue, cache, record).run()


# The verdict


class History:
    """What both processes wrote down."""

    def __init__(self, records: Iterable[Path]) -> None:
        texts = [text for record in records for text in record.read_text("utf-8").splitlines()]
        lines = [Line(*json.loads(text)) for text in texts]
        self.reads = [line for line in lines if line.what == "read"]
        self._others = [line for line in lines if line.what != "read"]

    def complaints(self) -> list[str]:
        """Return each promise that a read broke."""
        found = [complaint for read in self.reads for complaint in self._complaints_of(read)]
        return found + self._steps_back()

    def _steps_back(self) -> list[str]:
        """Return reads that began after another one of the process had seen a later version."""
        found: list[str] = []
        newest: dict[tuple[int, int, int], Line] = {}
        for read in sorted(self.reads, key=lambda read: read.ended):
            before = newest.setdefault((read.reader, read.process, read.key), read)
            if read.version > before.version:
                newest[read.reader, read.process, read.key] = read
            elif 0 < read.version < before.version and read.began > before.ended:
                found.append(f"went back from {before}: {read}")
        return found

    def _complaints_of(self, read: Line) -> list[str]:
        # What the other one did is known when nobody may answer from memory any more.
        known_by = read.began - (0 if read.reader == read.process else MEMORY_SECONDS)
        about = [
            line
            for line in self._others
            if line.process == read.process and line.key in {read.key, -1}
        ]
        offered = [line for line in about if line.what == "accepted" and line.began <= read.ended]
        gone = [line for line in about if line.what == "invalidated"]
        deleted = _newest(line for line in gone if line.ended <= known_by)
        may_be_gone = _newest(line for line in gone if line.began <= read.ended)
        least = self._least(read, offered, about, known_by)
        found: list[str] = []
        if read.version > _newest(offered):
            found.append(f"not yet accepted: {read}")
        if 0 < read.version <= deleted:
            found.append(f"invalidated: {read}")
        if read.version < least and may_be_gone < least:
            found.append(f"older than {least}: {read}")
        return found

    @staticmethod
    def _least(read: Line, offered: list[Line], about: list[Line], known_by: float) -> int:
        """Return the version that has to be seen, or a later one."""
        if read.reader == read.process:
            return _newest(line for line in offered if line.ended <= known_by)
        stored = _newest(line for line in about if line.what == "stored" and line.ended <= known_by)
        return _newest(line for line in offered if line.version <= stored)


def _newest(lines: Iterable[Line]) -> int:
    return max((line.version for line in lines), default=0)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
