"""A table of somebody's own in PostgreSQL: through the queue, and as people write it by hand.

Each function names its table by how many columns that has. Those that do not use the queue run in a
process of their own, as in ``clients``.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.postgres._tables import TableInDatabase

from benchmarks.postgres.clients import SETTINGS, on_asyncio
from benchmarks.postgres.steps import Steps, Watched
from benchmarks.tables import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

_FULL_BATCHES_IN_LINE: Final = 4
_TYPES: Final = {
    6: ("uuid", "timestamptz", "text", "text", "float8", "int8"),
    12: (
        *("uuid", "timestamptz", "text", "text", "text", "int8"),
        *("int8", "numeric", "float8", "bool", "date", "text"),
    ),
}


# In the queue's process


def whole_queue(dsn: str, columns: int, number: int, size: int) -> float:
    """Return the seconds from the first ``enqueue`` until everything was written."""
    return _write(dsn, columns, number, size, None)


def longest_steps(dsn: str, columns: int, number: int, size: int) -> list[float]:
    """Return, for every flush, the milliseconds of CPU of its longest task step."""
    steps = Steps()
    _write(dsn, columns, number, size, steps)
    return steps.longest


def _write(dsn: str, columns: int, number: int, size: int, steps: Steps | None) -> float:
    kind = KINDS[columns]
    entries = kind.entries(number)
    options = WriteBehindOptions(
        batch_size=size,
        # Little, so that versions of a key never meet in line.
        queue_capacity=_FULL_BATCHES_IN_LINE * size,
    )

    async def main() -> float:
        async with open_postgres_repository(dsn, table=kind.table) as repository:
            await repository.upsert_many(())  # connects
            store = repository if steps is None else Watched(repository, steps)
            began = time.perf_counter()
            async with open_write_behind_queue(
                store, options, key=kind.table.key, merge=kind.table.merge
            ) as queue:
                await queue.enqueue_many(entries)
            seconds = time.perf_counter() - began
            if queue.metrics().total_coalesced:
                raise AssertionError("versions met in line, so less was written than by others")
            return seconds

    gc.collect()
    return trio.run(main, instruments=[] if steps is None else [steps])


# In the other one


def prepare(dsn: str, columns: int) -> None:
    """Leave an empty table, and nothing to do for the server."""
    kind = KINDS[columns]

    async def work(connection: asyncpg.Connection) -> float:
        await TableInDatabase(kind.table, create=True).look(connection)
        await connection.execute(f'TRUNCATE "{kind.table.name}"')
        await connection.execute("CHECKPOINT")
        return 0

    on_asyncio(dsn, work)


def count(dsn: str, columns: int, number: int) -> int:
    """Return how many rows hold the last version of their key."""
    kind = KINDS[columns]
    last = getattr(kind.make(number // 2, 0), kind.newer)
    statement = f'SELECT count(*) FROM "{kind.table.name}" WHERE {kind.newer} >= $1'  # noqa: S608  # made of names from here

    async def work(connection: asyncpg.Connection) -> float:
        rows: int = await connection.fetchval(statement, last)
        return rows

    return int(on_asyncio(dsn, work))


def unnest(dsn: str, columns: int, number: int, size: int) -> float:
    """Run a loop that sends an array for each column."""
    kind, types = KINDS[columns], _TYPES[columns]
    entries = kind.entries(number)

    async def work(connection: asyncpg.Connection) -> float:
        arrays = ", ".join(f"${at}::{one}[]" for at, one in enumerate(types, 1))
        rows = f"SELECT * FROM unnest({arrays}) ORDER BY 1"  # noqa: S608  # made of names from here
        statement = await _upsert(connection, columns, rows)
        await connection.prepare(statement)  # asyncpg keeps it
        began = time.perf_counter()
        for start in range(0, number, size):
            batch = entries[start : start + size]
            await connection.execute(statement, *map(list, zip(*map(kind.row, batch), strict=True)))
        return time.perf_counter() - began

    return on_asyncio(dsn, work)


def executemany(dsn: str, columns: int, number: int, size: int) -> float:
    """Run a loop that sends a statement for each entry, all of a batch in one transaction."""
    kind = KINDS[columns]
    entries = kind.entries(number)

    async def work(connection: asyncpg.Connection) -> float:
        statement = await _upsert(connection, columns, _one_row(columns))
        await connection.prepare(statement)
        began = time.perf_counter()
        for start in range(0, number, size):
            await connection.executemany(
                statement, [kind.row(entry) for entry in entries[start : start + size]]
            )
        return time.perf_counter() - began

    return on_asyncio(dsn, work)


def psycopg_executemany(dsn: str, columns: int, number: int, size: int) -> float:
    """Do the same with psycopg, which pipelines."""
    psycopg: Any = importlib.import_module("psycopg")  # Any: it is not everywhere
    kind = KINDS[columns]
    entries = kind.entries(number)
    statements: list[str] = []

    async def work(connection: asyncpg.Connection) -> float:
        statements.append(await _upsert(connection, columns, _one_row(columns)))
        return 0

    on_asyncio(dsn, work)
    options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    gc.collect()
    with psycopg.connect(dsn, options=options, cursor_factory=psycopg.RawCursor) as connection:
        began = time.perf_counter()
        for start in range(0, number, size):
            with connection.cursor() as cursor:
                cursor.executemany(
                    statements[0], [kind.row(entry) for entry in entries[start : start + size]]
                )
            connection.commit()
        return time.perf_counter() - began


def opening(dsn: str, columns: int, times: int) -> tuple[float, float]:
    """Return the median milliseconds, of CPU and in all, of reading a table on a new connection."""
    cpu: list[float] = []
    whole: list[float] = []

    async def work(connection: asyncpg.Connection) -> float:
        began, of_thread = time.perf_counter(), time.thread_time()
        await TableInDatabase(KINDS[columns].table, create=False).look(connection)
        cpu.append((time.thread_time() - of_thread) * 1000)
        whole.append((time.perf_counter() - began) * 1000)
        return 0

    for _ in range(times):
        on_asyncio(dsn, work)
    return statistics.median(cpu), statistics.median(whole)


def round_trip(dsn: str, times: int) -> float:
    """Return the median milliseconds of a question that asks for nothing."""
    whole: list[float] = []

    async def work(connection: asyncpg.Connection) -> float:
        began = time.perf_counter()
        await connection.fetchval("SELECT 1")
        whole.append((time.perf_counter() - began) * 1000)
        return 0

    for _ in range(times):
        on_asyncio(dsn, work)
    return statistics.median(whole)


async def _upsert(connection: asyncpg.Connection, columns: int, rows: str) -> str:
    """Return the statement that somebody would write, with the rule that is ours, too."""
    table = KINDS[columns].table
    ours = (await TableInDatabase(table, create=False).look(connection)).statements.upsert
    names = ", ".join(field.column for field in table.fields)
    return f'INSERT INTO "{table.name}" AS t ({names}) {rows} {ours[ours.index("ON CONFLICT") :]}'


def _one_row(columns: int) -> str:
    return f"VALUES ({', '.join(f'${at}' for at in range(1, columns + 1))})"


BY_HAND: Final[dict[str, Callable[[str, int, int, int], float]]] = {
    "loop with unnest": unnest,
    "executemany": executemany,
    "psycopg executemany": psycopg_executemany,
}
