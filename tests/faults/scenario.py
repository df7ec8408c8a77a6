"""A queue with producers that goes through a fault, and every promise that it has to keep."""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from provcache_trio import (
    DrainTimeoutError,
    ProvcacheEntry,
    WriteBehindOptions,
    merge_entries,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters

from tests.faults.catalogue import SILENT
from tests.faults.site import POISON, REWRITTEN, SECRET, UNANSWERED
from tests.support.entries import NOW, entry
from tests.support.items import balance
from tests.support.waiting import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

    from provcache_trio import WriteBehindMetrics, WriteBehindQueue
    from provcache_trio._asyncio.bridge import BridgeKind
    from provcache_trio.postgres import PostgresRepository

    from tests.faults.catalogue import Fault
    from tests.faults.site import Site

# Bounds are for a machine that has other things to do as well.
DRAIN_SECONDS: Final = 0.5
EXIT_SECONDS: Final = DRAIN_SECONDS + 2 + 5  # a cancelled call; the repository; a busy machine
STALL_SECONDS: Final = 1.0  # a wait in this thread would be for good
MOST_CONNECTIONS: Final = 4  # one that writes, one that is being replaced, and one to cancel it
OPTIONS: Final = WriteBehindOptions(
    queue_capacity=500,
    batch_size=50,
    flush_interval_seconds=0.02,
    max_retries=None,  # or conflicts without end would, after 40 s by default, make dead letters
    retry_base_seconds=0.02,
    retry_cap_seconds=0.2,
    drain_timeout_seconds=10,
)
# What was handed back is written by a queue that has time, however many are refused one by one.
UNHURRIED: Final = msgspec.structs.replace(OPTIONS, drain_timeout_seconds=HANG_SECONDS)
IN_A_HURRY: Final = msgspec.structs.replace(OPTIONS, drain_timeout_seconds=DRAIN_SECONDS)
LOST: Final = ("store lost", "store misconfigured")
FOUND: Final = "store found again"


class Log(logging.Handler):
    """What the queue logs while the block runs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._logger = logging.getLogger("provcache_trio")

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().removeprefix("default: "))

    def __enter__(self) -> Self:
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)


class Run:
    """What one queue was given and told, and what was seen of it."""

    def __init__(self, site: Site, fault: Fault) -> None:
        self.site = site
        self.fault = fault
        site.host = fault.host
        self.accepted: list[ProvcacheEntry] = []
        self.letters = MemoryDeadLetters[ProvcacheEntry]()
        self.states: set[str] = set()
        self.errors: set[str] = set()
        self.most_connections = 0
        self.longest_stall = 0.0
        self.queue: WriteBehindQueue[ProvcacheEntry] | None = None
        self._chance = Random(4)  # noqa: S311  # no secret
        self._version = 0

    # What it does

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[trio.Nursery]:
        """Watch the queue, its connections and the loop while the block runs."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            nursery.start_soon(self._count_connections)
            nursery.start_soon(self._listen_to_the_echo)
            yield nursery
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def producing(self) -> AsyncGenerator[None]:
        """Let three tasks bring entries while the block runs."""
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(self._produce)
            yield
            nursery.cancel_scope.cancel()

    async def steady(self) -> None:
        """Wait until entries are written."""
        before = self.metrics().total_persisted
        await until(lambda: self.metrics().total_persisted > before + 50)

    async def felt(self) -> None:
        """Wait until ``metrics()`` says what the fault is, and see it last."""
        fault = self.fault
        await until(lambda: fault.is_felt(self.metrics()))
        await until(lambda: not fault.told or bool(self.errors & fault.told))
        await trio.sleep(self.fault.lasts_seconds)

    def metrics(self) -> WriteBehindMetrics:
        assert self.queue is not None
        return self.queue.metrics()

    async def _produce(self) -> None:
        assert self.queue is not None
        while True:
            one = self._next_entry()
            await self.queue.enqueue(one)
            self.accepted.append(one)  # in the same step: the order is that of acceptance
            await trio.sleep(0.002)

    def _next_entry(self) -> ProvcacheEntry:
        self._version += 1
        chance = self._chance
        if chance.random() < self.fault.poison:
            return entry(f"poison {self._version}", hit_count=POISON, feed_epoch=SECRET)
        return entry(
            chance.choice(
                (chance.randrange(REWRITTEN), self._version + REWRITTEN)
            ),  # known, or new
            created_at=NOW + timedelta(seconds=chance.uniform(0, 9), microseconds=self._version),
            hit_count=chance.randrange(50),
            last_accessed_at=chance.choice((None, NOW + timedelta(seconds=self._version))),
            feed_epoch=f"{SECRET} {self._version}",
        )

    # What is seen

    async def _look(self) -> None:
        while True:
            await trio.sleep(0.01)
            if self.queue is None:
                continue
            metrics = self.queue.metrics()
            assert balance(metrics) == 0
            assert metrics.current_queue_depth <= OPTIONS.queue_capacity
            self.states.add(metrics.state)
            if (error := metrics.last_error) is not None:
                self.errors.add(error.sqlstate or error.error_class)

    async def _count_connections(self) -> None:
        while True:
            with suppress(*UNANSWERED):
                self.most_connections = max(self.most_connections, await self.site.connections())
            await trio.sleep(0.1)

    async def _listen_to_the_echo(self) -> None:
        while True:
            began, waited = time.monotonic(), _seconds_without_a_processor()
            await trio.lowlevel.checkpoint()
            missed = _seconds_without_a_processor() - waited
            self.longest_stall = max(self.longest_stall, time.monotonic() - began - missed)
            await trio.sleep(0.005)

    # What is promised

    def check_what_was_seen(self) -> None:
        assert self.fault.state is None or self.fault.state in self.states, self.states
        assert self.errors <= self.fault.errors | SILENT, self.errors  # which a busy machine is
        assert bool(self.errors) >= (self.fault.state is not None)
        assert self.most_connections <= MOST_CONNECTIONS
        assert self.longest_stall < STALL_SECONDS

    def check_log(self, lines: list[str]) -> None:
        """The log tells what began and what ended, and not every try."""
        changes = [line for line in lines if line.startswith((*LOST, FOUND))]
        if self.fault.state == "waiting":
            assert any(line.startswith(self.fault.logged) for line in changes), lines
        if self.fault.logged == LOST[0]:  # nobody is called who could do nothing
            assert not any(line.startswith(LOST[1]) for line in changes), lines
        for line, following in pairwise(changes):
            assert line.partition(":")[0] != following.partition(":")[0], lines
        assert SECRET not in "".join(lines)
        assert len(lines) < 100

    def check_letters(self) -> None:
        """Nothing good is dead-lettered."""
        good = [letter for letter in self.letters.letters if letter.entry.hit_count != POISON]
        assert len(good) <= self.fault.most_letters

    async def check_table(self) -> None:
        """Rows are what was accepted, merged; and none ever went back to something older."""
        async with self.site.opening_for_ourselves() as repository:
            await self._check_rows(repository)
        assert await self.site.steps_back() == 0

    async def _check_rows(self, repository: PostgresRepository) -> None:
        expected: dict[str, ProvcacheEntry] = {}
        for one in self.accepted:
            old = expected.get(one.veri_key)
            expected[one.veri_key] = one if old is None else merge_entries(old, one)
        rows = await repository.get_many(expected)
        assert await repository.count() == len(rows)
        for letter in self.letters.letters:
            del expected[letter.entry.veri_key]
        assert [key for key, one in expected.items() if rows.get(key) != one] == []


class Trouble:
    """A fault that is made and mended by a task of its own, so in no order with anything else."""

    def __init__(self, fault: Fault, site: Site) -> None:
        self._fault = fault
        self._site = site
        self._mend = trio.Event()
        self._mended = trio.Event()

    async def run(  # noqa: ASYNC114  # started by the nursery that watches
        self, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Make the fault, and say so; mend it when that is asked for."""
        async with self._fault.make(self._site):
            task_status.started()
            await self._mend.wait()
        self._mended.set()

    async def mend(self) -> None:
        """Return when the fault is mended."""
        self._mend.set()
        await self._mended.wait()


async def recover(
    site: Site,
    fault: Fault,
    bridge: BridgeKind,
    *,
    from_the_start: bool = False,
    pgbouncer: bool = False,
) -> None:
    """Go through ``fault`` and out of it, and check every promise."""
    run = Run(site, fault)
    trouble = Trouble(fault, site)
    with Log() as log:
        async with run.watched() as watchers:
            if from_the_start:
                await watchers.start(trouble.run)
            async with site.opening(bridge, fault.settings, pgbouncer=pgbouncer) as repository:
                async with open_write_behind_queue(
                    repository, OPTIONS, dead_letters=run.letters, wall_clock=site.now
                ) as queue:
                    run.queue = queue
                    async with run.producing():
                        if not from_the_start:
                            await run.steady()
                            await watchers.start(trouble.run)
                        await run.felt()
                        await trouble.mend()
                        await run.steady()
                    with trio.fail_after(HANG_SECONDS):
                        await queue.flush()
                    assert queue.metrics().state == "running"
                assert queue.undelivered == ()
                await run.check_table()
        if not pgbouncer:  # which keeps its own
            await none_left(site)
    run.check_what_was_seen()
    run.check_log(log.lines)
    run.check_letters()
    assert [line.partition(":")[0] for line in log.lines[-2:]] == ["drained", "stopped"]


async def leave(site: Site, fault: Fault, bridge: BridgeKind) -> None:
    """Leave queue and repository in the middle of ``fault``, and check every promise."""
    run = Run(site, fault)
    trouble = Trouble(fault, site)
    with Log() as log:
        async with run.watched() as watchers:
            with suppress(DrainTimeoutError):
                async with (
                    site.opening(bridge, fault.settings) as repository,
                    open_write_behind_queue(
                        repository, IN_A_HURRY, dead_letters=run.letters, wall_clock=site.now
                    ) as run.queue,
                ):
                    async with run.producing():
                        await run.steady()
                        await watchers.start(trouble.run)
                        await run.felt()
                    left_at = trio.current_time()
            assert trio.current_time() - left_at < EXIT_SECONDS
            await trouble.mend()
        await none_left(site)
    assert run.queue is not None
    left = run.queue.undelivered
    assert run.queue.metrics().total_abandoned == len(left)
    assert any("handed back" in line for line in log.lines) == bool(left)
    assert log.lines[-1].startswith("stopped: ")
    run.check_what_was_seen()
    run.check_log(log.lines)
    run.check_letters()
    async with (
        site.opening_for_ourselves() as repository,
        open_write_behind_queue(repository, UNHURRIED, dead_letters=run.letters) as again,
    ):
        await again.enqueue_many(left)
    await run.check_table()


async def none_left(site: Site) -> None:
    """Wait until the server has no connection of the queue any more."""

    async def none() -> bool:
        return await site.connections() == 0

    await until(none)


def _seconds_without_a_processor() -> float:
    """Return how long this thread was ready to run, and others ran instead."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text("ascii").split()[1]) / 1e9
    except OSError:
        return 0.0
