"""A history of one cache at random, and whether every answer was a state of its key.

Everybody's calls overlap in every order: reads, writes past the cache and through it, computations,
invalidations; some are cancelled. The store is slow before and after it looks, fails, loses
answers, and refuses keys for a while. Memory is small, and entries expire.

The state of a key is what the store has, merged with all that is accepted and has no fate yet. It
is written down at each step that changes it, from the queue's own lists, which are walked here
without the cache's help. An answer has to be a state that the key had between the begin and the
end of the call.

``python -m tests.support.cached 100000`` runs it as often as you like.
"""

from __future__ import annotations

import logging
import random
import sys
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial, reduce
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import trio
from trio.testing import MockClock

from provcache_trio import (
    ProvcacheEntry,
    StoreUnavailableError,
    WriteBehindOptions,
    WriteBehindQueue,
    merge_entries,
    open_write_behind_queue,
)
from provcache_trio._core.line import Line
from provcache_trio._core.outbox import Outbox
from provcache_trio.cache import Cache, open_cache
from provcache_trio.testing import MemoryDeadLetters, MemoryRepository

from tests.support.entries import NOW, entry, key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Sequence

    from provcache_trio._core.batch import Batch
    from provcache_trio._core.progress import Part

KEYS = [key_of(number) for number in range(5)]
POLICIES = [key_of("one policy"), key_of("another policy")]
CALLS = 60
SECONDS = 30.0
PATIENCE = (0.01, 0.2, 1.0, 5.0, 60.0, 60.0, 60.0)


class TroubleError(Exception):
    """What a computation of a test raises; it can't be made of its ``args``."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"trouble {number}")
        self.number = number


class Plan:
    """What one seed draws."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311  # no secret
        self.seed = seed
        self.draw = draw
        self.options = WriteBehindOptions(
            queue_capacity=draw.choice([3, 10_000]),
            batch_size=draw.choice([1, 2, 500]),
            flush_interval_seconds=draw.choice([0.0, 0.25, 2.0]),
            coalesce=draw.random() < 0.7,
            writers=draw.choice([1, 1, 2, 3]),
            max_retries=1,
        )
        self.max_entries = draw.choice([1, 3, 100_000])
        self.memory_seconds = draw.choice([0.0, 1.0, 10.0, 10.0])
        self.negative_seconds = draw.choice([0.0, self.memory_seconds])
        self.may_miss = draw.random() < 0.3
        self.fails = draw.choice([0.0, 0.0, 0.1])
        self.refuses = draw.random() < 0.4
        self.invalidates = draw.random() < 0.5
        self.latency = draw.choice([0.001, 0.1, 1.0])


class Span(NamedTuple):
    """A state of a key, and for how long it lasted."""

    state: ProvcacheEntry | None
    in_queue: list[ProvcacheEntry]  # versions without a fate, which are part of the state
    since: int  # number of the event


class World:
    """The store, the queue and the cache of one plan, and what is known of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.store = Store(self)
        self.queue: WriteBehindQueue[ProvcacheEntry]
        self.events = 0
        self.history: dict[Hashable, list[Span]] = {key: [Span(None, [], 0)] for key in KEYS}
        self.accepted: list[tuple[int, ProvcacheEntry]] = []
        self.invalidations: list[tuple[int, int | None]] = []  # begin and end
        self.versions = 0
        self.answers = 0

    # The truth

    def open_versions(self, key: Hashable) -> Iterable[ProvcacheEntry]:
        for line in self.queue._lanes.lines:
            batches: list[Batch[ProvcacheEntry]] = [*line.batches]
            if line.writing is not None:
                batches.insert(0, line.writing)
            for batch in batches:
                if key in batch.entries:
                    yield batch.entries[key]
                if key in batch.refused:
                    yield batch.refused[key].entry

    def note(self) -> None:
        """Write down every state that has changed."""
        self.events += 1
        for key, spans in self.history.items():
            stored = self.store.rows.get(key)
            in_queue = [*self.open_versions(key)]
            versions = [*([] if stored is None else [stored]), *in_queue]
            state = reduce(merge_entries, versions) if versions else None
            if (state, in_queue) != (spans[-1].state, spans[-1].in_queue):
                spans.append(Span(state, in_queue, self.events))

    def spans(self, key: Hashable, since: int) -> list[Span]:
        """Return the states that ``key`` has had since that event."""
        spans = self.history[key]
        at = max(index for index, span in enumerate(spans) if span.since <= since)
        return spans[at:]

    def overlaps(self, since: int) -> bool:
        """Return whether an invalidation has been under way since."""
        return any(end is None or end >= since for _, end in self.invalidations)

    # What is asked

    def check(
        self,
        key: Hashable,
        answer: ProvcacheEntry | None,
        begin: tuple[int, datetime],
        what: str,
        also: Iterable[ProvcacheEntry] = (),
        *,
        unstored: bool = False,
    ) -> None:
        self.answers += 1
        since, began_at = begin
        spans = self.spans(key, since)
        states = [span.state for span in spans]
        allowed: list[ProvcacheEntry | None] = [
            state for state in states if state is not None and state.expires_at > began_at
        ]
        if any(state is None or state.expires_at <= now() for state in states):
            allowed.append(None)
        allowed += also
        if (unstored or self.overlaps(since)) and answer is not None:
            # What is being deleted may be part of it, or may be missing from it already, so that it
            # is a version of the queue alone; and what was computed may not have been stored.
            in_queue = [one for span in spans for one in span.in_queue]
            payloads = {payload(one) for one in (*allowed, *in_queue) if one is not None}
            assert payload(answer) in payloads, (self.plan.seed, what, answer, payloads)
        else:
            assert answer in allowed, (self.plan.seed, what, answer, allowed)

    def make(self, key: str) -> ProvcacheEntry:
        draw = self.plan.draw
        self.versions += 1
        created = now() + timedelta(seconds=draw.choice([-20, -1, 0, 0, 0]))
        return entry(
            veri_key=key,
            policy_hash=draw.choice(POLICIES),
            feed_epoch=f"version {self.versions}",
            created_at=created,
            expires_at=created + timedelta(seconds=draw.choice([21, 40, 1000])),
            hit_count=draw.randrange(5),
        )


class Store(MemoryRepository[ProvcacheEntry]):
    """Slow before and after it looks; it notes what it changes."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.fails = 0.0
        self.in_reads = 0

    async def _arrive(self) -> None:
        await trio.sleep(self.pause())
        await super()._arrive()
        if self.world.plan.draw.random() < self.fails:
            raise StoreUnavailableError("as the plan says")

    def pause(self) -> float:
        return self.world.plan.draw.choice([0.0, 0.5, 1.0]) * self.world.plan.latency

    def _store(self, batch: tuple[ProvcacheEntry, ...]) -> int:
        changed = super()._store(batch)
        self.world.note()
        return changed

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        changed = await super().upsert_many(entries)
        await trio.sleep(self.pause())
        return changed

    async def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, ProvcacheEntry]:
        self.in_reads += 1
        assert self.in_reads <= 2
        try:
            found = await super().get_many(keys)
            await trio.sleep(self.pause())
        finally:
            self.in_reads -= 1
        return found

    async def delete_where(self, *, before: object = None, **equals: object) -> int:
        deleted = await super().delete_where(before=before, **equals)
        self.world.note()
        await trio.sleep(self.pause())
        return deleted


def now() -> datetime:
    return NOW + timedelta(seconds=trio.current_time())


def payload(one: ProvcacheEntry) -> str:
    return one.feed_epoch


@contextmanager
def noted(world: World) -> Generator[None]:
    """Write down the states whenever something is accepted, is settled or becomes a letter."""
    accept, persisted, take_over = Line.accept, Line.persisted, Outbox._take_over

    def accept_and_note(
        line: Line[ProvcacheEntry], key: Hashable, version: ProvcacheEntry, most: float
    ) -> Batch[ProvcacheEntry] | None:
        batch = accept(line, key, version, most)
        if batch is not None:
            world.note()
            world.accepted.append((world.events, version))
        return batch

    def persisted_and_note(
        line: Line[ProvcacheEntry], batch: Batch[ProvcacheEntry], part: Part, unchanged: int
    ) -> None:
        persisted(line, batch, part, unchanged)
        # An invalidation may have deleted it before the queue learned that it was stored.
        world.note()

    def take_over_and_note(outbox: Outbox[ProvcacheEntry], batch: Batch[ProvcacheEntry]) -> None:
        take_over(outbox, batch)
        world.note()

    with (
        mock.patch.object(Line, "accept", accept_and_note),
        mock.patch.object(Line, "persisted", persisted_and_note),
        mock.patch.object(Outbox, "_take_over", take_over_and_note),
    ):
        yield


class Driver:
    """Calls the cache at random, and checks what it answers."""

    def __init__(self, world: World, cache: Cache[ProvcacheEntry]) -> None:
        self.world = world
        self.cache = cache
        self.draw = world.plan.draw
        self.computing: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.made: list[ProvcacheEntry] = []
        self.errors: list[TroubleError] = []

    async def call(self) -> None:
        await trio.sleep(self.draw.random() * SECONDS)
        calls: list[Callable[[str], Awaitable[None]]] = [
            *[self.get] * 4,
            *[self.get_many] * 2,
            *[self.get_or_compute] * 2,
            *[self.put] * 3,
            *[self.put_past] * 2,
            self.peek,
        ]
        if self.world.plan.invalidates:
            calls.append(self.invalidate)
        with trio.move_on_after(self.draw.choice(PATIENCE)):
            await self.draw.choice(calls)(self.draw.choice(KEYS))

    def begin(self) -> tuple[int, datetime]:
        return self.world.events, now()

    async def get(self, key: str) -> None:
        begin = self.begin()
        try:
            answer = await self.cache.get(key)
        except StoreUnavailableError:
            assert self.world.plan.fails
        else:
            self.world.check(key, answer, begin, "get")

    async def get_many(self, _: str) -> None:
        keys = self.draw.sample(KEYS, self.draw.randrange(len(KEYS)))
        begin = self.begin()
        try:
            answers = await self.cache.get_many(keys)
        except StoreUnavailableError:
            assert self.world.plan.fails
            return
        for key in keys:
            self.world.check(key, answers.get(key), begin, "get_many")
            if key in answers:
                assert answers[key].expires_at > now()

    async def peek(self, key: str) -> None:
        answer = self.cache.peek(key)
        if answer is not None:
            assert self.world.plan.memory_seconds
            self.world.check(key, answer, self.begin(), "peek")

    async def put(self, key: str) -> None:
        await self.cache.put(self.world.make(key))

    async def put_past(self, key: str) -> None:
        await self.world.queue.enqueue(self.world.make(key))

    async def compute(self, key: str) -> ProvcacheEntry:
        assert not self.computing[key], "one for all who ask"
        self.computing[key] += 1
        try:
            await trio.sleep(self.draw.choice([0.0, 0.5, 3.0]))
        finally:
            self.computing[key] -= 1
        if self.draw.random() < 0.2:
            raise TroubleError(number=7)
        self.made.append(self.world.make(key))
        return self.made[-1]

    async def get_or_compute(self, key: str) -> None:
        plan = self.world.plan
        may_be_unstored = plan.may_miss or plan.refuses or plan.fails > 0
        begin = self.begin()
        fresh = self.draw.random() < 0.3
        try:
            answer = await self.cache.get_or_compute(key, partial(self.compute, key), fresh=fresh)
        except StoreUnavailableError:
            assert self.world.plan.fails
            assert not self.world.plan.may_miss
        except TroubleError as error:
            self.errors.append(error)
        else:
            unstored = may_be_unstored or self.world.overlaps(begin[0])
            also = [one for one in self.made if unstored or one.expires_at <= now()]
            self.world.check(key, answer, begin, "compute", also, unstored=unstored)

    async def invalidate(self, _: str) -> None:
        world, policy = self.world, self.draw.choice(POLICIES)
        began = world.events
        cut = now()
        number = len(world.invalidations)
        world.invalidations.append((began, None))
        try:
            await self.cache.invalidate_where(policy_hash=policy)
        except StoreUnavailableError:
            assert world.plan.fails
        else:
            meanwhile = {payload(one) for at, one in world.accepted if at > began}
            for key in KEYS:
                state = world.history[key][-1].state
                if state is not None and state.policy_hash == policy:
                    assert payload(state) in meanwhile or state.created_at > cut
                    # A version of before that has been kept for what was merged with it.
        finally:
            world.invalidations[number] = (began, world.events)


async def trouble(world: World) -> None:
    """Make the store fail, lose answers and refuse keys, now and then."""
    plan, store = world.plan, world.store
    store.fails = plan.fails
    while True:
        await trio.sleep(plan.draw.random() * 3)
        if plan.fails:
            store.lose_next_answer()
        if plan.refuses:
            key = plan.draw.choice(KEYS)
            store.reject(key)
            await trio.sleep(plan.draw.random() * 2)
            store.accept(key)


async def live(world: World) -> None:
    plan = world.plan
    async with (
        open_write_behind_queue(
            world.store, plan.options, dead_letters=MemoryDeadLetters[ProvcacheEntry]()
        ) as world.queue,
        open_cache(
            world.queue,
            world.store,
            max_entries=plan.max_entries,
            memory_seconds=plan.memory_seconds,
            negative_seconds=plan.negative_seconds,
            on_store_error="miss" if plan.may_miss else "raise",
            wall_clock=now,
        ) as cache,
    ):
        driver = Driver(world, cache)
        async with trio.open_nursery() as troubled, trio.open_nursery() as nursery:
            troubled.start_soon(trouble, world)
            for _ in range(CALLS):
                nursery.start_soon(driver.call)
            await trio.sleep(SECONDS + 100)
            troubled.cancel_scope.cancel()
        world.store.fails = 0.0
        world.store._failures.clear()
        world.store.accept(*KEYS)
        await world.queue.flush()
        world.invalidations.clear()
        for key in KEYS:
            begin = driver.begin()
            world.check(key, await cache.get(key), begin, "at the end")
            assert len(world.spans(key, begin[0])) == 1
        assert cache.metrics().entries <= plan.max_entries
        assert not any(driver.computing.values())
        assert len({id(error) for error in driver.errors}) == len(driver.errors)
        assert all(error.number == 7 for error in driver.errors)


def run(seed: int) -> World:
    """Live through what ``seed`` draws; return what was there."""
    random.seed(seed)  # the backoff's jitter
    trio._core._run._r.seed(seed)  # the order of tasks
    world = World(Plan(seed))
    with noted(world):
        trio.run(live, world, clock=MockClock(autojump_threshold=0))
    return world


if __name__ == "__main__":
    logging.disable()
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for number in range(first, first + int(sys.argv[1])):
        try:
            run(number)
        except BaseException:
            print("seed", number)  # noqa: T201  # for whoever runs it
            raise
