"""What the journal costs, as ratios measured in one run, and what a large one takes to reopen.

    python benchmarks/bench_journal.py [--rounds 3] [--entries 10000] [--reopen 50000] [--check]

- "interval": the time per entry with a journal over that without one, while the store keeps up.
- "always": entries per second of 100 producers over those of one, for whom each entry is a sync of
  its own, on the same disk. For comparison, over a bare loop that writes a record of the same size and
  syncs it, which is what counts where a sync takes a millisecond or more; on a faster disk the
  tasks cost more than the disk. And SQLite's own best: 100 rows in a transaction over one, in WAL
  mode with ``synchronous=FULL``, without any queue.
- Reopening: a journal of ``--reopen`` entries is replayed into a store by a process of its own.

Each round times every case once, in turn; a ratio is the median over the rounds. ``--check``
exits with status 1 if one misses its bar.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import trio

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    WriteBehindQueue,
    open_write_behind_queue,
)
from provcache_trio.journal import open_journal
from provcache_trio.journal._disk import Disk
from provcache_trio.journal._file import JournalFile

if TYPE_CHECKING:
    from collections.abc import Sequence

PRODUCERS = 100
HASH = "sha256:" + 64 * "0"
NOW = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
DECISION = DecisionDigest(
    verdict_hash=HASH, proof_root=HASH, replay_seed=ReplaySeed(), trust_score=90
)
AIM = 30.0  # reached on a machine that has a core to spare
BARS = {"interval": 2.0, "always": 10.0}


def entry(number: int) -> ProvcacheEntry:
    """Return an entry with a key of its own."""
    return ProvcacheEntry(
        veri_key=f"sha256:{number:064x}",
        decision=DECISION,
        policy_hash=HASH,
        signer_set_hash=HASH,
        feed_epoch="2026-W48",
        created_at=NOW,
        expires_at=NOW + dt.timedelta(days=7),
    )


class NullRepository:
    """A store that takes everything in one checkpoint."""

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        """Do nothing."""
        await trio.lowlevel.checkpoint()
        return len(entries)


async def interval(path: Path | None, entries: list[ProvcacheEntry]) -> float:
    """Return the seconds per entry of one producer, until all are settled."""
    async with AsyncExitStack() as stack:
        journal = None
        if path is not None:
            journal = await stack.enter_async_context(open_journal(path))
        queue = await stack.enter_async_context(
            open_write_behind_queue(NullRepository(), journal=journal)
        )
        started = perf_counter()
        for one in entries:
            await queue.enqueue(one)
        await queue.flush()
        return (perf_counter() - started) / len(entries)


async def always(path: Path, entries: list[ProvcacheEntry], producers: int) -> float:
    """Return the seconds per entry of many producers, until all are accepted."""

    async def produce(queue: WriteBehindQueue[ProvcacheEntry], own: list[ProvcacheEntry]) -> None:
        for one in own:
            await queue.enqueue(one)

    async with (
        open_journal(path, durability="always") as journal,
        open_write_behind_queue(NullRepository(), journal=journal) as queue,
    ):
        started = perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(producers):
                nursery.start_soon(produce, queue, entries[number::producers])
        return (perf_counter() - started) / len(entries)


def one_sync_per_entry(path: Path, entries: list[ProvcacheEntry]) -> float:
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


def sqlite(path: Path, entries: list[ProvcacheEntry], rows: int) -> float:
    """Return the seconds per entry of SQLite, in transactions of ``rows``, the old ones gone."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE journal (number INTEGER PRIMARY KEY, entry BLOB)")
    record = msgspec.json.encode(entries[0])
    started = perf_counter()
    for first in range(0, len(entries), rows):
        connection.execute("BEGIN IMMEDIATE")
        numbered = ((first + n, record) for n in range(rows))
        connection.executemany("INSERT INTO journal VALUES (?, ?)", numbered)
        if first % 500 == 0:
            connection.execute("DELETE FROM journal WHERE number < ?", (first - 500,))
        connection.execute("COMMIT")
    seconds = (perf_counter() - started) / len(entries)
    connection.close()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    return seconds


def measure(where: Path, entries: int) -> dict[str, float]:
    """Time every case once; return seconds per entry by name."""
    many = [entry(number) for number in range(entries)]
    few = many[: max(500, entries // 40)]
    return {
        "without a journal": trio.run(interval, None, many),
        "interval": trio.run(interval, where / "interval", many),
        "one sync per entry": one_sync_per_entry(where / "bare", few),
        "always, 1 producer": trio.run(always, where / "always", few, 1),
        "always, 100 producers": trio.run(always, where / "always", many, PRODUCERS),
        "SQLite, 1 row": sqlite(where / "sqlite", few, 1),
        "SQLite, 100 rows": sqlite(where / "sqlite", many, PRODUCERS),
    }


def report(rounds: list[dict[str, float]]) -> bool:
    """Print the table; return whether both ratios are within their bars."""
    print(f"{'':24}{'us/entry':>10}")
    for name in rounds[0]:
        print(f"{name:24}{median(seconds[name] for seconds in rounds) * 1e6:10.2f}")

    def ratio(above: str, below: str) -> float:
        return median(seconds[above] / seconds[below] for seconds in rounds)

    costs = ratio("interval", "without a journal")
    gain = ratio("one sync per entry", "always, 100 producers")
    of_one = ratio("always, 1 producer", "always, 100 producers")
    of_sqlite = ratio("SQLite, 1 row", "SQLite, 100 rows")
    print(f'"interval" costs {costs:.2f} x the queue without journal (bar {BARS["interval"]})')
    print(f'"always", 100 producers: {of_one:.1f} x one producer (bar {BARS["always"]}, aim {AIM})')
    print(f'"always", 100 producers: {gain:.1f} x a bare loop of write and sync')
    print(f"SQLite, 100 rows a transaction: {of_sqlite:.1f} x one row a transaction")
    return costs <= BARS["interval"] and of_one >= BARS["always"]


def fill(path: Path, entries: int) -> None:
    """Make a journal as a dead process with an endless backlog would leave it."""
    file = JournalFile(str(path), entry_type="provcache_trio.ProvcacheEntry", disk=Disk())
    file.open()
    for first in range(0, entries, 1000):
        many = range(first, min(first + 1000, entries))
        file.append([(msgspec.json.encode(entry(number)), ()) for number in many], ())
    file.close()


def peak_kib() -> int:
    """Return the most memory that this program has had; ``getrusage`` tells its parent's, too."""
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(line)


async def drain(path: Path) -> None:
    """Replay a journal into a store, and print what that took."""
    started = perf_counter()
    before = peak_kib()
    async with open_journal(path) as journal:
        opened = perf_counter()
        options = WriteBehindOptions()
        async with open_write_behind_queue(NullRepository(), options, journal=journal) as queue:
            while queue.metrics().recovering:  # noqa: ASYNC110  # there is no event for it
                await trio.sleep(0.05)
    metrics = queue.metrics()
    peak = peak_kib()
    print(
        f"reopening a journal of {metrics.total_recovered:,} entries: "
        f"{opened - started:.1f} s to check, {perf_counter() - opened:.1f} s to write, "
        f"{(peak - before) / 1024:.0f} MiB more memory"
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--reopen", type=int, default=50_000)
    parser.add_argument("--where", type=Path, default=None, help="a directory on the disk meant")
    parser.add_argument("--drain", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="exit with 1 above a bar")
    arguments = parser.parse_args()
    if arguments.drain is not None:
        trio.run(drain, arguments.drain)
        return
    with tempfile.TemporaryDirectory(dir=arguments.where) as directory:
        where = Path(directory)
        rounds = [measure(where, arguments.entries) for _ in range(arguments.rounds)]
        good = report(rounds)
        fill(where / "reopen", arguments.reopen)
        command = [sys.executable, __file__, "--drain", str(where / "reopen")]
        subprocess.run(command, check=True)  # noqa: S603  # this very script
    if arguments.check and not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
