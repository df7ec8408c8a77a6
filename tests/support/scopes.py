"""A program around a queue whose scopes are cancelled, and every entry of which is followed."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

import trio
from trio.testing import MockClock

from provcache_trio import (
    DeadLetter,
    DrainTimeoutError,
    EntryRejectedError,
    Journal,
    QueueClosedError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    WriteBehindQueue,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item
from tests.support.machine import EveryStep
from tests.support.tasks import queue_tasks
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

KEYS: Final = "abcdefgh"
EPSILON_SECONDS: Final = 1e-6


class Sink(MemoryDeadLetters[Item]):
    """A dead letter sink that tells the witness what it acknowledged."""

    witness: Witness

    async def put_many(self, letters: Sequence[DeadLetter[Item]], /) -> None:
        await super().put_many(letters)
        self.witness.dead.update(letter.entry for letter in letters)


class Canceller(EveryStep):
    """Checks every step, and cancels a scope when a chosen one begins."""

    def __init__(self, check: Callable[[], None], scope: trio.CancelScope, at: int | None) -> None:
        super().__init__(check)
        self._scope = scope
        self._at = at
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._at:
            self._scope.cancel()
        super().before_task_step(task)


class Program:
    """A queue in a scope that will be cancelled, its callers, its store and its sink.

    Args:
        options: of the queue.
        seed: decides the order of tasks and every jitter.
        store: the store.
    """

    def __init__(
        self, options: WriteBehindOptions, *, seed: int, store: MemoryRepository[Item]
    ) -> None:
        self.options = options
        self.seed = seed
        self.store = store
        self.sink = Sink()
        self.journal: Journal[Item] | None = None
        self.witness = self.sink.witness = Witness(self.store, options, KEYS)
        self.surroundings = trio.CancelScope()
        self.a_caller = trio.CancelScope()
        self.cancel_at = 1e9  # on trio's clock; the surroundings
        self.took_seconds = 0.0  # to leave the queue
        self.error: BaseException | None = None

    @property
    def queue(self) -> WriteBehindQueue[Item]:
        assert self.witness.queue is not None
        return self.witness.queue

    def run(self, body: Callable[[Program], Awaitable[None]], canceller: EveryStep) -> None:
        """Run ``body`` in the queue, and check everything that is promised of its end."""
        trio._core._run._r.seed(self.seed)
        random.seed(self.seed)
        logger = logging.getLogger("provcache_trio")
        logger.addHandler(self.witness)
        try:
            clock = MockClock(autojump_threshold=0)
            trio.run(self._main, body, clock=clock, instruments=[canceller])
        finally:
            logger.removeHandler(self.witness)
        if canceller.broken is not None:
            raise canceller.broken
        if self.witness.queue is not None:
            self._check_end()

    async def _main(self, body: Callable[[Program], Awaitable[None]]) -> None:
        with self.surroundings:
            self.surroundings.deadline = self.cancel_at
            try:
                await self._use_queue(body)
            except (DrainTimeoutError, WriteBehindCrashedError) as error:
                self.error = error
        self.witness.look()
        assert queue_tasks() == []

    async def _use_queue(self, body: Callable[[Program], Awaitable[None]]) -> None:
        left_at = 0.0
        try:
            async with open_write_behind_queue(
                self.store,
                self.options,
                key=self.witness.key,
                merge=self.witness.merge,
                dead_letters=self.sink,
                journal=self.journal,
            ) as self.witness.queue:
                try:
                    await body(self)
                finally:
                    left_at = trio.current_time()
        finally:
            self.took_seconds = trio.current_time() - left_at

    def _check_end(self) -> None:
        assert self.took_seconds <= self.options.drain_timeout_seconds + EPSILON_SECONDS
        undelivered = self.queue.undelivered
        if not isinstance(self.error, WriteBehindCrashedError):
            assert isinstance(self.error, DrainTimeoutError) == bool(undelivered)
        self.witness.check_end()
        # The same again with no help from the witness, but for the order of arrival.
        ends = [*self.store.rows.values(), *undelivered]
        ends += [letter.entry for letter in self.sink.letters]
        rank = self.witness.rank
        for item in self.witness.accepted:
            newest = max(rank[end] for end in ends if end.veri_key == item.veri_key)
            assert rank[item] <= newest, f"{item} is nowhere"

    # What callers do

    async def enqueue(self, wanted: Sequence[Item], pause: float = 0.0) -> None:
        for item in wanted:
            try:
                await self.queue.enqueue(item)
            except QueueClosedError:
                self.witness.turned_away.add(item)
            except trio.Cancelled:
                self.witness.turned_away.add(item)
                raise
            else:
                self.witness.accepted.add(item)
            if pause:
                await trio.sleep(pause)

    async def enqueue_many(self, wanted: Sequence[Item]) -> None:
        taken: list[Item] = []

        def one_by_one() -> Iterator[Item]:
            for item in wanted:
                self.witness.accepted.update(taken)  # it wants another, so it has those
                taken.append(item)
                yield item

        try:
            accepted = await self.queue.enqueue_many(one_by_one())
        except QueueClosedError as error:
            accepted = error.accepted or 0
        self.witness.accepted.update(wanted[:accepted])

    async def enqueue_nowait(self, wanted: Sequence[Item], pause: float) -> None:
        for item in wanted:
            try:
                self.queue.enqueue_nowait(item)
            except (trio.WouldBlock, QueueClosedError):
                self.witness.turned_away.add(item)
            else:
                self.witness.accepted.add(item)
            await trio.sleep(pause)

    async def persist(self, item: Item) -> None:
        try:
            await self.queue.persist(item)
        except EntryRejectedError:
            assert self.witness.last_version(item) in self.witness.dead | self.witness.posted
        except QueueClosedError:
            assert item not in self.witness.seen or self.queue.undelivered
        else:
            self.witness.look()
            assert self.witness.last_version(item) in self.witness.persisted

    async def flush(self) -> None:
        try:
            await self.queue.flush()
        except QueueClosedError:
            assert self.queue.undelivered
