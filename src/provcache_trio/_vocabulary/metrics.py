"""The snapshot of a queue that users see, and its words."""

from __future__ import annotations

import enum
from bisect import bisect_left
from datetime import datetime
from typing import Final

import msgspec

# In seconds: from a fast store at hand to an outage of half an hour.
_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)


class QueueState(enum.StrEnum):
    """What a queue is doing, in one word.

    Attributes:
        RUNNING: entries are accepted and written.
        WAITING: the store can't be reached, or needs a person; entries are kept.
        PAUSED: nothing is written for another reason: a background task crashed and will
            be restarted, or the dead letter sink fails and holds the writer up.
        DRAINING: no more entries are accepted; what is left is being written.
        CLOSED: the queue is over.
    """

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    DRAINING = "draining"
    CLOSED = "closed"


class FlushReason(enum.StrEnum):
    """Why a batch was handed to the writer, or will be once that is free.

    Attributes:
        FULL: it can't grow: it has ``batch_size`` entries, or the queue is full, or, without
            coalescing, a key came again.
        DUE: its oldest entry is as old as ``flush_interval_seconds``.
        REQUESTED: somebody waits for its fate, in ``persist`` or ``flush``.
        DRAIN: the queue is being left.
    """

    FULL = "full"
    DUE = "due"
    REQUESTED = "requested"
    DRAIN = "drain"


# By reason: the field of ``WriteBehindMetrics`` in which batches are counted.
FLUSHES: Final = {reason.value: f"flushes_{reason}" for reason in FlushReason}


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """How often values of some size were seen.

    Attributes:
        bounds: upper bounds of the buckets, in ascending order; a value that equals one
            belongs to it.
        counts: how many values each bucket got, and last, how many were above every bound.
        sum: sum of the values.
    """

    bounds: tuple[float, ...] = _BOUNDS
    counts: tuple[int, ...] = (0,) * (len(_BOUNDS) + 1)
    sum: float = 0.0

    def plus(self, value: float) -> Histogram:
        """Return the histogram with one value more."""
        at = bisect_left(self.bounds, value)
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return Histogram(bounds=self.bounds, counts=counts, sum=self.sum + value)


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """The last error that the store or the dead letter sink raised.

    Attributes:
        error_class: name of the error's class (of the driver's, where it is known).
        sqlstate: five-character SQLSTATE, or None.
        at: when; aware, UTC.
    """

    error_class: str
    sqlstate: str | None
    at: datetime


class CacheMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of one cache; see ``provcache_trio.cache``.

    Counted is every key that ``get``, ``get_many`` and ``get_or_compute`` look for, and how it was
    found. ``peek`` counts nothing.

    Attributes:
        hits_memory: found in memory.
        hits_pending: found by a read, with a version that the store did not have yet.
        hits_store: found by a read, as the store had it.
        misses: not found, or expired.
        computations: that ``get_or_compute`` began.
        shared_waits: keys whose read or computation somebody else had asked for already.
        errors: reads and computations that failed.
        entries: remembered now, negative answers included.
    """

    hits_memory: int
    hits_pending: int
    hits_store: int
    misses: int
    computations: int
    shared_waits: int
    errors: int
    entries: int


class WriteBehindMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A consistent snapshot of one queue.

    At every instant::

        total_enqueued + total_recovered
            == total_persisted + total_coalesced + total_failed + total_abandoned
               + current_queue_depth + in_flight

    Attributes:
        total_enqueued: entries accepted.
        total_recovered: entries taken over from a journal.
        total_persisted: entries that the store acknowledged.
        total_coalesced: entries whose place was taken by a newer version of their key.
        total_failed: entries dead-lettered: taken by the sink or, without one, logged.
        total_abandoned: entries handed back at the end; see ``undelivered``.
        current_queue_depth: entries in line: the open batch and those behind a writer.
        in_flight: entries handed to the writer, with those that wait for a failing sink.
        total_retries: entries tried again as they were, in outages too; the calls that
            narrow a refusal down do not count.
        total_batches: successful ``upsert_many`` calls.
        total_unchanged: persisted entries for which the store had nothing to change.
        total_refused: times that ``enqueue_nowait`` raised ``trio.WouldBlock``.
        flushes_full: batches handed to the writer because they could not grow.
        flushes_due: ... because their oldest entry was ``flush_interval_seconds`` old.
        flushes_requested: ... because somebody waited, in ``persist`` or ``flush``.
        flushes_drain: ... because the queue was being left.
        flush_seconds: how long successful ``upsert_many`` calls took.
        age_seconds: how old batches were, from the acceptance of their oldest entry, when
            such a call had stored the whole of them, or a part.
        producers_waiting: tasks that wait for room now.
        oldest_pending_seconds: age of the oldest batch with an open fate, letters that wait
            for the sink included; 0.0 when none.
        state: see ``QueueState``.
        recovering: a journal is being replayed; nothing new is accepted at once until it has been.
        durable: whether accepted entries survive a crash, as far as the journal's durability goes;
            None without a journal.
        call_seconds: age of the oldest call of the store that is under way; 0.0 when none is.
        next_try_in_seconds: time to the writer's next try while it backs off, else None.
        last_error: the last error of the store or the sink, or None. It stays after the
            store has recovered; ``state`` tells about now.
        timestamp: when the snapshot was taken; aware, UTC.
    """

    total_enqueued: int
    total_recovered: int
    total_persisted: int
    total_coalesced: int
    total_failed: int
    total_abandoned: int
    current_queue_depth: int
    in_flight: int
    total_retries: int
    total_batches: int
    total_unchanged: int
    total_refused: int
    flushes_full: int
    flushes_due: int
    flushes_requested: int
    flushes_drain: int
    flush_seconds: Histogram
    age_seconds: Histogram
    producers_waiting: int
    oldest_pending_seconds: float
    state: QueueState
    recovering: bool
    durable: bool | None
    call_seconds: float
    next_try_in_seconds: float | None
    last_error: LastError | None
    timestamp: datetime
