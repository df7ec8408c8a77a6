"""What people would use instead of the queue, and the server's own limits.

trio-asyncio changes asyncio for the whole process, so these run in a process in which nobody
imports it. Each function takes its time once it is connected, and returns the seconds.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec

from provcache_trio.postgres._schema import Schema

from benchmarks.entries import Load, make_entries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from provcache_trio import ProvcacheEntry

SCHEMA_NAME: Final = "benchmark"
SCHEMA: Final = Schema(SCHEMA_NAME, create=True)
IDLE_SECONDS: Final = 0.001
SETTINGS: Final = {"enable_seqscan": "off", "jit": "off"}  # as the library has them

PACKED: Final = SCHEMA.plan.statements.upsert
COLUMNS: Final = {
    "veri_key": "bytea",
    "verdict_hash": "bytea",
    "proof_root": "bytea",
    "policy_hash": "bytea",
    "signer_set_hash": "bytea",
    "digest_version": "text",
    "feed_epoch": "text",
    "replay_seed": "jsonb",
    "trust_score": "smallint",
    "created_at": "timestamptz",
    "expires_at": "timestamptz",
    "hit_count": "bigint",
    "last_accessed_at": "timestamptz",
}
_INSERT: Final = f"INSERT INTO {SCHEMA_NAME}.entries AS t ({', '.join(COLUMNS)})"
_MERGE: Final = PACKED[PACKED.index("ON CONFLICT") :]  # the same rule for all
_ARRAYS: Final = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(COLUMNS.values(), 1))
BY_HAND: Final = f"{_INSERT} SELECT * FROM unnest({_ARRAYS}) ORDER BY 1 {_MERGE}"  # noqa: S608  # made of names from here
ONE_ROW: Final = (
    f"{_INSERT} VALUES ({', '.join(f'${at}' for at in range(1, len(COLUMNS) + 1))}) {_MERGE}"
)

Statement = tuple[str, tuple[object, ...]]


def _blob(text: str) -> bytes:
    return bytes.fromhex(text[7:])


def _row(entry: ProvcacheEntry) -> tuple[object, ...]:
    decision = entry.decision
    return (
        _blob(entry.veri_key),
        _blob(decision.verdict_hash),
        _blob(decision.proof_root),
        _blob(entry.policy_hash),
        _blob(entry.signer_set_hash),
        decision.digest_version,
        entry.feed_epoch,
        msgspec.json.encode(decision.replay_seed).decode(),
        decision.trust_score,
        entry.created_at,
        entry.expires_at,
        entry.hit_count,
        entry.last_accessed_at,
    )


def by_hand(batch: Sequence[ProvcacheEntry]) -> Statement:
    """Return what a person would send for ``batch``: an array for each column."""
    decisions = [entry.decision for entry in batch]
    return BY_HAND, (
        [_blob(entry.veri_key) for entry in batch],
        [_blob(decision.verdict_hash) for decision in decisions],
        [_blob(decision.proof_root) for decision in decisions],
        [_blob(entry.policy_hash) for entry in batch],
        [_blob(entry.signer_set_hash) for entry in batch],
        [decision.digest_version for decision in decisions],
        [entry.feed_epoch for entry in batch],
        [msgspec.json.encode(decision.replay_seed).decode() for decision in decisions],
        [decision.trust_score for decision in decisions],
        [entry.created_at for entry in batch],
        [entry.expires_at for entry in batch],
        [entry.hit_count for entry in batch],
        [entry.last_accessed_at for entry in batch],
    )


def packed(batch: Sequence[ProvcacheEntry]) -> Statement:
    """Return what the library sends for ``batch``."""
    return PACKED, SCHEMA.plan.arguments_of([SCHEMA.plan.pack(batch)])


def one_row(batch: Sequence[ProvcacheEntry]) -> Statement:
    """Return the statement for a batch of one that a person would write first."""
    return ONE_ROW, _row(batch[0])


WAYS: Final = {"by hand": by_hand, "packed": packed, "one row": one_row}


def on_asyncio(dsn: str, work: Callable[[asyncpg.Connection], Awaitable[float]]) -> float:
    """Return what ``work`` returns, with a connection, on a loop of asyncio's own."""

    async def connected() -> float:
        connection = await asyncpg.connect(dsn, server_settings=SETTINGS)
        try:
            return await work(connection)
        finally:
            await connection.close()  # noqa: ASYNC102  # asyncio has no shields

    gc.collect()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(connected())


def _batches(entries: Sequence[ProvcacheEntry], size: int) -> Iterator[Sequence[ProvcacheEntry]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


def prepare(dsn: str, load: Load) -> None:
    """Leave in the table what is there before ``load``, and nothing to do for the server."""

    async def work(connection: asyncpg.Connection) -> float:
        await SCHEMA.look(connection)
        await connection.execute(f"TRUNCATE {SCHEMA_NAME}.entries")
        for batch in _batches(load.before(), 500):
            statement, arguments = packed(batch)
            await connection.execute(statement, *arguments)
        await connection.execute("CHECKPOINT")
        return 0

    on_asyncio(dsn, work)


def count(dsn: str, load: Load) -> int:
    """Return how many rows hold an entry of ``load``, the last one of its key."""
    statement = f"SELECT count(*) FROM {SCHEMA_NAME}.entries WHERE created_at >= $1"  # noqa: S608  # made of names from here

    async def work(connection: asyncpg.Connection) -> float:
        rows: int = await connection.fetchval(statement, load.last_since)
        return rows

    return int(on_asyncio(dsn, work))


def loop(dsn: str, load: Load, way: str, size: int) -> float:
    """Run a loop that cuts batches and sends them in one of ``WAYS``, no more."""
    entries, make = load.entries(), WAYS[way]

    async def work(connection: asyncpg.Connection) -> float:
        await connection.prepare(make(entries[:1])[0])  # asyncpg keeps it for the next time
        began = time.perf_counter()
        for batch in _batches(entries, size):
            statement, arguments = make(batch)
            await connection.execute(statement, *arguments)
        return time.perf_counter() - began

    return on_asyncio(dsn, work)


def flushq_seconds(dsn: str, load: Load, size: int, *, patient: bool) -> float:
    """Write through flushq's queue, each batch as a person would.

    When ``patient``, wait until everything was flushed before leaving; else leave as its
    documentation has it: "queued items are drained on shutdown".
    """
    flushq: Any = importlib.import_module("flushq")  # Any: it is not everywhere
    entries = load.entries()

    async def work(connection: asyncpg.Connection) -> float:
        flushed, done = 0, asyncio.Event()

        async def flush(batch: list[ProvcacheEntry]) -> None:
            nonlocal flushed
            statement, arguments = by_hand(batch)
            await connection.execute(statement, *arguments)
            flushed += len(batch)
            if flushed == len(entries):
                done.set()

        await connection.prepare(BY_HAND)
        policy = flushq.NaturalPolicy(max_records=size)
        began = time.perf_counter()
        # By default the rest is one batch, in which a key could come twice.
        async with flushq.FlushQueue(flush, policy, max_shutdown_batch_size=size) as queue:
            for entry in entries:
                await queue.enqueue(entry)
            if patient:
                await done.wait()
        return time.perf_counter() - began

    return on_asyncio(dsn, work)


def psycopg_seconds(dsn: str, load: Load, size: int) -> float:
    """Write with psycopg's ``executemany``, which pipelines, and commit every batch."""
    psycopg: Any = importlib.import_module("psycopg")  # Any: it is not everywhere
    entries = load.entries()
    options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    gc.collect()
    with psycopg.connect(dsn, options=options, cursor_factory=psycopg.RawCursor) as connection:
        began = time.perf_counter()
        for batch in _batches(entries, size):
            with connection.cursor() as cursor:
                cursor.executemany(ONE_ROW, [_row(entry) for entry in batch])
            connection.commit()
        return time.perf_counter() - began


def server_only(dsn: str, load: Load, size: int) -> float:
    """Let the server write, in batches with a commit each, rows that it has already."""
    names = ", ".join(COLUMNS)
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    statement = f"""
DO $$ BEGIN
    FOR start IN 0..{load.number - 1} BY {size} LOOP
        {_INSERT} SELECT {names} FROM staged
        WHERE place >= start AND place < start + {size} ORDER BY veri_key {_MERGE};
        COMMIT;
    END LOOP;
END $$"""  # noqa: S608  # made of names from here

    async def work(connection: asyncpg.Connection) -> float:
        await connection.execute(f"CREATE TEMP TABLE staged (place int PRIMARY KEY, {columns})")
        rows = [(place, *_row(entry)) for place, entry in enumerate(load.entries())]
        await connection.copy_records_to_table("staged", records=rows)
        await connection.execute("ANALYZE staged")
        began = time.perf_counter()
        await connection.execute(statement)
        return time.perf_counter() - began

    return on_asyncio(dsn, work)


def copy(dsn: str, load: Load) -> float:
    """COPY entries that are all new, in one go."""
    entries = load.entries()

    async def work(connection: asyncpg.Connection) -> float:
        began = time.perf_counter()
        await connection.copy_records_to_table(
            "entries",
            schema_name=SCHEMA_NAME,
            columns=list(COLUMNS),
            records=[_row(entry) for entry in entries],
        )
        return time.perf_counter() - began

    return on_asyncio(dsn, work)


def bare_round_trip(dsn: str, times: int) -> float:
    """Return the median seconds in which an idle connection writes one entry, packed."""

    async def work(connection: asyncpg.Connection) -> float:
        execute = partial(connection.execute, PACKED)
        await execute(*SCHEMA.plan.arguments_of(()))
        seconds: list[float] = []
        for entry in make_entries(range(times), 0):
            await asyncio.sleep(IDLE_SECONDS)
            began = time.perf_counter()
            await execute(*SCHEMA.plan.arguments_of([SCHEMA.plan.pack([entry])]))
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    return on_asyncio(dsn, work)
