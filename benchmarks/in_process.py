"""What the queue costs its callers, as ratios of trio's own floor."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import WriteBehindOptions, WriteBehindQueue, open_write_behind_queue

from benchmarks import peers
from benchmarks.figures import Curve, Findings, absolute, interleaved, quartiles, ratio
from benchmarks.stores import Item, NullRepository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PART: Final = "in process"
RAW: Final = "a raw channel"
CHECKPOINT: Final = "a bare checkpoint"
HOT_KEYS: Final = 1000
REWRITES: Final = 50  # of each, so that the first version weighs little


async def raw_channel(items: list[Item]) -> None:  # noqa: ASYNC124  # time_floor awaits it
    """Send and receive through a bare memory channel."""
    sender, receiver = trio.open_memory_channel[Item](1)
    for item in items:
        sender.send_nowait(item)
        receiver.receive_nowait()


async def checkpoint(items: list[Item]) -> None:
    """Yield to trio once per item."""
    for _ in items:
        await trio.lowlevel.checkpoint()


async def enqueue_nowait(queue: WriteBehindQueue[Item], items: list[Item]) -> None:
    """Accept without waiting, then wait until everything is settled."""
    for item in items:
        queue.enqueue_nowait(item)
    await queue.flush()


async def enqueue(queue: WriteBehindQueue[Item], items: list[Item]) -> None:
    """Accept with a checkpoint per entry, then wait until everything is settled."""
    for item in items:
        await queue.enqueue(item)
    await queue.flush()


async def enqueue_many(queue: WriteBehindQueue[Item], items: list[Item]) -> None:
    """Accept in bulk, then wait until everything is settled."""
    await queue.enqueue_many(items)
    await queue.flush()


def time_floor(run: Callable[[list[Item]], Awaitable[None]], items: list[Item]) -> float:
    """Return the seconds that ``run`` takes."""

    async def main() -> float:
        began = perf_counter()
        await run(items)
        return perf_counter() - began

    return trio.run(main)


def time_case(
    run: Callable[[WriteBehindQueue[Item], list[Item]], Awaitable[None]], items: list[Item]
) -> float:
    """Return the seconds that ``run`` takes on an open queue."""

    async def main() -> float:
        options = WriteBehindOptions(queue_capacity=len(items))
        async with open_write_behind_queue(NullRepository(), options) as queue:
            began = perf_counter()
            await run(queue, items)
            return perf_counter() - began

    return trio.run(main)


def time_producers(items: list[Item], producers: int) -> float:
    """Return the seconds that so many tasks need to have everything settled."""

    async def crowd(queue: WriteBehindQueue[Item], everything: list[Item]) -> None:
        async def produce(share: list[Item]) -> None:
            for item in share:
                await queue.enqueue(item)

        async with trio.open_nursery() as nursery:
            for number in range(producers):
                nursery.start_soon(produce, everything[number::producers])
        await queue.flush()

    return time_case(crowd, items)


def run(*, quick: bool) -> Findings:
    """Measure what an entry costs, beside the floors and the peers."""
    # What is compared closely takes milliseconds and takes turns often: a busy machine is so for
    # parts of a second, and would slow one side of a comparison only.
    entries, rounds = (5_000, 3) if quick else (10_000, 75)
    many, rounds_of_peers = (5_000, 1) if quick else (50_000, 5)
    findings = Findings()
    _compare(findings, _make_items(entries), rounds)
    distinct = _make_items(many)
    _compare_peers(findings, distinct, rounds_of_peers)
    findings.curves = measure_producers(distinct, 1 if quick else 3, quick=quick)
    return findings


def _make_items(number: int) -> list[Item]:
    return [Item(f"key {each}") for each in range(number)]


def _compare(findings: Findings, distinct: list[Item], rounds: int) -> None:
    """Measure the queue beside the floors."""
    number = len(distinct)
    rewritten = HOT_KEYS * REWRITES
    hot = [Item(f"key {each % HOT_KEYS}", each) for each in range(rewritten)]
    cases: dict[str, Callable[[], float]] = {
        "hot keys, enqueue_many": lambda: time_case(enqueue_many, hot) / rewritten,
        "hot keys, enqueue_nowait": lambda: time_case(enqueue_nowait, hot) / rewritten,
        "enqueue_nowait to settled": lambda: time_case(enqueue_nowait, distinct) / number,
        RAW: lambda: time_floor(raw_channel, distinct) / number,
        "enqueue_many to settled": lambda: time_case(enqueue_many, distinct) / number,
        CHECKPOINT: lambda: time_floor(checkpoint, distinct) / number,
        "enqueue to settled": lambda: time_case(enqueue, distinct) / number,
    }
    timings = interleaved(cases, rounds)
    findings.figures += [
        absolute(PART, name, [seconds * 1e6 for seconds in timings[name]], "us/entry")
        for name in (RAW, CHECKPOINT)
    ]
    for name, floor, bar in [
        ("enqueue_nowait to settled", RAW, 2.6),
        ("enqueue_many to settled", RAW, 2.5),
        ("hot keys, enqueue_nowait", RAW, 1.2),
        ("hot keys, enqueue_many", RAW, None),
        ("enqueue to settled", CHECKPOINT, 1.3),
        ("enqueue to settled", RAW, None),
    ]:
        findings.figures.append(ratio(PART, name, timings, name, floor, bar=bar))


def _compare_peers(findings: Findings, distinct: list[Item], rounds: int) -> None:
    """Measure what people would use instead beside a raw channel."""
    cases: dict[str, Callable[[], float]] = {RAW: lambda: time_floor(raw_channel, distinct)}
    for name, (module, measure) in peers.PEERS.items():
        if why := peers.here(module):
            findings.absent.append(f"{name}: {why}")
        else:
            cases[name] = partial(measure, distinct)
    timings = interleaved(cases, rounds)
    findings.figures += [
        ratio(PART, name, timings, name, RAW) for name in peers.PEERS if name in timings
    ]


def measure_producers(items: list[Item], rounds: int, *, quick: bool) -> list[Curve]:
    """Return what an entry costs when 1 to 1,000 tasks bring them."""
    counts = (1, 10, 1000) if quick else (1, 3, 10, 30, 100, 300, 1000)
    kinds: dict[str, Callable[[list[Item], int], float]] = {
        "enqueue": time_producers,
        "asyncio.Queue by hand": peers.by_hand,
    }
    if not peers.here("flushq"):
        kinds["flushq, natural"] = lambda items, count: peers.flushq(items, "natural", count)
    cases = {
        f"{name} {count}": lambda measure=measure, count=count: measure(items, count)
        for count in counts
        for name, measure in kinds.items()
    }
    timings = interleaved(cases, rounds)
    return [
        Curve(
            plot="Cost by the number of producers",
            name=name,
            along="producers",
            up="us per entry",
            logarithmic="xy",
            points=[
                (count, quartiles(timings[f"{name} {count}"])[1] / len(items) * 1e6)
                for count in counts
            ],
        )
        for name in kinds
    ]
