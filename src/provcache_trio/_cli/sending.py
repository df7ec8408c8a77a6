"""Sends entries that a file keeps to a store, which may stay away or refuse some for good."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec
import trio

from provcache_trio import open_write_behind_queue
from provcache_trio._vocabulary.letters import why

from .running import Job
from .stores import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
    from pathlib import Path

    from provcache_trio import DeadLetter, WriteBehindOptions, WriteBehindQueue

    from .progress import Progress
    from .stores import Store, Target

    # Removes entries from the file, by their numbers.
    Remove: TypeAlias = Callable[[Sequence[int]], Awaitable[object]]

# A queue that sees twenty refusals in a row blames the store and waits. Here a refused entry stays in
# its file, so each queue gets fewer than twenty.
AT_ONCE: Final = 19
_REMOVAL_SECONDS: float = 10


class Kept(msgspec.Struct, frozen=True):
    """An entry that a file keeps.

    Attributes:
        number: its number in the file.
        label: its name in messages.
        entry: the entry itself.
    """

    number: int
    label: str
    entry: Any


class Resending(Job):
    """A job that sends the entries of a file through a queue, and removes those that were stored.

    In between, an entry is in both places, never in none. One that is sent twice, after a crash
    before its removal, changes nothing in the store the second time. Entries that the store
    refuses stay in the file.

    Args:
        path: the file, which the job owns meanwhile.
        target: the store. It has to exist, so that entries do not go to a new store with a misspelt
            name.
        options: the queues' options.
        give_up_after: see ``Job``.

    Attributes:
        name: the name of the queues.
        started: whether file and store could be used.
        stored: the number of entries that the store has.
        refused: the number of entries that it refused.
    """

    name: ClassVar[str]

    def __init__(
        self, path: Path, target: Target, options: WriteBehindOptions, give_up_after: float
    ) -> None:
        super().__init__(target, options, give_up_after=give_up_after)
        self.path = path
        self.place = str(path)
        self.started = False
        self.stored = 0
        self.refused = 0

    @asynccontextmanager
    async def open_store(self, progress: Progress) -> AsyncGenerator[Store]:
        """Open the store, and wait until it is ready."""
        self.place = self.target.label
        async with self.target.open_existing() as store:
            await wait_until_ready(store, progress.notice)
            self.started = True
            with _without_dead_letter_lines(self.name):
                yield store

    async def send(
        self, store: Store, kept: Sequence[Kept], remove: Remove, progress: Progress
    ) -> None:
        """Send at most ``AT_ONCE`` entries, and wait for their fates.

        However it ends, stored entries are removed, and refused ones are reported.
        """
        self.place = self.target.label
        sink = _Refused()
        sent: list[Kept] = []
        queue: WriteBehindQueue[Any] | None = None
        try:
            async with open_write_behind_queue(
                store, self.options, name=self.name, dead_letters=sink
            ) as queue:
                self.outage.queue = queue
                for one in kept:
                    # There is room for all.
                    queue.enqueue_nowait(one.entry)
                    sent.append(one)
                await queue.flush()
        finally:
            # Every sent entry is now in one of three places; compared by identity, as several may have one
            # key, or be equal.
            open_fates = () if queue is None else queue.undelivered
            refusals = {id(letter.entry): why(letter) for letter in sink.letters}
            left = {*refusals, *map(id, open_fates)}
            for one in sent:
                if reason := refusals.get(id(one.entry)):
                    self.refused += 1
                    progress.add_line(f"{one.label} was refused, and stays: {reason}")
            stored = [one.number for one in sent if id(one.entry) not in left]
            with trio.move_on_after(_REMOVAL_SECONDS, shield=True):
                await self.settle(stored, remove)

    async def settle(self, stored: Sequence[int], remove: Remove) -> None:
        """Count and remove the stored entries."""
        if not stored:
            return
        self.stored += len(stored)
        place, self.place = self.place, str(self.path)
        await remove(stored)
        self.place = place


class _Refused:
    """A sink that remembers the refused entries."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter[Any]] = []

    async def put_many(self, letters: Sequence[DeadLetter[Any]], /) -> None:
        await trio.lowlevel.checkpoint()
        self.letters += letters


@contextmanager
def _without_dead_letter_lines(queue: str) -> Generator[None]:
    """Keep the queue of that name from logging dead letters, which the command reports."""

    def is_other(record: logging.LogRecord) -> bool:
        return getattr(record, "queue", "") != queue or not hasattr(record, "key")

    logger = logging.getLogger("provcache_trio")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
