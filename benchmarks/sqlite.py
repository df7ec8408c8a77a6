"""What writing behind into SQLite costs, beside a loop that does nothing else."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio._vocabulary.columns import microseconds_of
from provcache_trio.sqlite import open_sqlite_repository
from provcache_trio.sqlite._rows import SCHEMA, UPSERT, cells_of

from benchmarks.entries import Load
from benchmarks.figures import Findings, absolute, interleaved, ratio
from benchmarks.tables import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio import ProvcacheEntry

    from benchmarks.tables import PageView

PART: Final = "SQLite"
BATCH: Final = 500
OWN_TABLE_BAR: Final = 0.75
QUEUE: Final = "whole queue"
LOOP: Final = "executemany and commit"
OWN_TABLE: Final = "whole queue, own table"
BY_HAND: Final = "executemany and commit, own table"
OF_CPU: Final = ", CPU time"  # which other programs on the machine disturb less
LAST_ONES: Final = "SELECT count(*) FROM provcache_entries WHERE created_at >= ?"


VIEWS: Final = KINDS[6]
# What somebody would write for that table.
UPSERT_VIEW: Final = """
INSERT INTO page_view AS t VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    seen_at = max(t.seen_at, excluded.seen_at),
    visitor = CASE WHEN excluded.seen_at >= t.seen_at THEN excluded.visitor ELSE t.visitor END,
    page = CASE WHEN excluded.seen_at >= t.seen_at THEN excluded.page ELSE t.page END,
    seconds = CASE WHEN excluded.seen_at >= t.seen_at THEN excluded.seconds ELSE t.seconds END,
    scrolled = max(
        ifnull(t.scrolled, excluded.scrolled), ifnull(excluded.scrolled, t.scrolled)
    )
"""
MAKE_VIEWS: Final = """
CREATE TABLE page_view (
    id TEXT NOT NULL, seen_at TEXT NOT NULL, visitor TEXT NOT NULL, page TEXT NOT NULL,
    seconds REAL NOT NULL, scrolled INTEGER, PRIMARY KEY (id)
) STRICT
"""


def run(*, quick: bool) -> Findings:
    """Measure the queue and the loop."""
    load = Load(number=4_000 if quick else 20_000)
    cases: dict[str, Callable[[], float]] = {
        QUEUE: partial(_rate, QUEUE, _whole_queue, load),
        LOOP: partial(_rate, LOOP, _loop, load),
    }
    for suffix, clock in (("", time.perf_counter), (OF_CPU, time.process_time)):
        cases[OWN_TABLE + suffix] = partial(
            _rate_of_views, _views_through_a_queue, load.number, clock
        )
        cases[BY_HAND + suffix] = partial(_rate_of_views, _views_by_hand, load.number, clock)
    rates = interleaved(cases, 2 if quick else 7)
    return Findings(
        figures=[
            *(absolute(PART, name, rates[name], "entries/s", better="more") for name in cases),
            ratio(PART, QUEUE, rates, QUEUE, LOOP, better="more"),
            *(
                ratio(PART, name, rates, name, BY_HAND + suffix, bar=bar, better="more")
                for suffix, bar in (("", OWN_TABLE_BAR), (OF_CPU, None))
                for name in [OWN_TABLE + suffix]
            ),
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


def _rate_of_views(
    write: Callable[[Path, Sequence[Any], Callable[[], float]], float],
    number: int,
    clock: Callable[[], float],
) -> float:
    """Return how many versions a second are written: each row is there once before."""
    views = VIEWS.entries(number)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "views.sqlite")
        seconds = write(path, views, clock)
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT count(*), max(seconds) FROM page_view").fetchone()
    if found != (number // 2, views[-1].seconds):
        raise AssertionError(f"{number} versions left {found[0]} rows, not as they should be")
    return number / seconds


def _views_through_a_queue(
    path: Path, views: Sequence[PageView], clock: Callable[[], float]
) -> float:
    async def main() -> float:
        options = WriteBehindOptions(batch_size=BATCH, queue_capacity=BATCH)
        async with open_sqlite_repository(path, table=VIEWS.table, create=True) as repository:
            await repository.check()  # makes the file
            began = clock()
            async with open_write_behind_queue(repository, options) as queue:
                await queue.enqueue_many(views)
            return clock() - began

    return trio.run(main)


def _views_by_hand(path: Path, views: Sequence[PageView], clock: Callable[[], float]) -> float:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(MAKE_VIEWS)
        began = clock()
        for start in range(0, len(views), BATCH):
            rows = [
                (
                    str(view.id),
                    view.seen_at.isoformat(timespec="microseconds"),
                    view.visitor,
                    view.page,
                    view.seconds,
                    view.scrolled,
                )
                for view in views[start : start + BATCH]
            ]
            with connection:  # commits
                connection.executemany(UPSERT_VIEW, rows)
        return clock() - began
