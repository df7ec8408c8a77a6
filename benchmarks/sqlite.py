"""What writing behind into SQLite costs, beside a loop that does nothing else."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio._vocabulary.columns import microseconds_of
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.sqlite._rows import SCHEMA, UPSERT, cells_of

from benchmarks.entries import Load
from benchmarks.figures import Findings, absolute, interleaved, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio import ProvcacheEntry

PART: Final = "SQLite"
BATCH: Final = 500
QUEUE: Final = "whole queue"
LOOP: Final = "executemany and commit"
LAST_ONES: Final = "SELECT count(*) FROM provcache_entries WHERE created_at >= ?"


def run(*, quick: bool) -> Findings:
    """Measure the queue and the loop."""
    load = Load(number=4_000 if quick else 20_000)
    cases: dict[str, Callable[[], float]] = {
        QUEUE: partial(_rate, QUEUE, _whole_queue, load),
        LOOP: partial(_rate, LOOP, _loop, load),
    }
    rates = interleaved(cases, 2 if quick else 7)
    return Findings(
        figures=[
            *(absolute(PART, name, rates[name], "entries/s", better="more") for name in cases),
            ratio(PART, QUEUE, rates, QUEUE, LOOP, better="more"),
        ]
    )


def _rate(name: str, write: Callable[[Path, Sequence[ProvcacheEntry]], float], load: Load) -> float:
    entries = load.entries()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "entries.sqlite")
        seconds = write(path, entries)
        with closing(sqlite3.connect(path)) as connection:
            (rows,) = connection.execute(LAST_ONES, [microseconds_of(load.last_since)]).fetchone()
    if rows != load.rows:
        raise AssertionError(f"of {load.rows} rows, {name} left {rows} as they should be")
    return len(entries) / seconds


def _whole_queue(path: Path, entries: Sequence[ProvcacheEntry]) -> float:
    async def main() -> float:
        # Little room, so that versions of a key never meet in line.
        options = WriteBehindOptions(batch_size=BATCH, queue_capacity=BATCH)
        async with open_sqlite_repository(path) as repository:
            await repository.check()  # makes the file
            began = time.perf_counter()
            async with open_write_behind_queue(repository, options) as queue:
                await queue.enqueue_many(entries)
            return time.perf_counter() - began

    return trio.run(main)


def _loop(path: Path, entries: Sequence[ProvcacheEntry]) -> float:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # as the library has it
        for statement in SCHEMA:
            connection.execute(statement)
        began = time.perf_counter()
        for start in range(0, len(entries), BATCH):
            with connection:  # commits
                batch = entries[start : start + BATCH]
                connection.executemany(UPSERT, [cells_of(entry) for entry in batch])
        return time.perf_counter() - began
