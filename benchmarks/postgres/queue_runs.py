"""The queue into PostgreSQL, from its first entry to the last one that is durable.

Run in a process of its own: trio-asyncio changes asyncio for the whole process.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import trio

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio._asyncio.bridge import make_bridge
from provcache_trio.postgres import open_postgres_repository

from benchmarks.entries import make_entries
from benchmarks.postgres.clients import IDLE_SECONDS, SCHEMA_NAME
from benchmarks.postgres.steps import Steps, Watched
from benchmarks.stores import Item, NullRepository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from provcache_trio import ProvcacheEntry, WriteBehindQueue

    from benchmarks.entries import Load

T = TypeVar("T")
Kind = Literal["trio-asyncio", "thread"]

_FULL_BATCHES_IN_LINE: Final = 4


def whole_queue(dsn: str, load: Load, batch_size: int, writers: int) -> float:
    """Return the seconds from the first ``enqueue`` until everything was written."""
    return _write(dsn, load, options_of(batch_size, writers), None)


def longest_steps(dsn: str, load: Load, batch_size: int) -> list[float]:
    """Return, for every flush, the milliseconds of its longest task step."""
    steps = Steps()
    _write(dsn, load, options_of(batch_size, 1), steps)
    return steps.longest


def options_of(batch_size: int, writers: int) -> WriteBehindOptions:
    """Return the options of a queue that shows what it costs."""
    return WriteBehindOptions(
        batch_size=batch_size,
        writers=writers,
        # Little, so that versions of a key that are far apart never meet in line.
        queue_capacity=_FULL_BATCHES_IN_LINE * batch_size * writers,
    )


def _write(dsn: str, load: Load, options: WriteBehindOptions, steps: Steps | None) -> float:
    entries = load.entries()

    async def main() -> float:
        async with open_postgres_repository(
            dsn, schema=SCHEMA_NAME, write_connections=options.writers
        ) as repository:
            async with trio.open_nursery() as nursery:
                for _ in range(options.writers):  # each connects
                    nursery.start_soon(repository.upsert_many, ())
            store = repository if steps is None else Watched(repository, steps)
            began = time.perf_counter()
            async with open_write_behind_queue(store, options) as queue:
                await queue.enqueue_many(entries)
            seconds = time.perf_counter() - began
            if queue.metrics().total_coalesced:
                raise AssertionError("versions met in line, so less was written than by others")
            return seconds

    gc.collect()
    return trio.run(main, instruments=[] if steps is None else [steps])


def _with_queue(
    dsn: str,
    bridge: Kind | None,
    options: WriteBehindOptions,
    work: Callable[[WriteBehindQueue[ProvcacheEntry]], Coroutine[object, object, list[float]]],
) -> list[float]:
    async def main() -> list[float]:
        opening = (
            open_postgres_repository(dsn, schema=SCHEMA_NAME)
            if bridge is None
            else open_postgres_repository(dsn, schema=SCHEMA_NAME, bridge=bridge)
        )
        async with opening as repository:
            await repository.upsert_many(())  # connects
            async with open_write_behind_queue(repository, options) as queue:
                return await work(queue)

    gc.collect()
    return trio.run(main)


def idle_persist(dsn: str, times: int, bridge: Kind | None = None) -> float:
    """Return the median seconds in which an idle queue has made one entry durable."""
    entries = make_entries(range(times), 0)

    async def work(queue: WriteBehindQueue[ProvcacheEntry]) -> list[float]:
        return await _one_by_one(queue.persist, entries)

    options = WriteBehindOptions(flush_interval_seconds=0)
    return statistics.median(_with_queue(dsn, bridge, options, work))


def idle_persist_for_nothing(times: int) -> float:
    """Return the same for a store that does nothing: what the queue's own tasks take."""
    items = [Item(f"key {number}") for number in range(times)]

    async def main() -> list[float]:
        options = WriteBehindOptions(flush_interval_seconds=0)
        async with open_write_behind_queue(NullRepository(), options) as queue:
            return await _one_by_one(queue.persist, items)

    gc.collect()
    return statistics.median(trio.run(main))


def empty_calls(times: int, kind: Kind) -> float:
    """Return the median seconds of a call through an idle bridge that does nothing there."""

    async def nothing() -> None:
        pass

    async def main() -> list[float]:
        bridge = make_bridge(kind)
        await bridge.open()
        seconds = await _one_by_one(bridge.run, [nothing] * times)
        await bridge.close()
        return seconds

    gc.collect()
    return statistics.median(trio.run(main))


async def _one_by_one(
    call: Callable[[T], Awaitable[object]], arguments: Sequence[T]
) -> list[float]:
    """Return the seconds of each call, before which nothing happened for a moment."""
    seconds: list[float] = []
    for argument in arguments:
        await trio.sleep(IDLE_SECONDS)
        began = time.perf_counter()
        await call(argument)
        seconds.append(time.perf_counter() - began)
    return seconds


def paced_persist(dsn: str, tasks: int, per_second: int, seconds: float) -> list[float]:
    """Return the milliseconds from when each entry was due until it was durable.

    ``tasks`` tasks share the pace. One that is late begins at once, and its lateness counts.
    """
    entries = make_entries(range(int(per_second * seconds)), 0)
    milliseconds: list[float] = []

    async def one(queue: WriteBehindQueue[ProvcacheEntry], first: int, began: float) -> None:
        for index in range(first, len(entries), tasks):
            due = began + index / per_second
            await trio.sleep_until(due)
            await queue.persist(entries[index])
            milliseconds.append((trio.current_time() - due) * 1000)

    async def work(queue: WriteBehindQueue[ProvcacheEntry]) -> list[float]:
        began = trio.current_time() + 0.01
        async with trio.open_nursery() as nursery:
            for first in range(tasks):
                nursery.start_soon(one, queue, first, began)
        return milliseconds

    return _with_queue(dsn, None, WriteBehindOptions(), work)
