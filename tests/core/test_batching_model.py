"""What is written when: the queue against a model of it that has neither tasks nor a clock.

Arrivals fall on whole seconds, intervals end a quarter past, and the store takes a thousandth
more than whole seconds, so no two events are of one moment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, TypeAlias

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import event, given
from trio.testing import MockClock

from provcache_trio import WriteBehindOptions, open_write_behind_queue
from provcache_trio.testing import MemoryRepository

from tests.support.items import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

Written: TypeAlias = list[tuple[float, list[Item]]]

FLUSH: Final = "flush"
KEYS: Final = "abcdefg"

some_options = st.builds(
    WriteBehindOptions,
    batch_size=st.integers(1, 4),
    flush_interval_seconds=st.sampled_from([0, 0.25, 3.25, 10.25]),
    drain_timeout_seconds=st.just(1000),
    coalesce=st.booleans(),
)
some_latency = st.sampled_from([0, 0, 1, 5, 20]).map(lambda seconds: seconds + 0.001)
# How many seconds after the one before, and a key, or a flush.
some_arrivals = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 2, 11]), st.sampled_from([*KEYS, FLUSH])), max_size=30
)


class Batch:
    """Of the model."""

    def __init__(self, opened_at: float) -> None:
        self.entries: dict[str, Item] = {}
        self.opened_at = opened_at
        self.due_at = math.inf  # unless it is older than the interval


class Model:
    """The batches in line, and what was written when."""

    def __init__(self, options: WriteBehindOptions, latency: float) -> None:
        self.options = options
        self.latency = latency
        self.line: list[Batch] = []
        self.open: Batch | None = None  # the last of the line, while it takes new keys
        self.free_at = 0.0
        self.written: Written = []

    def write_until(self, now: float) -> None:
        while self.line:
            head = self.line[0]
            due_at = min(head.due_at, head.opened_at + self.options.flush_interval_seconds)
            begins_at = max(due_at, self.free_at)
            if begins_at >= now:
                return
            self.line.remove(head)
            if head is self.open:
                self.open = None
            else:
                self.join(head)
            self.written.append((begins_at, list(head.entries.values())))
            self.free_at = begins_at + self.latency

    def join(self, head: Batch) -> None:
        """Add the batches that can't grow any more either, as far as they fit."""
        while self.line and self.line[0] is not self.open:
            entries = self.line[0].entries
            if len(head.entries) + len(entries) > self.options.batch_size:
                return
            if not head.entries.keys().isdisjoint(entries):
                return
            head.entries.update(entries)
            del self.line[0]

    def flush(self, now: float) -> None:
        for batch in self.line:
            batch.due_at = min(batch.due_at, now)
        self.open = None

    def arrive(self, now: float, item: Item) -> None:
        key = item.veri_key
        places = [batch for batch in self.line if key in batch.entries]
        if places and self.options.coalesce:
            places[-1].entries[key] = item
            return
        size = self.options.batch_size
        if self.open and (key in self.open.entries or len(self.open.entries) == size):
            self.flush(now)  # what is before it can't grow any more, either
        if self.open is None:
            self.open = Batch(now)
            self.line.append(self.open)
        self.open.entries[key] = item
        if len(self.open.entries) == size:
            self.open.due_at = now


def model(
    arrivals: Sequence[tuple[float, str]], options: WriteBehindOptions, latency: float
) -> Written:
    """Return what is written, and when."""
    queue = Model(options, latency)
    for version, (now, what) in enumerate(arrivals):
        queue.write_until(now)
        if what == FLUSH:
            queue.flush(now)
            # Whoever flushes lets the writer begin what is due, before more comes at this moment.
            queue.write_until(math.nextafter(now, math.inf))
        else:
            queue.arrive(now, Item(what, version))
    queue.write_until(math.inf)
    return queue.written


async def real(
    arrivals: Sequence[tuple[float, str]], options: WriteBehindOptions, latency: float
) -> Written:
    """Return the same of the queue."""
    written: Written = []

    class Store(MemoryRepository[Item]):
        async def upsert_many(self, entries: Sequence[Item], /) -> int:
            written.append((trio.current_time(), list(entries)))
            return await super().upsert_many(entries)

    began_at = trio.current_time()
    store = Store(latency_seconds=latency)
    async with open_write_behind_queue(store, options) as queue, trio.open_nursery() as nursery:
        for version, (at, what) in enumerate(arrivals):
            if began_at + at > trio.current_time():
                await trio.sleep_until(began_at + at)
            if what == FLUSH:
                nursery.start_soon(queue.flush)
                await trio.testing.wait_all_tasks_blocked()
            else:
                queue.enqueue_nowait(Item(what, version))
        await trio.sleep(1000)
    return [(at - began_at, entries) for at, entries in written]


@pytest.mark.one_lane
@given(pauses=some_arrivals, options=some_options, latency=some_latency)
def test_what_is_written_when_is_what_the_model_says(
    pauses: list[tuple[float, str]], options: WriteBehindOptions, latency: float
) -> None:
    at = 0.0
    arrivals = [(at := at + pause, what) for pause, what in pauses]
    expected = model(arrivals, options, latency)
    event(f"{len(expected)} batches")
    clock = MockClock(autojump_threshold=0)
    seen = trio.run(real, arrivals, options, latency, clock=clock)
    assert [entries for _, entries in seen] == [entries for _, entries in expected]
    assert [when for when, _ in seen] == pytest.approx([when for when, _ in expected])
