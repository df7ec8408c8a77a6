"""A program with a queue and several producers, that writes down what each of them was told.

Run by ``storm``. SIGTERM ends it in order. Each line of the record is a JSON array: what
happened, and its details; what was asked is there before it is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    ProvcacheEntry,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.postgres import open_postgres_repository
from provcache_trio.testing import MemoryDeadLetters

from tests.faults.site import (
    COMMAND_SECONDS,
    CONNECT_SECONDS,
    POISON,
    REWRITTEN,
    SECRET,
    own_table_of,
)
from tests.support.entries import NOW, entry
from tests.support.items import balance

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from provcache_trio import WriteBehindQueue
    from provcache_trio._asyncio.bridge import BridgeKind

PRODUCERS: Final = 4
MOST_WORKERS: Final = 64  # whose times of creation are told apart
OPTIONS: Final = WriteBehindOptions(
    queue_capacity=300,
    batch_size=40,
    flush_interval_seconds=0.02,
    max_retries=None,
    retry_base_seconds=0.02,
    retry_cap_seconds=0.5,
    drain_timeout_seconds=20,
)


class Worker:
    """Producers of one process."""

    def __init__(self, number: int, seed: str, record: int) -> None:
        self._number = number
        self._chance = Random(f"{seed} {number}")  # noqa: S311  # no secret
        self._record = record
        self._taken: set[int] = set()
        self._version = 0
        self._accepted = 0  # lines of the record that said so
        self.queue: WriteBehindQueue[ProvcacheEntry]

    def write(self, *line: object) -> None:
        """Write a line that is there even if this process is killed next."""
        os.write(self._record, json.dumps(line).encode() + b"\n")

    def new_entry(self) -> tuple[str, ProvcacheEntry]:
        """Return an entry with its name; no other, of any process, has the same moment."""
        chance = self._chance
        self._version += 1
        name = f"{self._number}.{self._version}"
        poisoned = chance.random() < 0.01
        key: object = chance.choice((chance.randrange(REWRITTEN), f"once {name}"))
        if poisoned:
            key = f"poison {name}"
        # On a clock that all processes share; one entry in five is late.
        age = chance.choice((0, 0, 0, 0, chance.randrange(500_000)))
        moment = (int(time.monotonic() * 1e6) - age) // MOST_WORKERS
        while moment in self._taken:
            moment += 1
        self._taken.add(moment)
        made = entry(
            key,
            created_at=NOW + timedelta(microseconds=moment * MOST_WORKERS + self._number),
            expires_at=NOW + timedelta(days=36500),
            hit_count=POISON if poisoned else chance.randrange(50),
            last_accessed_at=chance.choice((None, NOW + timedelta(microseconds=moment))),
            feed_epoch=f"{SECRET} {name}",
        )
        self.write("asked", name, made.veri_key, *_fields(made))
        return name, made

    async def produce(self) -> None:
        """Bring entries in every way that there is, and write down what becomes of them."""
        ways = (self._enqueue, self._enqueue, self._at_once, self._in_a_hurry, self._persist)
        while True:
            name, made = self.new_entry()
            await self._chance.choice(ways)(name, made)
            await trio.sleep(self._chance.uniform(0, 0.02))

    async def _enqueue(self, name: str, made: ProvcacheEntry) -> None:
        await self.queue.enqueue(made)
        self._accept(name)

    async def _at_once(self, name: str, made: ProvcacheEntry) -> None:
        try:
            self.queue.enqueue_nowait(made)
        except trio.WouldBlock:
            self.write("failed", name)
        else:
            self._accept(name)
        await trio.lowlevel.checkpoint()

    async def _in_a_hurry(self, name: str, made: ProvcacheEntry) -> None:
        with trio.move_on_after(0.005) as scope:
            await self.queue.enqueue(made)
            self._accept(name)
        if scope.cancelled_caught:
            self.write("failed", name)

    async def _persist(self, name: str, made: ProvcacheEntry) -> None:
        with trio.move_on_after(1):  # its outcome is unknown then
            try:
                await self.queue.persist(made)
            except EntryRejectedError:
                self.write("refused", name)
            else:
                self.write("persisted", name)

    def _accept(self, name: str) -> None:
        self._accepted += 1
        self.write("accepted", name)

    async def flush(self) -> None:
        """Now and then wait for everything."""
        while True:
            await trio.sleep(self._chance.uniform(0, 2))
            accepted = self._accepted
            await self.queue.flush()
            self.write("flushed", accepted)

    async def look(self) -> None:
        """Check the identity, and how long the loop stands still."""
        while True:
            assert balance(self.queue.metrics()) == 0
            await trio.sleep(0.01)

    async def run(self) -> None:
        """Do all of it until it is cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(PRODUCERS):
                nursery.start_soon(self.produce)
            tasks: list[Callable[[], Awaitable[None]]] = [self.flush, self.look]
            for task in tasks:
                nursery.start_soon(task)


def _fields(made: ProvcacheEntry) -> tuple[float, int, float | None]:
    """Return what the verdict needs, as numbers: microseconds after NOW, and hits."""
    accessed = made.last_accessed_at
    return (
        (made.created_at - NOW) // timedelta(microseconds=1),
        made.hit_count,
        None if accessed is None else (accessed - NOW) // timedelta(microseconds=1),
    )


def _name_of(made: ProvcacheEntry) -> str:
    return made.feed_epoch.rpartition(" ")[2]


async def main(
    dsn: str, schema: str, kind: str, bridge: BridgeKind, seed: str, number: str, record: str
) -> None:
    where: dict[str, Any] = {"schema": schema}
    if kind == "table":
        where = {"table": own_table_of(schema)}
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    worker = Worker(int(number), seed, descriptor)
    letters = MemoryDeadLetters[ProvcacheEntry]()
    with trio.CancelScope() as scope, trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                async for _ in signals:
                    scope.cancel()

            nursery.start_soon(end)
            try:
                async with (
                    open_postgres_repository(
                        dsn,
                        **where,
                        connect_timeout_seconds=CONNECT_SECONDS,
                        command_timeout_seconds=COMMAND_SECONDS,
                        bridge=bridge,
                    ) as repository,
                    open_write_behind_queue(
                        repository, OPTIONS, dead_letters=letters
                    ) as worker.queue,
                ):
                    worker.write("started", os.getpid())
                    await worker.run()
            except DrainTimeoutError:
                pass
    metrics = worker.queue.metrics()
    worker.write(
        "ended",
        [_name_of(one) for one in worker.queue.undelivered],
        [_name_of(letter.entry) for letter in letters.letters],
        balance(metrics),
        metrics.current_queue_depth + metrics.in_flight,
        len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    )


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    trio.run(main, *arguments)
