"""What the state machine knows of a queue without believing its counters."""

from __future__ import annotations

import logging
from collections import ChainMap
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import QueueState

from tests.support.items import balance

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from provcache_trio import WriteBehindMetrics, WriteBehindOptions, WriteBehindQueue
    from provcache_trio._core.batch import Batch
    from provcache_trio._core.line import Line
    from provcache_trio.testing import MemoryRepository

    from tests.support.items import Item

NEVER_FALL: Final = attrgetter(
    "total_enqueued",
    "total_recovered",
    "total_persisted",
    "total_coalesced",
    "total_failed",
    "total_abandoned",
    "total_kept",
    "total_retries",
    "total_batches",
    "total_unchanged",
    "total_refused",
)


class Witness(logging.Handler):
    """Follows every entry by looking at where it lies, at every step, and by what it is told.

    It sees the order of arrival through the queue's ``key``, replacements through its
    ``merge``, and without a sink dead letters through the log; callers tell it what they
    were told; everything else it sees by walking the queue's own objects. An item is its
    own proof: no two calls bring the same version.
    """

    def __init__(
        self, store: MemoryRepository[Item], options: WriteBehindOptions, keys: Iterable[str]
    ) -> None:
        super().__init__(logging.ERROR)
        self._store = store
        self._options = options
        self._keys = tuple(keys)
        self.queue: WriteBehindQueue[Item] | None = None
        self.held: set[Item] = set()  # in the journal when the queue was opened
        self.looking = False  # metrics() is called by the witness, not by the queue
        self.accepted: set[Item] = set()  # as callers were told
        self.turned_away: set[Item] = set()  # as callers were told
        self.rank: dict[Item, int] = {}  # of every item that arrived, in that order
        self.seen: set[Item] = set()  # in the queue: accepted, whether or not told so far
        self.open: set[Item] = set()  # of those, the ones without a fate
        self.heir: dict[Item, Item] = {}  # what took an item's place
        self.persisted: set[Item] = set()
        self.dead: set[Item] = set()  # dead-lettered
        self.posted: set[Item] = set()  # seen among the letters that the sink has not taken
        self.crashes = 0  # of the queue's tasks
        self.last_crash_at = 0.0
        self.has_to_give_up = False
        self._lane_crashes: list[tuple[int, int]] = []  # lane, its persisted batches before
        self._shared_crashes: list[int] = []  # persisted batches before
        self.waiting: list[Item] = []
        self._unposted: list[Item] = []  # in line or with the writer
        self._flushed: dict[Batch[Item], set[Hashable]] = {}  # their keys at the last flush
        self._in_flight: dict[Hashable, Item] = {}
        self._calls = 0  # of the store, so far checked
        self._batches = 0
        self._newest_tried: dict[str, int] = {}
        self._counters: tuple[int, ...] = (0,) * 10
        self._door_was_open = False

    def key(self, item: Item) -> str:
        """Be the queue's ``key``: it is read when an entry arrives."""
        self.rank.setdefault(item, len(self.rank))
        return item.veri_key

    def note_held(self, item: Item) -> None:
        """Note what the journal holds: it arrived before everything else."""
        self.held.add(item)
        self.key(item)

    def merge(self, old: Item, new: Item) -> Item:
        """Be the queue's ``merge``."""
        assert old.veri_key == new.veri_key
        assert old not in self.heir, f"{old} was replaced twice"
        assert self.rank[old] < self.rank[new], f"{new} was replaced by the older {old}"
        self.heir[old] = new
        self.seen |= {old, new}
        self.open.discard(old)
        return new

    def emit(self, record: logging.LogRecord) -> None:
        """Be the log: it tells of crashes and, without a sink, of dead letters."""
        message = record.getMessage()
        if "payload is gone" in message:
            self.dead.add(self._in_flight[record.__dict__["key"]])
        elif " crashed: " in message:
            self._note_crash(record.__dict__["task"])

    def _note_crash(self, task: str) -> None:
        """Three crashes with nothing persisted in between, by the task's lane, are too many."""
        self.crashes += 1
        self.last_crash_at = trio.current_time()
        everything = self._store.persisted
        if task in {"dead letters", "journal"}:  # it serves every lane
            self._shared_crashes.append(len(everything))
        shared = self._shared_crashes.count(len(everything))
        for lane, line in enumerate(self._lines()):
            persisted = sum(self._line_of(batch[0]) is line for batch in everything)
            if task in {"batcher", "writer"} or task.endswith(f" {lane + 1}"):
                self._lane_crashes.append((lane, persisted))
            if self._lane_crashes.count((lane, persisted)) + shared >= 3:
                self.has_to_give_up = True

    def _line_of(self, item: Item) -> Line[Item]:
        assert self.queue is not None
        return self.queue._lanes.of(item.veri_key)

    def last_version(self, item: Item) -> Item:
        """Return what took the place of ``item`` in the end, or ``item``."""
        while item in self.heir:
            item = self.heir[item]
        return item

    def note_flush(self) -> None:
        """Note that a flush begins: from now on no new key may join what is in line."""
        assert self.queue is not None
        self._flushed = {
            batch: set(batch.entries) for line in self._lines() for batch in line.batches
        }

    def _lines(self) -> Sequence[Line[Item]]:
        assert self.queue is not None
        return self.queue._lanes.lines

    def look(self) -> None:
        """Check everything that holds at every step."""
        if self.queue is None:
            return
        self.looking = True
        try:
            metrics = self.queue.metrics()
        finally:
            self.looking = False
        self._follow_the_store()
        self._check_places(metrics)
        self._check_counters(metrics)
        self._check_pending()

    def _follow_the_store(self) -> None:
        """Learn what the store was asked and what it acknowledged since the last look."""
        assert self.queue is not None
        store = self._store
        assert store.max_in_calls <= len(self._lines())
        for call in store.calls[self._calls :]:
            assert 1 <= len(call) <= self._options.batch_size
            assert len({item.veri_key for item in call}) == len(call), f"a key twice in {call}"
            lines = {self._line_of(item) for item in call}
            assert len(lines) == 1, f"{call} is of several lanes"
            for item in call:
                assert item in self.open, f"{item} is written but was not in line"
                newest = self._newest_tried.get(item.veri_key, -1)
                assert self.rank[item] >= newest, f"{item} is written after a newer version"
                self._newest_tried[item.veri_key] = self.rank[item]
        self._calls = len(store.calls)
        for batch in store.persisted[self._batches :]:
            assert not self.persisted.intersection(batch), f"some of {batch} is persisted again"
            self.persisted.update(batch)
        self._batches = len(store.persisted)

    def _check_places(self, metrics: WriteBehindMetrics) -> None:
        """Every entry that is accepted and not settled lies in exactly one place."""
        assert self.queue is not None
        options = self._options
        batches = [batch for line in self._lines() for batch in line.batches]
        in_line = [item for batch in batches for item in batch.entries.values()]
        letters = [letter.entry for letter in self.queue._outbox.letters]
        written: list[Item] = []
        beyond_the_line = {line.writing for line in self._lines()}
        for line in self._lines():
            if line.writing is not None:
                batches.append(line.writing)
                written += line.writing.entries.values()
                written += [refusal.entry for refusal in line.writing.refused.values()]
        self._check_holders()
        assert metrics.current_queue_depth == len(in_line)
        assert metrics.in_flight == len(written) + len(letters)
        assert max([0, *(batch.unsettled() for batch in batches)]) <= options.batch_size
        assert all(key == item.veri_key for batch in batches for key, item in batch.entries.items())
        for batch, keys in self._flushed.items():
            if batch not in batches or batch in beyond_the_line:
                continue  # with the writer: later ones may have joined it
            assert keys.issuperset(batch.entries), "an entry joined a batch that is flushed"
        if options.coalesce:
            assert len({item.veri_key for item in in_line}) == len(in_line), "a key twice in line"
        self._in_flight = {item.veri_key: item for item in written}
        self._unposted = in_line + written
        assert len(letters) <= options.batch_size, "too many letters wait for the sink"
        self.posted.update(letters)
        self._check_owners(self._unposted + letters)
        self._check_room()

    def _check_owners(self, places: list[Item]) -> None:
        assert self.queue is not None
        lying = set(places)
        assert len(lying) == len(places), f"an entry lies in two places: {places}"
        self.seen |= lying
        self.open |= lying
        self.open -= self.heir.keys()
        self.open -= self.persisted
        self.open -= self.dead
        self.open.difference_update(self.queue.undelivered)
        assert self.open == lying, f"lost: {self.open - lying}; settled: {lying - self.open}"
        assert self.accepted <= self.seen, f"never seen: {self.accepted - self.seen}"
        left_a_trace = self.turned_away & self.seen
        assert not left_a_trace, f"not accepted, but here: {left_a_trace}"

    def _check_room(self) -> None:
        """Who waits is let in first come, first served, together with those of its key.

        While the door is closed the journal decides; when it is opened, whoever waits with a key
        in line is let in, wherever they stand.
        """
        assert self.queue is not None
        before = self.waiting
        is_open, was_open = self.queue._room.door_is_open, self._door_was_open
        self._door_was_open = is_open
        self.waiting = [producer.entry for producer in self.queue._room.producers]
        assert not self.seen.intersection(self.waiting), "an accepted entry still waits"
        if not self.waiting or not is_open:
            return
        in_line = {key for line in self._lines() for batch in line.batches for key in batch.entries}
        overlooked = in_line.intersection(item.veri_key for item in self.waiting)
        assert not overlooked or not self._options.coalesce, f"wait in vain: {overlooked}"
        depth = sum(len(batch.entries) for line in self._lines() for batch in line.batches)
        assert depth == self._options.queue_capacity, "somebody waits although there is room"
        first = min(self.rank[item] for item in self.waiting)
        for item in self.seen.intersection(before) if was_open else ():
            same_key = [self.rank[other] for other in before if other.veri_key == item.veri_key]
            assert min(same_key) < first, f"{item} was let in before its turn"

    def _check_holders(self) -> None:
        """Which keys are in line, and where, is known as it is."""
        for line in self._lines():
            newest = {key: batch for batch in line.batches for key in batch.entries}
            known = dict(ChainMap(line.holders, *reversed(line.holders_before or ())))
            assert known == newest, "what is known to be in line is not what is"
            assert line.open is None or line.open is line.batches[-1]

    def _check_counters(self, metrics: WriteBehindMetrics) -> None:
        options = self._options
        assert balance(metrics) == 0
        counters = NEVER_FALL(metrics)
        assert all(map(int.__le__, self._counters, counters)), f"{self._counters} -> {counters}"
        self._counters = counters
        assert metrics.total_enqueued == len(self.seen - self.held)
        assert metrics.total_recovered == len(self.seen & self.held)
        assert metrics.total_persisted == len(self.persisted)
        assert metrics.total_batches == self._batches
        assert metrics.total_coalesced == len(self.heir)
        assert metrics.total_failed == len(self.dead)
        assert self.queue is not None
        assert metrics.total_abandoned == len(self.queue.undelivered)
        assert metrics.producers_waiting == len(self.waiting)
        assert 0 <= metrics.current_queue_depth <= options.queue_capacity
        assert len(self.open) <= (
            options.queue_capacity + 2 * options.batch_size * len(self._lines())
        )
        if metrics.state is QueueState.CLOSED:
            assert not self.open

    def _check_pending(self) -> None:
        """``pending`` tells the newest version in line or with the writer, and nothing else."""
        assert self.queue is not None
        newest: dict[str, Item] = {}
        for item in self._unposted:
            known = newest.get(item.veri_key)
            if known is None or self.rank[known] < self.rank[item]:
                newest[item.veri_key] = item
        for key in self._keys:
            assert self.queue.pending(key) == newest.get(key), f"pending({key!r})"

    def check_end(self) -> None:
        """Check what holds once the queue is closed, from the outside only."""
        assert self.queue is not None
        undelivered = self.queue.undelivered
        assert len(set(undelivered)) == len(undelivered)
        fates = [self.persisted, set(self.heir), self.dead, set(undelivered)]
        assert sum(map(len, fates)) == len(self.seen), "an entry has two fates"
        assert set().union(*fates) == self.seen
        for item, heir in self.heir.items():
            assert self.rank[item] < self.rank[heir]
            assert item.veri_key == heir.veri_key
        newest_left: dict[str, int] = {}
        for item in undelivered:
            assert newest_left.get(item.veri_key, -1) < self.rank[item], "not oldest first"
            newest_left[item.veri_key] = self.rank[item]
        for key, row in self._store.rows.items():
            assert row in self.seen, f"{row} was never accepted"
            stored = [item for item in self.persisted if item.veri_key == key]
            assert all(self.rank[item] <= self.rank[row] for item in stored)
