"""What writing behind into PostgreSQL costs, beside a loop that does nothing else.

    python benchmarks/bench_postgres.py [--dsn URL] [--entries N] [--rounds N] [--check]

Every figure is the median of the ratio within a round, in which all take turns. Each writes the
same entries, half of which are new versions of those that are there, into an emptied table.
Without ``--dsn``, a server of its own is started (extra ``postgres-server``).
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec
import trio

from provcache_trio import (
    DecisionDigest,
    ProvcacheEntry,
    ReplaySeed,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._postgres.rows import UPSERT, arguments_of, pack
from provcache_trio._postgres.schema import Schema
from provcache_trio._postgres_server import run_postgres_server
from provcache_trio.postgres import open_postgres_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

BATCH: Final = 500
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA: Final = Schema("benchmark")
STATEMENT: Final = SCHEMA.fill_in(UPSERT)

# Least ratio to the loop; least ratio to one upsert per entry; most milliseconds of a step.
LEAST_TO_LOOP: Final = 0.95
LEAST_TO_SINGLE: Final = 15
MOST_STEP_MILLISECONDS: Final = 5


def make_entries(number: int) -> list[ProvcacheEntry]:
    """Return ``number`` entries; the second half rewrites the keys of the first."""

    def digest(value: int) -> str:
        return f"sha256:{value * 0x9E3779B97F4A7C15 % 2**256:064x}"

    return [
        ProvcacheEntry(
            veri_key=digest(1 + index % (number // 2)),
            decision=DecisionDigest(
                verdict_hash=digest(index + 2),
                proof_root=digest(index + 3),
                replay_seed=ReplaySeed(
                    feed_ids=("nvd-2026-w48", "ghsa-2026-w48", "osv-2026-w48"),
                    rule_ids=("signed-by-release-key", "no-critical-cve", "sbom-complete"),
                ),
                trust_score=index % 101,
            ),
            policy_hash=digest(4),
            signer_set_hash=digest(5),
            feed_epoch="2026-W48",
            created_at=NOW + timedelta(microseconds=index),
            expires_at=NOW + timedelta(days=7, microseconds=index),
        )
        for index in range(number)
    ]


def run_on_asyncio(
    work: Callable[[asyncpg.Connection], Coroutine[object, object, None]], dsn: str
) -> None:
    """Run ``work`` on a plain asyncio loop, whatever trio-asyncio has made of the default."""

    async def connected() -> None:
        connection = await asyncpg.connect(
            dsn, server_settings={"enable_seqscan": "off", "jit": "off"}
        )
        try:
            await work(connection)
        finally:
            await connection.close()  # noqa: ASYNC102  # asyncio has no shields

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(connected())


class Steps(trio.abc.Instrument):
    """Notes the CPU time of every task step, in milliseconds."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # trio's names
        """Begin."""
        self._began = time.thread_time_ns()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002  # likewise
        """End."""
        self.milliseconds.append((time.thread_time_ns() - self._began) / 1e6)


def whole_queue(dsn: str, entries: Sequence[ProvcacheEntry], steps: Steps | None = None) -> float:
    """Return the seconds from the first ``enqueue`` until everything was written."""

    async def main() -> float:
        # Distinct versions of a key meet in the queue only if it holds them at once: never here.
        options = WriteBehindOptions(batch_size=BATCH, queue_capacity=4 * BATCH)
        async with open_postgres_repository(dsn, schema="benchmark") as repository:
            await repository.upsert_many(())  # connects
            began = time.perf_counter()
            async with open_write_behind_queue(repository, options) as queue:
                await queue.enqueue_many(entries)
            return time.perf_counter() - began

    return trio.run(main, instruments=[] if steps is None else [steps])


def loop(dsn: str, entries: Sequence[ProvcacheEntry], size: int = BATCH) -> float:
    """Return the seconds that a loop takes which cuts batches and sends them, no more."""
    seconds = 0.0

    async def work(connection: asyncpg.Connection) -> None:
        nonlocal seconds
        await connection.execute(STATEMENT, *arguments_of(()))
        began = time.perf_counter()
        for start in range(0, len(entries), size):
            await connection.execute(
                STATEMENT, *arguments_of([pack(entries[start : start + size])])
            )
        seconds = time.perf_counter() - began

    run_on_asyncio(work, dsn)
    return seconds


def prepare(dsn: str) -> None:
    """Make an empty table."""

    async def work(connection: asyncpg.Connection) -> None:
        await SCHEMA.prepare(connection, create=True)
        await connection.execute("TRUNCATE benchmark.entries")
        await connection.execute("CHECKPOINT")

    run_on_asyncio(work, dsn)


def count(dsn: str) -> int:
    """Return how many rows there are."""
    rows = 0

    async def work(connection: asyncpg.Connection) -> None:
        nonlocal rows
        rows = await connection.fetchval("SELECT count(*) FROM benchmark.entries")

    run_on_asyncio(work, dsn)
    return rows


def main() -> int:
    """Run the rounds and print the ratios; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dsn", help="a server whose schema 'benchmark' may be emptied")
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="fail below a bar")
    arguments = parser.parse_args()
    entries = make_entries(arguments.entries)
    single = entries[: max(2, arguments.entries // 20)]  # it takes its time
    rates: dict[str, list[float]] = {"queue": [], "loop": [], "single": []}
    measures: dict[str, Callable[[], float]] = {
        "queue": lambda: len(entries) / whole_queue(dsn, entries),
        "loop": lambda: len(entries) / loop(dsn, entries),
        "single": lambda: len(single) / loop(dsn, single, 1),
    }
    with ExitStack() as stack:
        dsn = arguments.dsn or stack.enter_context(run_postgres_server()).dsn
        for _ in range(arguments.rounds):
            for name, measure in measures.items():
                prepare(dsn)
                rates[name].append(measure())
                if name != "single" and count(dsn) != len(entries) // 2:
                    raise AssertionError(f"{name} lost entries")
        prepare(dsn)
        steps = Steps()
        whole_queue(dsn, entries, steps)
    longest = max(steps.milliseconds)
    to_loop = median_ratio(rates["queue"], rates["loop"])
    to_single = median_ratio(rates["queue"], rates["single"])
    print(
        f"Python {platform.python_version()}, trio {trio.__version__},"
        f" asyncpg {asyncpg.__version__}, msgspec {msgspec.__version__}"
    )
    print(f"batches of {BATCH}, {len(entries):,} entries, medians of {arguments.rounds} rounds")
    print(f"whole queue                     {statistics.median(rates['queue']):10,.0f} entries/s")
    print(f"  / loop, same statement        {to_loop:10.2f}  (bar {LEAST_TO_LOOP})")
    print(f"  / one upsert per entry        {to_single:10.1f}  (bar {LEAST_TO_SINGLE})")
    print(f"longest task step, CPU time     {longest:10.2f} ms  (bar {MOST_STEP_MILLISECONDS})")
    missed = (
        to_loop < LEAST_TO_LOOP or to_single < LEAST_TO_SINGLE or longest > MOST_STEP_MILLISECONDS
    )
    return 1 if arguments.check and missed else 0


def median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(this / that for this, that in zip(these, those, strict=True))


if __name__ == "__main__":
    sys.exit(main())
