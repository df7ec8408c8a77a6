"""What a stream between the queue and PostgreSQL costs, beside the queue writing there directly.

Three servers run on this machine, beside PostgreSQL, so the ratios are those of one machine that does
everything. Each round fills the stream, which is timed; a relay empties it, which is timed; then a queue
writes the same entries directly. Connecting is not timed; a relay connects when it is opened, so its time
begins when it writes its first batch, and that batch does not count.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from provcache_trio import StoreMisconfiguredError, StoreUnavailableError, open_write_behind_queue
from provcache_trio._pgserver.binaries import PostgresNotFoundError, find_installations
from provcache_trio.nats import create_stream, open_relay, open_stream_repository
from provcache_trio.postgres import open_postgres_repository

from benchmarks.entries import Load, make_entries
from benchmarks.figures import Figure, Findings, absolute, interleaved, ratio
from benchmarks.postgres.bench import Bench, open_bench
from benchmarks.postgres.clients import SCHEMA_NAME
from benchmarks.postgres.queue_runs import options_of
from benchmarks.postgres.steps import Steps
from tests.support.nats import run_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provcache_trio import ProvcacheEntry, Repository
    from provcache_trio.postgres import PostgresRepository

    from tests.support.nats import Cluster

PART: Final = "stream"
BATCH: Final = 500
GIGABYTE: Final = 1024**3

DIRECT: Final = "queue into PostgreSQL"
PRODUCER: Final = "queue into the stream"
RELAY: Final = "stream into PostgreSQL, one relay"

LEAST_PRODUCER: Final = 1.0
LEAST_RELAY: Final = 0.75
ENTRIES_AROUND_A_LOSS: Final = 200
MOST_STEP_MILLISECONDS: Final = 20
MOST_SECONDS_KILLED: Final = 10
MOST_SECONDS_LAME: Final = 0.5


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything is done; ``faults``: whether servers are lost."""

    entries: int
    rounds: int
    faults: int


FULL: Final = Plan(entries=60_000, rounds=7, faults=3)
QUICK: Final = Plan(entries=6_000, rounds=1, faults=0)


class Ran(msgspec.Struct, frozen=True):
    """How long so many entries took, and how much of that its process computed."""

    entries: int
    seconds: float
    cpu: float


def run(*, quick: bool) -> Findings:
    """Measure everything that concerns the stream."""
    plan = QUICK if quick else FULL
    try:
        find_installations()
    except PostgresNotFoundError as error:
        return Findings(absent=[f"{PART}: {error}"])
    findings = Findings()
    with run_cluster() as cluster, open_bench(PART) as bench:
        _compare(bench, cluster, plan, findings)
        for what, bar, lose in (
            ("the leader is killed", MOST_SECONDS_KILLED, signal.SIGKILL),
            ("the leader is a lame duck", MOST_SECONDS_LAME, signal.SIGUSR2),
        ):
            gaps = [_gap(bench, cluster, lose) for _ in range(plan.faults)]
            name = f"longest time without an acknowledgement, {what}"
            if gaps:
                findings.figures.append(absolute(PART, name, gaps, "s", bar=bar))
            else:
                findings.absent.append(f"{PART}: {name}")
    return findings


def _compare(bench: Bench, cluster: Cluster, plan: Plan, findings: Findings) -> None:
    load = Load(number=plan.entries)
    bench.ours(make_stream, cluster.url, "rates")
    ran: dict[str, list[Ran]] = {PRODUCER: [], RELAY: [], DIRECT: []}

    def measure(name: str, function: Callable[..., Ran], *arguments: object) -> float:
        if name != PRODUCER:
            bench.empty(load)
        one: Ran = bench.ours(function, *arguments)
        if name != PRODUCER:
            bench.demand(load, name)
        ran[name].append(one)
        return one.entries / one.seconds

    rates = interleaved(
        {
            PRODUCER: partial(measure, PRODUCER, fill, cluster.url, "rates", load),
            RELAY: partial(measure, RELAY, drain, cluster.url, "rates", bench.dsn, load),
            DIRECT: partial(measure, DIRECT, write, bench.dsn, load),
        },
        plan.rounds,
    )
    bench.ours(fill, cluster.url, "rates", load)
    bench.empty(load)
    step: float = bench.ours(longest_step, cluster.url, "rates", bench.dsn, load)
    cpu = {name: [1e6 * one.cpu / one.entries for one in runs[1:]] for name, runs in ran.items()}
    findings.figures += [
        *(absolute(PART, name, rates[name], "entries/s", better="more") for name in rates),
        ratio(PART, PRODUCER, rates, PRODUCER, DIRECT, bar=LEAST_PRODUCER, better="more"),
        ratio(PART, RELAY, rates, RELAY, DIRECT, bar=LEAST_RELAY, better="more"),
        *(absolute(PART, f"{name}, CPU of its process", cpu[name], "us an entry") for name in cpu),
        Figure(
            part=PART,
            name="longest task step of the relay, CPU time",
            value=step,
            unit="ms",
            bar=MOST_STEP_MILLISECONDS,
        ),
    ]


# In a process of their own: trio-asyncio changes asyncio for the whole process


def make_stream(url: str, stream: str) -> None:
    """Make a stream on three servers, once each of them is known to be there."""

    async def make() -> None:
        with trio.fail_after(60):
            while True:
                try:
                    await create_stream(url, stream, max_bytes=GIGABYTE)
                except StoreMisconfiguredError:
                    raise
                except StoreUnavailableError:
                    await trio.sleep(0.2)
                else:
                    return

    trio.run(make)


def fill(url: str, stream: str, load: Load) -> Ran:
    """Have a queue put all of ``load`` into the stream."""

    async def main() -> Ran:
        async with open_stream_repository(url, stream) as repository:
            await repository.check()  # connects
            return await _through_a_queue(repository, load)

    return trio.run(main)


def write(dsn: str, load: Load) -> Ran:
    """Have a queue put all of ``load`` into PostgreSQL."""

    async def main() -> Ran:
        async with open_postgres_repository(dsn, schema=SCHEMA_NAME) as repository:
            await repository.upsert_many(())  # connects
            return await _through_a_queue(repository, load)

    return trio.run(main)


async def _through_a_queue(repository: Repository[Any], load: Load) -> Ran:
    entries = load.entries()
    gc.collect()
    watch = _Watch()
    async with open_write_behind_queue(repository, options_of(BATCH, 1)) as queue:
        await queue.enqueue_many(entries)
    ran = watch.ran(load.number)
    if queue.metrics().total_coalesced:
        raise AssertionError("versions met in line, so less was written than by others")
    return ran


def drain(url: str, stream: str, dsn: str, load: Load) -> Ran:
    """Have a relay take all that is in the stream to PostgreSQL."""
    return trio.run(_drain, url, stream, dsn, load, None)


def longest_step(url: str, stream: str, dsn: str, load: Load) -> float:
    """Return the milliseconds of the longest task step while ``drain`` runs; that makes it slower."""
    steps = Steps()
    trio.run(_drain, url, stream, dsn, load, steps, instruments=[steps])
    return max(steps.longest)


async def _drain(url: str, stream: str, dsn: str, load: Load, steps: Steps | None) -> Ran:
    async with open_postgres_repository(dsn, schema=SCHEMA_NAME) as repository:
        await repository.upsert_many(())  # connects
        gc.collect()
        counted = _Counted(repository, load.number)
        await trio.lowlevel.checkpoint()  # that was a long step
        if steps is not None:
            steps.begin_flush()
        async with open_relay(url, stream, counted, options_of(BATCH, 1)) as relay:
            await counted.all_written.wait()
            ran = counted.ran()
        if relay.metrics().total_coalesced:
            raise AssertionError("versions met in line, so less was written than by others")
    return ran


class _Counted:
    """A repository that says when so many entries were written, and what those after the first batch took."""

    def __init__(self, repository: PostgresRepository, number: int) -> None:
        self._repository = repository
        self._number = self._left = number
        self._watch: _Watch | None = None
        self.all_written = trio.Event()
        self.prepare = repository.prepare

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        if self._watch is None:
            self._watch = _Watch()
            self._number -= len(entries)
        changed = await self._repository.upsert_many(entries)
        self._left -= len(entries)
        if self._left <= 0:
            self.all_written.set()
        return changed

    def ran(self) -> Ran:
        if self._watch is None:
            raise AssertionError("nothing was written")
        return self._watch.ran(self._number)


class _Watch:
    """Takes the time from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    def ran(self, entries: int) -> Ran:
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        return Ran(entries, seconds, cpu)


# Servers that are lost


def _gap(bench: Bench, cluster: Cluster, number: signal.Signals) -> float:
    """Return the longest time without an acknowledgement around the loss of the leader."""
    stream = f"gap_{time.monotonic_ns()}"
    bench.ours(make_stream, cluster.url, stream)
    server = cluster.leader(stream)
    longest: float = bench.ours(longest_gap, cluster.url, stream, server.process_id, number)
    server.end()
    server.start()
    cluster.wait()
    return longest


def longest_gap(url: str, stream: str, leader: int, number: signal.Signals) -> float:
    """Send that signal to the leader while entries are persisted, one after the other.

    Returns:
        The longest time between two acknowledgements until all is as before.
    """
    entries = make_entries(range(2 * ENTRIES_AROUND_A_LOSS), 0)

    async def main() -> float:
        times: list[float] = []
        async with (
            open_stream_repository(url, stream) as repository,
            open_write_behind_queue(repository) as queue,
        ):
            for count, entry in enumerate(entries):
                if count == ENTRIES_AROUND_A_LOSS:
                    os.kill(leader, number)
                await queue.persist(entry)
                times.append(trio.current_time())
                await trio.sleep(0.005)
        return max(after - before for before, after in pairwise(times))

    return trio.run(main)
