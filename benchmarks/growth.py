"""How the cost of an entry grows: with their number, with the number waiting, with the writers."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import trio
import trio.testing

from provcache_trio import WriteBehindOptions, WriteBehindQueue, open_write_behind_queue

from benchmarks.figures import Curve, Figure, Findings, Timings, absolute, quartiles, ratio
from benchmarks.stores import HeldRepository, Item, NullRepository, SlowRepository

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

PART = "growth"
CAPACITY = 10_000
# Five times the capacity: a key that comes again is not in line any more, so nothing coalesces.
CYCLE = 50_000
STEADY = 20_000  # entries that a small case is repeated for, so that the clock is fine enough
MORE = 1000  # entries accepted beside those that wait, to time them
LATENCY = 0.005
SMALL_BATCH = 100  # so that the store's latency limits the rate, not the processor
MOST_WRITERS = 8


def run(*, quick: bool) -> Findings:
    """Measure all of it; ``quick``: smaller numbers, fewer rounds."""
    findings = Findings()
    for part in (entries_in_all, entries_waiting, one_of_many, memory, writers):
        findings.extend(part(quick=quick))
    return findings


def entries_in_all(*, quick: bool) -> Findings:
    """Find what an entry costs from its acceptance until it is settled, by their number."""
    counts = [10**power for power in range(3, 5 if quick else 8)]
    cycle = [Item(f"{n}") for n in range(CYCLE)]
    timings: Timings = {in_all(count): [] for count in counts}
    trio.run(settle, cycle, STEADY)  # warms up
    for _ in range(3):
        for count in counts:
            repeats = max(1, STEADY // count)
            gc.collect()
            seconds = sum(trio.run(settle, cycle, count) for _ in range(repeats))
            timings[in_all(count)].append(seconds / repeats / count * 1e6)
    costs = [cost for _, cost in points(counts, timings)]
    first, last = in_all(counts[0]), in_all(counts[-1])
    return Findings(
        figures=[
            ratio(PART, f"cost of an entry of {last}", timings, last, first),
            Figure(
                part=PART,
                name=f"cost of an entry, dearest of {len(counts)} numbers in all",
                floor="the cheapest",
                value=max(costs) / min(costs),
            ),
        ],
        curves=[
            Curve(
                plot="Cost of an entry, by how many there are",
                name="enqueue_many to settled",
                along="entries in all",
                up="us per entry",
                points=points(counts, timings),
                logarithmic="x",
            )
        ],
    )


async def settle(cycle: Sequence[Item], count: int) -> float:
    """Return the seconds from the first acceptance until ``count`` entries are settled."""
    async with open_write_behind_queue(
        NullRepository(), WriteBehindOptions(queue_capacity=CAPACITY)
    ) as queue:
        began = perf_counter()
        for start in range(0, count, len(cycle)):
            await queue.enqueue_many(cycle[: count - start])
        await queue.flush()
        return perf_counter() - began


def entries_waiting(*, quick: bool) -> Findings:
    """Find what it costs to accept one more, by how many wait."""
    counts = [10**power for power in range(3, 5 if quick else 7)]
    items = [Item(f"{n}") for n in range(counts[-1] + MORE)]
    timings: Timings = {}
    for number in range(3 if quick else 6):
        for count, cost in trio.run(accept_more, items, counts).items():
            if number > 0:  # the first round warms up
                timings.setdefault(waiting(count), []).append(cost)
    curve = Curve(
        plot="Cost of accepting one more entry, by how many wait",
        name="enqueue_nowait",
        along="entries waiting",
        up="us per entry",
        points=points(counts, timings),
        logarithmic="x",
    )
    first, last = waiting(counts[0]), waiting(counts[-1])
    figure = ratio(PART, f"cost of accepting one more with {last}", timings, last, first)
    return Findings(figures=[figure], curves=[curve])


async def accept_more(items: Sequence[Item], counts: Sequence[int]) -> dict[int, float]:
    """Return the microseconds that accepting one more takes with each of ``counts`` waiting."""
    store = HeldRepository()
    found: dict[int, float] = {}
    async with open_write_behind_queue(
        store, WriteBehindOptions(queue_capacity=len(items))
    ) as queue:
        done = 0
        for count in counts:
            await wait_in_line(queue, items[done:count])
            some = items[count : count + MORE]
            done = count + len(some)
            began = perf_counter()
            for item in some:
                queue.enqueue_nowait(item)
            found[count] = (perf_counter() - began) / len(some) * 1e6
        store.release()
    return found


async def wait_in_line(queue: WriteBehindQueue[Item], items: Sequence[Item]) -> None:
    """Have ``items`` accepted, and the batch that the writer takes out of the line taken."""
    await queue.enqueue_many(items)
    await trio.testing.wait_all_tasks_blocked()


def one_of_many(*, quick: bool) -> Findings:
    """Find what admitting, cancelling and flushing cost each, by how many tasks do it at once."""
    counts = [10**power for power in range(1, 4 if quick else 6)]
    rounds, at_least = (1, 100) if quick else (3, MORE)  # tasks, however few wait
    findings = Findings()
    for name, case in (("admitted", admitted), ("cancelled", cancelled), ("flushed", flushed)):
        timings: Timings = {waiting(count): [] for count in counts}
        trio.run(case, MORE)  # warms up
        for _ in range(rounds):
            for count in counts:
                repeats = max(1, at_least // count)
                timings[waiting(count)].append(
                    sum(trio.run(case, count) for _ in range(repeats)) / repeats / count * 1e6
                )
        first, last = waiting(counts[1]), waiting(counts[-1])
        findings.extend(
            Findings(
                figures=[ratio(PART, f"cost of one task {name} with {last}", timings, last, first)],
                curves=[
                    Curve(
                        plot="Cost of one task of many, by how many wait",
                        name=name,
                        along="tasks waiting",
                        up="us per task",
                        points=points(counts, timings),
                        logarithmic="x",
                    )
                ],
            )
        )
    return findings


async def admitted(count: int) -> float:
    """Return the seconds until ``count`` tasks that wait for room have been admitted."""
    store, options = HeldRepository(), WriteBehindOptions(queue_capacity=500)
    async with open_write_behind_queue(store, options) as queue:
        await wait_in_line(queue, [Item(f"first-{n}") for n in range(1000)])
        with collector_frozen():
            async with trio.open_nursery() as nursery:
                for n in range(count):
                    nursery.start_soon(queue.enqueue, Item(f"{n}"))
                await trio.testing.wait_all_tasks_blocked()
                began = perf_counter()
                store.release()
            return perf_counter() - began


async def cancelled(count: int) -> float:
    """Return the seconds until ``count`` tasks that wait for room, or for a fate, are cancelled."""
    store, options = HeldRepository(), WriteBehindOptions(queue_capacity=500)
    async with open_write_behind_queue(store, options) as queue:
        await wait_in_line(queue, [Item(f"first-{n}") for n in range(1000)])
        with collector_frozen():
            async with trio.open_nursery() as nursery:
                for n in range(0, count, 2):
                    nursery.start_soon(queue.enqueue, Item(f"{n}"))
                    nursery.start_soon(queue.persist, Item("first-999", n))
                await trio.testing.wait_all_tasks_blocked()
                began = perf_counter()
                nursery.cancel_scope.cancel()
            took = perf_counter() - began
        store.release()
    return took


async def flushed(count: int) -> float:
    """Return the seconds that ``count`` times accepting one entry and flushing it take."""
    store, options = HeldRepository(), WriteBehindOptions(queue_capacity=count + 1)
    async with open_write_behind_queue(store, options) as queue:
        with collector_frozen():
            began = perf_counter()
            async with trio.open_nursery() as nursery:
                for n in range(count):
                    queue.enqueue_nowait(Item(f"{n}"))
                    nursery.start_soon(queue.flush)
                    await trio.lowlevel.checkpoint()
                store.release()
            return perf_counter() - began


@contextmanager
def collector_frozen() -> Generator[None]:
    """Keep the garbage collector out: what it costs grows with everything that is alive."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def memory(*, quick: bool) -> Findings:
    """Find what a waiting entry takes beside itself, at the worst of several numbers.

    Tables grow in steps, so the bytes of one number alone would say little.
    """
    counts = [10_000, 20_000] if quick else [10_000, 100_000, 150_000, 200_000, 400_000, 1_000_000]
    items = [Item(f"{n}") for n in range(counts[-1])]
    found = [(float(count), trio.run(bytes_each, items[:count])) for count in counts]
    figure = Figure(
        part=PART,
        name=f"memory of a waiting entry beside itself, worst of {len(counts)} numbers",
        value=max(each for _, each in found),
        unit="bytes",
        bar=300,
    )
    curve = Curve(
        plot="Memory of a waiting entry beside itself, by how many wait",
        name="coalescing, no journal",
        along="entries waiting",
        up="bytes per entry",
        points=found,
        logarithmic="x",
    )
    return Findings(figures=[figure], curves=[curve])


async def bytes_each(items: Sequence[Item]) -> float:
    """Return by how many bytes per entry memory grows while ``items`` come to wait."""
    store = HeldRepository()
    async with open_write_behind_queue(
        store, WriteBehindOptions(queue_capacity=len(items))
    ) as queue:
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await wait_in_line(queue, items)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        store.release()
    return (after - before) / len(items)


def writers(*, quick: bool) -> Findings:
    """Find the rate into a store that takes its time, by the number of writers."""
    counts = range(1, MOST_WRITERS + 1)
    items = [Item(f"{n}") for n in range(4000 if quick else 40_000)]
    timings: Timings = {writer_count(count): [] for count in counts}
    for _ in range(1 if quick else 3):
        for count in counts:
            timings[writer_count(count)].append(len(items) / trio.run(write_all, items, count))
    first, last = writer_count(1), writer_count(MOST_WRITERS)
    name = f"rate into a store with {LATENCY * 1000:.0f} ms latency"
    return Findings(
        figures=[
            absolute(PART, f"{name}, {first}", timings[first], "entries/s", better="more"),
            ratio(PART, f"{name}, {last}", timings, last, first, better="more"),
        ],
        curves=[
            Curve(
                plot=f"Rate into a store that takes {LATENCY * 1000:.0f} ms for a batch",
                name=f"batches of {SMALL_BATCH}",
                along="writers",
                up="entries per second",
                points=points(counts, timings),
            )
        ],
    )


async def write_all(items: Sequence[Item], count: int) -> float:
    """Return the seconds that ``count`` writers need for ``items``."""
    options = WriteBehindOptions(batch_size=SMALL_BATCH, writers=count)
    async with open_write_behind_queue(SlowRepository(LATENCY), options) as queue:
        began = perf_counter()
        await queue.enqueue_many(items)
        await queue.flush()
        return perf_counter() - began


def points(counts: Iterable[int], timings: Timings) -> list[tuple[float, float]]:
    """Return the points of a curve: the median of each case over its number."""
    medians = [quartiles(values)[1] for values in timings.values()]
    return list(zip(map(float, counts), medians, strict=True))


def in_all(count: int) -> str:
    """Return the name of the case with ``count`` entries."""
    return f"{count:,} in all"


def waiting(count: int) -> str:
    """Return the name of the case with ``count`` waiting."""
    return f"{count:,} waiting"


def writer_count(count: int) -> str:
    """Return the name of the case with ``count`` writers."""
    return f"{count} writer{'s' if count > 1 else ''}"
