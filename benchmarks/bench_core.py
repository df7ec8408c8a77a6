"""What the queue costs its callers, as ratios of trio's own floor, measured in one run.

    python benchmarks/bench_core.py [--rounds 15] [--entries 50000] [--check]

Each round times every case once, in turn, so that a machine whose speed drifts slows all of
them; a ratio is the median over the rounds of the ratio within a round. ``--check`` exits
with status 1 if a ratio is above its bar.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from statistics import median
from time import perf_counter

import msgspec
import trio

from provcache_trio import WriteBehindOptions, WriteBehindQueue, open_write_behind_queue


class Item(msgspec.Struct, frozen=True):
    """The smallest entry that a queue takes."""

    veri_key: str
    version: int = 0


class NullRepository:
    """A store that takes everything in one checkpoint."""

    async def upsert_many(self, entries: Sequence[Item], /) -> int:
        """Do nothing."""
        await trio.lowlevel.checkpoint()
        return len(entries)


async def raw_channel(items: list[Item]) -> None:  # noqa: ASYNC124  # the floor has no checkpoint
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


def newer(_old: Item, new: Item) -> Item:
    """Keep the version that was accepted last."""
    return new


Floor = Callable[[list[Item]], Awaitable[None]]
Case = Callable[[WriteBehindQueue[Item], list[Item]], Awaitable[None]]

FLOORS: dict[str, Floor] = {"raw channel": raw_channel, "checkpoint": checkpoint}
# name, what runs, on how many keys (None: all distinct), its floor, its bar
CASES: list[tuple[str, Case, int | None, str, float]] = [
    ("enqueue_nowait to settled", enqueue_nowait, None, "raw channel", 4.0),
    ("enqueue_many to settled", enqueue_many, None, "raw channel", 4.0),
    ("hot keys, last one wins", enqueue_nowait, 1000, "raw channel", 4.0),
    ("enqueue to settled", enqueue, None, "checkpoint", 1.4),
]


async def time_floor(run: Floor, items: list[Item]) -> float:
    """Return the seconds that ``run`` takes."""
    gc.collect()
    started = perf_counter()
    await run(items)
    return perf_counter() - started


async def time_case(run: Case, items: list[Item]) -> float:
    """Return the seconds that ``run`` takes on an open queue."""
    options = WriteBehindOptions(queue_capacity=len(items))
    async with open_write_behind_queue(NullRepository(), options, merge=newer) as queue:
        gc.collect()
        started = perf_counter()
        await run(queue, items)
        return perf_counter() - started


async def measure(rounds: int, entries: int) -> dict[str, list[float]]:
    """Time every floor and every case once a round; return seconds by name."""
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        distinct = [Item(f"{number}-{n}") for n in range(entries)]
        hot = [Item(f"{number}-{n % 1000}", n) for n in range(entries)]
        this_round = {name: await time_floor(run, distinct) for name, run in FLOORS.items()}
        for name, run, keys, _, _ in CASES:
            this_round[name] = await time_case(run, distinct if keys is None else hot)
        if number > 0:  # the first round warms up
            for name, taken in this_round.items():
                seconds.setdefault(name, []).append(taken)
    return seconds


def report(seconds: dict[str, list[float]], entries: int) -> bool:
    """Print the table; return whether every ratio is within its bar."""
    print(
        f"Python {platform.python_version()}, trio {version('trio')}, "
        f"msgspec {version('msgspec')}, {platform.machine()}; {entries} entries a round"
    )
    print(f"{'':28}{'us/entry':>10}{'ratio':>8}{'bar':>6}  floor")
    for name in FLOORS:
        print(f"{name:28}{median(seconds[name]) / entries * 1e6:10.2f}")
    good = True
    for name, _, _, floor, bar in CASES:
        ratios = [a / b for a, b in zip(seconds[name], seconds[floor], strict=True)]
        ratio = median(ratios)
        good = good and ratio <= bar
        per_entry = median(seconds[name]) / entries * 1e6
        print(f"{name:28}{per_entry:10.2f}{ratio:8.2f}{bar:6.1f}  {floor}")
    return good


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--check", action="store_true", help="exit with 1 above a bar")
    arguments = parser.parse_args()
    seconds = trio.run(measure, arguments.rounds, arguments.entries)
    if not report(seconds, arguments.entries) and arguments.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
