"""Cancellation at any moment: at every step of a small program, at random in a larger one.

Whatever is cancelled, ``Witness`` follows every entry at every step; at the end each is
stored, replaced by a newer version that is, dead-lettered, or handed back.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import MockClock

from provcache_trio import (
    DrainTimeoutError,
    EntryRejectedError,
    QueueClosedError,
    TransientStoreError,
    WriteBehindCrashedError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.items import Item, items
from tests.support.machine import EveryStep
from tests.support.tasks import queue_tasks
from tests.support.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from provcache_trio import DeadLetter, Journal, WriteBehindQueue

KEYS: Final = "abcdefgh"
EPSILON_SECONDS: Final = 1e-6


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the log records of thousands of runs from pytest, which would format each."""
    monkeypatch.setattr(logging.getLogger("provcache_trio"), "propagate", False)


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


# At every step


async def small(program: Program) -> None:
    """Use most of what a queue has, in few steps."""
    store = program.store
    store.fail_next(OSError("gone"))
    store.reject("h")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.enqueue, [*items("abcdh", 1), Item("a", 2)])
        nursery.start_soon(program.persist, Item("b", 3))
        with program.a_caller:
            await program.enqueue(items("cdefga", 4))
        await program.flush()
        store.fail_next(TransientStoreError("deadlock"))
        await program.enqueue([Item("a", 5)])


@pytest.mark.heavy
@pytest.mark.parametrize("whom", ["surroundings", "a_caller"])
@pytest.mark.parametrize(
    ("latency", "drain_timeout", "in_time"),
    [(0, 0, False), (0.1, 0.15, False), (0, 60, True), (0.1, 60, True)],
)
def test_cancelled_at_any_step_of_a_program_nothing_accepted_is_lost(
    whom: str, latency: float, drain_timeout: float, in_time: bool
) -> None:
    options = WriteBehindOptions(
        queue_capacity=3,
        batch_size=2,
        flush_interval_seconds=0.05,
        drain_timeout_seconds=drain_timeout,
    )
    at = handed_back = 0
    while True:
        at += 1
        store = MemoryRepository[Item](latency_seconds=latency)
        program = Program(options, seed=at, store=store)
        canceller = Canceller(program.witness.look, getattr(program, whom), at)
        program.run(small, canceller)
        handed_back += program.error is not None
        if canceller.steps < at:
            break
    assert at > 60
    assert bool(handed_back) != in_time


# At random


async def large(program: Program) -> None:
    """Have several producers with hot keys, and a store that has its troubles."""
    draw = random.Random(program.seed)  # noqa: S311  # no secret
    version = iter(range(1_000_000))

    def some(most: int) -> list[Item]:
        keys = draw.choices(KEYS, weights=[20, 10, 5, 1, 1, 1, 1, 1], k=draw.randint(1, most))
        return [Item(key, next(version)) for key in keys]

    make_trouble(program, draw)
    async with trio.open_nursery() as nursery:
        for _ in range(draw.randint(2, 4)):
            nursery.start_soon(program.enqueue, some(30), draw.choice([0.0, 0.05]))
        nursery.start_soon(program.enqueue_many, some(30))
        nursery.start_soon(program.enqueue_nowait, some(20), 0.1)
        for item in some(3):
            nursery.start_soon(program.persist, item)
        for _ in range(draw.randint(0, 3)):
            await trio.sleep(draw.uniform(0, 1))
            await program.flush()


def make_trouble(program: Program, draw: random.Random) -> None:
    program.store.reject(*draw.choices(["h", "g", "nothing"], k=1))
    for stand_in in (program.store, program.sink):
        for error in draw.choices([OSError("x"), TransientStoreError("x"), KeyError("x")], k=3):
            stand_in.fail_next(error)
        if draw.random() < 0.3:
            stand_in.lose_next_answer()
        if draw.random() < 0.2:
            stand_in.crash_next()


def some_options(draw: random.Random) -> WriteBehindOptions:
    return WriteBehindOptions(
        queue_capacity=draw.randint(1, 10),
        batch_size=draw.randint(1, 5),
        flush_interval_seconds=draw.choice([0, 0.1]),
        max_retries=draw.choice([0, 2, None]),
        drain_timeout_seconds=draw.choice([0, 0.5, 3, 60]),
        coalesce=draw.random() < 0.8,
    )


@pytest.mark.heavy
def test_cancelled_at_a_random_moment_nothing_accepted_is_lost(
    counts: Callable[[int, int], int],
) -> None:
    cancelled = handed_back = 0
    cases = counts(200, 1000)
    for seed in range(cases):
        draw = random.Random(seed)  # noqa: S311  # no secret
        options = some_options(draw)
        store = MemoryRepository[Item](latency_seconds=draw.choice([0, 0.02, 0.3]))
        program = Program(options, seed=seed, store=store)
        by_time = draw.random() < 0.5
        if by_time:
            program.cancel_at = draw.uniform(0, 4)
        at = None if by_time else draw.randint(1, 400)
        canceller = Canceller(program.witness.look, program.surroundings, at)
        try:
            program.run(large, canceller)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        cancelled += program.surroundings.cancelled_caught
        handed_back += program.error is not None
    # Every kind of end is seen often.
    assert cases / 4 < cancelled < cases
    assert cases / 10 < handed_back < cases / 2
