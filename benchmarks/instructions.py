"""Guard against slipping back: count the instructions of an entry, which no busy machine changes.

    python -m benchmarks.instructions [--write]

Runs every case once under callgrind, in a process of its own, and divides by what an entry costs
in trio's raw channel in the same run. Exits with status 1 if a ratio is more than 5 % above the
one stored for these versions in ``instructions.json``, or if the cost of accepting an entry grows
with the number waiting. ``--write`` stores the ratios. Without valgrind nothing is run.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio
import trio.testing

from provcache_trio import WriteBehindOptions, WriteBehindQueue, open_write_behind_queue

from benchmarks.cache import lasting_entries, warm_cache
from benchmarks.stores import HeldRepository, Item, NullRepository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Accept = Callable[[WriteBehindQueue[Item], Sequence[Item]], Awaitable[None]]

STORED = Path(__file__).with_name("instructions.json")
SLIP = 1.05
ENTRIES = 10_000
HOT_KEYS = 1000
WARM_UP = 1000  # entries of each case that run first and are not counted
MORE = 5000  # entries accepted beside those that wait
# How many wait, and what accepting one more may cost then, of what it costs with the fewest. The
# keys of a million are in several dicts, none of which takes long to grow.
WAITING = {1000: 1.0, 10_000: 1.15, 100_000: 1.15, 1_000_000: 2.5}
SLOWER = 10  # a persist costs so much that fewer are enough
RAW = "raw channel"
PERSIST = "persist, idle queue"
PEEK = "peek of a cache"
# Under callgrind everything takes fifty times as long, on a busy machine more: no clock may
# decide how many batches are written.
NEVER = 3600.0
# Callgrind divides its counts where the C function of this name is called; nothing else calls it.
MARK = os.getppid


def main() -> int:
    """Count, show, compare or store; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--write", action="store_true", help="store the ratios")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        trio.run(child)
        return 0
    if shutil.which("valgrind") is None:
        print("NOT RUN: there is no valgrind here, so no instruction was counted.")
        return 0
    counted = count_instructions()
    ratios = {name: each / counted[RAW] for name, each in counted.items() if name != RAW}
    stored: dict[str, dict[str, float]] = {}
    if STORED.exists():
        stored = msgspec.json.decode(STORED.read_bytes(), type=dict[str, dict[str, float]])
    before = stored.get(versions(), {})
    print(f"{versions()}\n{'':34}{'per entry':>10}{'ratio':>8}{'stored':>8}")
    print(f"{RAW:34}{counted[RAW]:10,.0f}")
    for name, ratio in ratios.items():
        print(f"{name:34}{counted[name]:10,.0f}{ratio:8.3f}{before.get(name, ''):>8}")
    if arguments.write:
        stored[versions()] = {name: round(ratio, 3) for name, ratio in ratios.items()}
        STORED.write_bytes(msgspec.json.format(msgspec.json.encode(stored)) + b"\n")
        before = stored[versions()]
    elif not before:
        print("nothing is stored for these versions: not compared (--write stores)")
    failures = slipped(ratios, before) + grown(counted)
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def slipped(ratios: dict[str, float], before: dict[str, float]) -> list[str]:
    """Return what costs more than before."""
    return [
        f"{name}: {ratios[name]:.3f}, stored {ratio:.3f}"
        for name, ratio in before.items()
        if name in ratios and ratios[name] > SLIP * ratio
    ]


def grown(counted: dict[str, float]) -> list[str]:
    """Return the numbers waiting with which accepting an entry costs more than with the least."""
    fewest = min(WAITING)
    first = counted[accepting(fewest)]
    return [
        f"{accepting(waiting)}: {counted[accepting(waiting)] / first:.2f} of {fewest:,} waiting"
        for waiting, limit in WAITING.items()
        if counted[accepting(waiting)] > limit * first
    ]


def versions() -> str:
    """Return what the counts depend on beside our own code."""
    python = f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"
    # A distribution's build and one's own differ.
    optimized = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    build = f"{platform.python_compiler()}{', optimized' if optimized else ''}"
    packages = f"trio {version('trio')}, msgspec {version('msgspec')}"
    return f"{python} for {platform.machine()} by {build}; {packages}"


def accepting(waiting: int) -> str:
    """Return the name of the case that accepts entries while ``waiting`` wait."""
    return f"accept with {waiting:,} waiting"


def count_instructions() -> dict[str, float]:
    """Run every case in a child under callgrind; return the instructions per entry by name."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(  # noqa: S603  # our own program
            [  # noqa: S607  # valgrind, wherever it is installed
                "valgrind",
                "--quiet",
                "--tool=callgrind",
                f"--dump-before={MARK.__name__}",
                f"--callgrind-out-file={directory}/dump",
                *(sys.executable, "-m", __spec__.name, "--child"),
            ],
            # The same hashes, so the same collisions, in every run.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
        )
        # dump.1 is what ran before the first mark, dump.2 the first case, dump.3 what ran between
        # it and the second one, and so on.
        return {
            name: summary(Path(directory, f"dump.{2 * number}")) / entries
            for number, (name, entries) in enumerate(COUNTED.items(), start=1)
        }


def summary(dump: Path) -> int:
    """Return how many instructions a dump of callgrind is about."""
    for line in dump.read_text(encoding="utf-8").splitlines():
        if line.startswith("summary:"):
            return int(line.split()[1])
    raise ValueError(f"callgrind wrote no summary to {dump.name}")


async def child() -> None:
    """Run every case, with a mark at its begin and one at its end."""
    await cases(WARM_UP, (WARM_UP,), lambda: None)  # Python adapts its code to what runs
    await cases(ENTRIES, tuple(WAITING), MARK)


async def cases(entries: int, waiting: Sequence[int], mark: Callable[[], object]) -> None:
    """Run the cases in the order of ``COUNTED``; each has entries of its own."""
    items = [Item(f"raw-{n}") for n in range(entries)]
    sender, receiver = trio.open_memory_channel[Item](1)
    gc.collect()
    mark()
    for item in items:
        sender.send_nowait(item)
        receiver.receive_nowait()
    mark()
    for name, (accept, keys) in TO_SETTLED.items():
        items = [Item(f"{name}-{n % keys}", n) for n in range(entries)]
        options = WriteBehindOptions(queue_capacity=entries, flush_interval_seconds=NEVER)
        async with open_write_behind_queue(NullRepository(), options) as queue:
            gc.collect()
            mark()
            await accept(queue, items)
            await queue.flush()
            mark()
    await cases_waiting(waiting, mark)
    await case_persist(entries // SLOWER, mark)
    await case_peek(entries, mark)


async def cases_waiting(counts: Sequence[int], mark: Callable[[], object]) -> None:
    """Accept more in a queue that holds more and more."""
    items = [Item(f"waiting-{n}") for n in range(counts[-1] + MORE)]
    store = HeldRepository()
    options = WriteBehindOptions(
        queue_capacity=len(items), flush_interval_seconds=NEVER, drain_timeout_seconds=NEVER
    )
    async with open_write_behind_queue(store, options) as queue:
        done = 0
        for count in counts:
            await queue.enqueue_many(items[done:count])
            await trio.testing.wait_all_tasks_blocked()
            done = count + MORE
            some = items[count:done]
            gc.collect()
            mark()
            await one_by_one(queue, some)
            mark()
        store.release()


async def case_persist(entries: int, mark: Callable[[], object]) -> None:
    """Have an idle queue store one entry after another: what its tasks take beside the store."""
    items = [Item(f"persisted-{n}") for n in range(entries)]
    async with open_write_behind_queue(NullRepository()) as queue:
        gc.collect()
        mark()
        for item in items:
            await queue.persist(item)
        mark()


async def case_peek(entries: int, mark: Callable[[], object]) -> None:
    """Look for what the memory of a cache holds."""
    held = lasting_entries()
    async with warm_cache(held) as cache:
        keys = [held[n % len(held)].veri_key for n in range(entries)]
        gc.collect()
        mark()
        for key in keys:
            cache.peek(key)
        mark()


async def one_by_one(queue: WriteBehindQueue[Item], items: Sequence[Item]) -> None:  # noqa: ASYNC124  # measured as the others are, which wait
    """Accept without waiting."""
    for item in items:
        queue.enqueue_nowait(item)


async def one_after_another(queue: WriteBehindQueue[Item], items: Sequence[Item]) -> None:
    """Accept with a checkpoint for each."""
    for item in items:
        await queue.enqueue(item)


async def all_at_once(queue: WriteBehindQueue[Item], items: Sequence[Item]) -> None:
    """Accept in bulk."""
    await queue.enqueue_many(items)


# name: what accepts the entries, on how many keys
TO_SETTLED: dict[str, tuple[Accept, int]] = {
    "enqueue_nowait to settled": (one_by_one, ENTRIES),
    "enqueue to settled": (one_after_another, ENTRIES),
    "enqueue_many to settled": (all_at_once, ENTRIES),
    "hot keys, last one wins": (one_by_one, HOT_KEYS),
}
# Every case in the order in which the child runs them, and how many entries it is divided by.
COUNTED = {
    RAW: ENTRIES,
    **dict.fromkeys(TO_SETTLED, ENTRIES),
    **{accepting(count): MORE for count in WAITING},
    PERSIST: ENTRIES // SLOWER,
    PEEK: ENTRIES,
}


if __name__ == "__main__":
    sys.exit(main())
