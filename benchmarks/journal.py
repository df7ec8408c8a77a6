"""What the journal costs, and what a large one takes to reopen.

- "interval": the time per entry with a journal over that without one, while the store keeps up.
- "always": entries per second of 100 producers over those of one, for whom each entry is a sync of
  its own, on the same disk; and over a bare loop that writes a record of the same size and syncs it,
  which is what counts where a sync takes a millisecond or more; on a faster disk the tasks cost more
  than the disk. Beside it, SQLite's own best: 100 rows in a transaction over one, in WAL mode with
  ``synchronous=FULL``, without any queue.
- An outage: the longest step of any task, the producer's included, in time of trio's thread, while
  a store that is away lets entries pile up, and until it has them. Without the garbage collector, whose
  steps grow with whatever a program holds.
- Reopening: a journal that a dead process left is replayed into a store by a process of its own.

The files are made in the current directory: a temporary one is often in memory.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Final, cast

import msgspec
import trio

from provcache_trio import (
    ProvcacheEntry,
    StoreUnavailableError,
    WriteBehindOptions,
    WriteBehindQueue,
    open_write_behind_queue,
)
from provcache_trio.journal import open_journal
from provcache_trio.journal._disk import Disk
from provcache_trio.journal._file import JournalFile

from benchmarks import stores
from benchmarks.entries import Load
from benchmarks.figures import Figure, Findings, absolute, interleaved, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio import Repository

PART: Final = "journal"
PRODUCERS: Final = 100
WITHOUT: Final = "without a journal"
INTERVAL: Final = "interval"
BARE: Final = "bare loop of write and sync"
ONE: Final = "always, 1 producer"
MANY: Final = "always, 100 producers"
SQLITE_ONE: Final = "SQLite, 1 row a transaction"
SQLITE_MANY: Final = "SQLite, 100 rows a transaction"
STORE: Final = cast("Repository[ProvcacheEntry]", stores.NullRepository())  # takes anything


def run(*, quick: bool) -> Findings:
    """Measure the journal, loops beside it, and the replay of a large one."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        where = Path(directory)
        many = Load(number=2_000 if quick else 10_000, beforehand=True).entries()
        few = many[: max(500, len(many) // 40)]
        cases: dict[str, Callable[[], float]] = {
            WITHOUT: partial(trio.run, _interval, None, many),
            INTERVAL: partial(trio.run, _interval, where / "interval", many),
            BARE: partial(_one_sync_per_entry, where / "bare", few),
            ONE: partial(trio.run, _always, where / "always", few, 1),
            MANY: partial(trio.run, _always, where / "always", many, PRODUCERS),
            SQLITE_ONE: partial(_sqlite, where / "sqlite", few, 1),
            SQLITE_MANY: partial(_sqlite, where / "sqlite", many, PRODUCERS),
        }
        seconds = interleaved(cases, 1 if quick else 5)
        rates = {name: [1 / one for one in times] for name, times in seconds.items()}
        return Findings(
            figures=[
                *(absolute(PART, name, [s * 1e6 for s in seconds[name]], "us") for name in cases),
                ratio(PART, f"time of {INTERVAL}", seconds, INTERVAL, WITHOUT, bar=1.5),
                ratio(PART, f"rate of {MANY}", rates, MANY, ONE, bar=10.0, better="more"),
                ratio(PART, f"rate of {MANY}", rates, MANY, BARE, better="more"),
                ratio(
                    PART, f"rate of {SQLITE_MANY}", rates, SQLITE_MANY, SQLITE_ONE, better="more"
                ),
                _outage(where / "outage", 5_000 if quick else 100_000, 1 if quick else 5),
                *_reopening(where / "reopen", 5_000 if quick else 50_000),
            ]
        )


async def _interval(path: Path | None, entries: Sequence[ProvcacheEntry]) -> float:
    """Return the seconds per entry of one producer, until all are settled."""
    async with AsyncExitStack() as stack:
        journal = None
        if path is not None:
            journal = await stack.enter_async_context(open_journal(path))
        queue = await stack.enter_async_context(open_write_behind_queue(STORE, journal=journal))
        started = perf_counter()
        for one in entries:
            await queue.enqueue(one)
        await queue.flush()
        return (perf_counter() - started) / len(entries)


async def _always(path: Path, entries: Sequence[ProvcacheEntry], producers: int) -> float:
    """Return the seconds per entry of many producers, until all are accepted."""

    async def produce(
        queue: WriteBehindQueue[ProvcacheEntry], own: Sequence[ProvcacheEntry]
    ) -> None:
        for one in own:
            await queue.enqueue(one)

    async with (
        open_journal(path, durability="always") as journal,
        open_write_behind_queue(STORE, journal=journal) as queue,
    ):
        started = perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(producers):
                nursery.start_soon(produce, queue, entries[number::producers])
        return (perf_counter() - started) / len(entries)


def _one_sync_per_entry(path: Path, entries: Sequence[ProvcacheEntry]) -> float:
    """Return the seconds per entry of a bare loop of write and sync."""
    record = msgspec.json.encode(entries[0])
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    started = perf_counter()
    for _ in entries:
        os.write(descriptor, record)
        os.fdatasync(descriptor)
    seconds = (perf_counter() - started) / len(entries)
    os.close(descriptor)
    path.unlink()
    return seconds


def _sqlite(path: Path, entries: Sequence[ProvcacheEntry], rows: int) -> float:
    """Return the seconds per entry of SQLite, in transactions of ``rows``, the old ones gone."""
    record = msgspec.json.encode(entries[0])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE journal (number INTEGER PRIMARY KEY, entry BLOB)")
        started = perf_counter()
        for first in range(0, len(entries), rows):
            connection.execute("BEGIN IMMEDIATE")
            numbered = ((first + n, record) for n in range(rows))
            connection.executemany("INSERT INTO journal VALUES (?, ?)", numbered)
            if first % 500 == 0:
                connection.execute("DELETE FROM journal WHERE number < ?", (first - 500,))
            connection.execute("COMMIT")
        seconds = (perf_counter() - started) / len(entries)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    return seconds


# An outage


class Steps(trio.abc.Instrument):
    """Finds the longest step of any task."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # trio passes it
        """Note when it began."""
        self._began = thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # trio passes it
        """Note how long it took; the first one began before there was an instrument."""
        if self._began is not None:
            self.longest = max(self.longest, thread_time() - self._began)


class AwayRepository:
    """A store that is away until it is told otherwise, and then takes anything."""

    def __init__(self) -> None:
        self.is_away = True

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        """Take everything, or be away."""
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise StoreUnavailableError("as the benchmark asked")
        return len(entries)


def _outage(path: Path, waiting: int, rounds: int) -> Figure:
    entries = Load(number=waiting, beforehand=True).entries()
    logging.getLogger("provcache_trio").setLevel(logging.CRITICAL)  # that the store is away
    longest: list[float] = []
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        longest.append(trio.run(_longest_step, path, entries) * 1e3)
        gc.enable()
    return absolute(PART, f"outage, {waiting:,} waiting: longest step", longest, "ms", bar=5.0)


async def _longest_step(path: Path, entries: Sequence[ProvcacheEntry]) -> float:
    store, steps = AwayRepository(), Steps()
    options = WriteBehindOptions(queue_capacity=len(entries))
    async with (
        open_journal(path) as journal,
        open_write_behind_queue(store, options, journal=journal) as queue,
    ):
        trio.lowlevel.add_instrument(steps)
        await queue.enqueue_many(entries)
        await trio.sleep(2)  # all of them get into the journal
        store.is_away = False
        await queue.flush()
        trio.lowlevel.remove_instrument(steps)
    return steps.longest


# Reopening


class Reopened(msgspec.Struct):
    """What a process found that replayed a journal into a store."""

    check_seconds: float
    write_seconds: float
    more_mebibytes: float


def _reopening(path: Path, entries: int) -> list[Figure]:
    _fill(path, entries)
    done = subprocess.run(  # noqa: S603  # this very module
        [sys.executable, "-m", "benchmarks.journal", str(path)], check=True, capture_output=True
    )
    found = msgspec.json.decode(done.stdout, type=Reopened)
    name = f"reopening {entries:,} entries"
    return [
        absolute(PART, f"{name}: to check the file", [found.check_seconds], "s"),
        absolute(PART, f"{name}: to write them", [found.write_seconds], "s"),
        absolute(PART, f"{name}: more memory", [found.more_mebibytes], "MiB"),
    ]


def _fill(path: Path, entries: int) -> None:
    """Make a journal as a dead process with an endless backlog would leave it."""
    file = JournalFile(str(path), entry_type="provcache_trio.ProvcacheEntry", disk=Disk())
    file.open()
    left = Load(number=entries, beforehand=True).entries()
    for first in range(0, entries, 1000):
        some = left[first : first + 1000]
        file.append([(msgspec.json.encode(one), ()) for one in some], ())
    file.close()


def _peak_kib() -> int:
    """Return the most memory that this program has had; ``getrusage`` has its parent's, too."""
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(line)


async def _replay(path: Path) -> Reopened:
    started = perf_counter()
    before = _peak_kib()
    async with open_journal(path) as journal:
        opened = perf_counter()
        async with open_write_behind_queue(STORE, journal=journal) as queue:
            while queue.metrics().recovering:  # noqa: ASYNC110  # there is no event for it
                await trio.sleep(0.05)
    return Reopened(
        check_seconds=opened - started,
        write_seconds=perf_counter() - opened,
        more_mebibytes=(_peak_kib() - before) / 1024,
    )


if __name__ == "__main__":
    print(msgspec.json.encode(trio.run(_replay, Path(sys.argv[1]))).decode())
