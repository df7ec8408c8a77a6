"""Makes faults by a seed while two processes write the same keys, and asks for the verdict."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from provcache_trio._asyncio.bridge import DEFAULT_KIND

from tests.chaos.verdict import verdict
from tests.faults.catalogue import FAULTS
from tests.faults.site import (
    POISON,
    UNANSWERED,
    draws_own_table,
    open_site,
    run_faulty_server,
)
from tests.support.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.catalogue import Fault
    from tests.faults.site import Site

SETTLED_SECONDS: Final = 40  # from the end of the last fault to the end of the processes
MOST_CONNECTIONS: Final = 16  # of two processes, those that were killed included
# Those that make dead letters of good entries, by design, or that are in the process itself.
_NOT_HERE: Final = frozenset({"every_row_is_refused", "the_clock_is_set_back"})


class Event(NamedTuple):
    """Something that was done, in seconds from the beginning."""

    at: float
    what: str

    def __str__(self) -> str:
        return f"{self.at:8.2f} s  {self.what}"


class Storm:
    """A run; see ``chaos``."""

    def __init__(self, seed: int, sites: list[Site], folder: Path) -> None:
        self._seed = seed
        self._sites = sites
        self._folder = folder
        self._began = trio.current_time()
        self._workers = 0
        self._processes: list[trio.Process | None] = [None] * len(sites)
        self._current: dict[int, Path] = {}
        self.records: list[Path] = []
        self.killed: list[Path] = []  # the records of those that had no time to end
        self.events: list[Event] = []
        self.wrong: list[str] = []
        self.most_connections = 0

    async def run(self, seconds: float) -> None:
        """Let the processes run, and make faults, each kind in its own order, for so long."""
        async with trio.open_nursery() as nursery:
            for place in range(len(self._sites)):
                await self._start(place)
            nursery.start_soon(self._count_connections)
            lanes: list[Callable[[Random], object]] = [
                self._strike_the_server,
                self._strike_a_line,
                self._strike_a_process,
            ]
            async with trio.open_nursery() as striking:
                for lane in range(len(lanes)):
                    striking.start_soon(self._strike, lanes[lane], lane, seconds)
            await self._end()
            nursery.cancel_scope.cancel()

    # Faults. Those of one lane come one after the other, so none is in the way of another's mending.

    async def _strike(self, strike: Callable[[Random], object], lane: int, seconds: float) -> None:
        chance = Random(f"{self._seed} {lane}")  # noqa: S311  # no secret
        while trio.current_time() < self._began + seconds:
            await strike(chance)  # type: ignore[misc]  # a coroutine
            await trio.sleep(chance.uniform(0, 1.5))

    async def _strike_the_server(self, chance: Random) -> None:
        faults = [one for one in self._faults() if not one.by_proxy]
        await self._make(chance.choice(faults), self._sites[0], chance.uniform(0.1, 3))

    async def _strike_a_line(self, chance: Random) -> None:
        faults = [one for one in self._faults() if one.by_proxy]
        site = chance.choice(self._sites)
        await self._make(chance.choice(faults), site, chance.uniform(0.1, 3))
        await site.proxy.heal()

    def _faults(self) -> list[Fault]:
        return [
            one
            for one in FAULTS.values()
            if one.name not in _NOT_HERE and not one.poison and one.host == "127.0.0.1"
        ]

    async def _make(self, fault: Fault, site: Site, seconds: float) -> None:
        self.note(f"{fault.name} (line {self._sites.index(site)}, {seconds:.2f} s)")
        # Some wait for the moment to strike, which need not come while there are others.
        with trio.move_on_after(seconds + 5):
            async with fault.make(site):
                await trio.sleep(seconds)
        self.note(f"mended: {fault.name}")

    async def _strike_a_process(self, chance: Random) -> None:
        await trio.sleep(chance.uniform(1, 6))
        place = chance.randrange(len(self._processes))
        process = self._processes[place]
        assert process is not None
        if chance.random() < 0.3:
            self.note(f"kill process {place}")
            process.kill()
            await process.wait()
            self.killed.append(self._current[place])
            await self._start(place)
        else:
            seconds = chance.uniform(0.1, 3)
            self.note(f"stop process {place} for {seconds:.2f} s")
            os.kill(process.pid, signal.SIGSTOP)
            await trio.sleep(seconds)
            os.kill(process.pid, signal.SIGCONT)

    # Processes

    async def _start(self, place: int) -> None:
        self._workers += 1
        record = self._folder / f"worker-{self._workers}"
        self.records.append(record)
        self._current[place] = record
        site = self._sites[place]
        bridge = DEFAULT_KIND if place == 0 else "thread"
        kind = "entries" if site.declared is None else "table"
        arguments = (site.dsn, site.schema, kind, bridge, str(self._seed), str(self._workers))
        command = [sys.executable, "-m", "tests.chaos.worker", *arguments, str(record)]
        with (self._folder / f"log-{self._workers}").open("wb") as log:
            self._processes[place] = await trio.lowlevel.open_process(
                command, stdout=log, stderr=log, cwd=ROOT
            )

    async def _end(self) -> None:
        """End the processes in order; each has to come to its end soon."""
        self.note("everything is mended")
        with trio.fail_after(SETTLED_SECONDS):
            for record in self._current.values():  # one that just starts does not hear us
                while not (record.exists() and record.stat().st_size):  # noqa: ASYNC110  # no event tells
                    await trio.sleep(0.05)
        with trio.move_on_after(SETTLED_SECONDS) as scope:
            for process in self._processes:
                assert process is not None
                process.terminate()
            for process in self._processes:
                assert process is not None
                if await process.wait() != 0:
                    self.wrong.append("a process failed")
        if scope.cancelled_caught:
            self.wrong.append(f"not everything was settled within {SETTLED_SECONDS} s")
            for process in self._processes:
                assert process is not None
                process.kill()
        self.note("the processes have ended")

    async def _count_connections(self) -> None:
        while True:
            with suppress(*UNANSWERED):
                number = await self._sites[0].connections()
                self.most_connections = max(self.most_connections, number)
            await trio.sleep(0.25)

    def note(self, what: str) -> None:
        """Write down what is done now."""
        self.events.append(Event(trio.current_time() - self._began, what))


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        wrong: broken promises, in words.
        events: what was done.
        records: what each worker wrote down.
    """

    wrong: list[str]
    events: list[Event]
    records: list[Path]


async def chaos(*, seconds: float, seed: int, folder: Path) -> Outcome:
    """Make faults for so many seconds, and return what came of it.

    Args:
        seconds: how long; mending, settling and the verdict come on top.
        seed: draws the table, the faults, their times, and what the producers do.
        folder: for the records and logs of the processes.
    """
    with run_faulty_server() as server:
        async with AsyncExitStack() as stack:
            own_table = draws_own_table("chaos", str(seed))
            first = await stack.enter_async_context(open_site(server, own_table=own_table))
            second = await stack.enter_async_context(open_site(server, like=first))
            await first.execute(
                f"ALTER TABLE {first.table} ADD CHECK (hit_count <> {POISON}) NOT VALID"
            )
            storm = Storm(seed, [first, second], folder)
            storm.note("a table of the user's own" if own_table else "the built-in table")
            await storm.run(seconds)
            wrong = storm.wrong + await verdict(first, storm.records, storm.killed)
            if storm.most_connections > MOST_CONNECTIONS:
                wrong.append(f"there were {storm.most_connections} connections")
            if await first.connections():
                wrong.append("connections are left")
    return Outcome(wrong, storm.events, storm.records)
