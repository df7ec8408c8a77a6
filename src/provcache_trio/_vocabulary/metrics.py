"""The snapshots of a queue, a cache and a stream, and their vocabulary."""

from __future__ import annotations

import enum
from bisect import bisect_left
from datetime import datetime
from typing import Final

import msgspec

# In seconds, from a fast local store to an outage of half an hour.
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
            be restarted, or the dead letter sink fails and blocks the writer.
        DRAINING: no more entries are accepted; what is left is being written.
        CLOSED: the queue has ended.
    """

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    DRAINING = "draining"
    CLOSED = "closed"


class FlushReason(enum.StrEnum):
    """Why a batch went to the writer, or will go once the writer is free.

    Attributes:
        FULL: it can't grow: it has ``batch_size`` entries, or the queue is full, or a key came
            again without coalescing.
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
    """Counts values by size.

    Attributes:
        bounds: upper bounds of the buckets, in ascending order; a value that equals one
            belongs to it.
        counts: the number of values in each bucket; the last one counts those above every bound.
        sum: sum of the values.
    """

    bounds: tuple[float, ...] = _BOUNDS
    counts: tuple[int, ...] = (0,) * (len(_BOUNDS) + 1)
    sum: float = 0.0

    def plus(self, value: float) -> Histogram:
        """Return a histogram with one more value."""
        at = bisect_left(self.bounds, value)
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return Histogram(bounds=self.bounds, counts=counts, sum=self.sum + value)


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """The last error that the store or the dead letter sink raised.

    Attributes:
        error_class: name of the error's class (of the driver's, where it is known).
        sqlstate: five-character SQLSTATE, or None.
        at: when it was raised; aware, UTC.
    """

    error_class: str
    sqlstate: str | None
    at: datetime


class CacheMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of one cache; see ``provcache_trio.cache``.

    Counts every key that ``get``, ``get_many`` and ``get_or_compute`` look for, by how it was
    found. ``peek`` counts nothing.

    Attributes:
        hits_memory: keys found in memory.
        hits_pending: keys found by a read, in a version that the store did not have yet.
        hits_store: keys found by a read, as the store had them.
        misses: keys not found, or expired.
        computations: computations that ``get_or_compute`` began.
        shared_waits: keys whose read or computation another caller had begun already.
        errors: reads and computations that failed.
        entries: answers in memory now, negative ones included.
    """

    hits_memory: int
    hits_pending: int
    hits_store: int
    misses: int
    computations: int
    shared_waits: int
    errors: int
    entries: int

    def plus(self, later: CacheMetrics) -> CacheMetrics:
        """Return the sums of both, with the entries of ``later``, which alone remembers any."""
        return CacheMetrics(
            hits_memory=self.hits_memory + later.hits_memory,
            hits_pending=self.hits_pending + later.hits_pending,
            hits_store=self.hits_store + later.hits_store,
            misses=self.misses + later.misses,
            computations=self.computations + later.computations,
            shared_waits=self.shared_waits + later.shared_waits,
            errors=self.errors + later.errors,
            entries=later.entries,
        )


# By how a key was found: the field of ``CacheMetrics`` in which these are counted.
LOOKUPS: Final = {
    "memory": "hits_memory",
    "pending": "hits_pending",
    "store": "hits_store",
    "miss": "misses",
}


class StreamLook(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream held when somebody last looked.

    Attributes:
        age_seconds: how long ago that was.
        current: whether it was so lately that it may be taken for now: within 30 seconds.
        messages: in the stream; an entry waits in one of them until it is in the store.
        bytes: how large they are together.
        max_bytes: how large they may become, and then producers wait; None: there is no limit.
        oldest_seconds: age of the oldest message; 0.0 when there is none.
        ack_pending: messages that relays hold: taken, and not acknowledged yet.
        redelivered: those of them that were given to a relay more than once.
    """

    age_seconds: float
    current: bool
    messages: int
    bytes: int
    max_bytes: int | None
    oldest_seconds: float
    ack_pending: int
    redelivered: int


class StreamMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stream; see ``provcache_trio.nats``.

    Attributes:
        stream: its name.
        look: what it held, as far as that is known; None: no look has succeeded yet.
    """

    stream: str
    look: StreamLook | None


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
        total_coalesced: entries replaced in line by a newer version of their key.
        total_failed: entries dead-lettered: taken by the sink or, without one, logged.
        total_abandoned: entries in ``undelivered`` after the exit.
        total_kept: those of them that are safe all the same: the journal has them for the next
            queue, or they went back to the stream. Not a term of its own in the sum above.
        current_queue_depth: entries in line: the open batch and those behind a writer.
        in_flight: entries with the writer, and letters that wait for a failing sink.
        total_retries: entries tried again unchanged, in outages too; calls that narrow a refusal
            down do not count.
        total_batches: successful ``upsert_many`` calls.
        total_unchanged: persisted entries for which the store had nothing to change.
        total_refused: times that ``enqueue_nowait`` raised ``trio.WouldBlock``.
        flushes_full: batches sent to the writer because they could not grow.
        flushes_due: the same, because their oldest entry was ``flush_interval_seconds`` old.
        flushes_requested: the same, because a caller waited in ``persist`` or ``flush``.
        flushes_drain: the same, because the queue was being left.
        flush_seconds: how long successful ``upsert_many`` calls took.
        age_seconds: how old batches were, since the acceptance of their oldest entry, when such
            a call had stored all or a part of them.
        producers_waiting: tasks that wait for room now.
        oldest_pending_seconds: age of the oldest batch with an open fate, letters that wait
            for the sink included; 0.0 when none.
        state: see ``QueueState``.
        recovering: whether a journal is being replayed; until then new entries have to wait.
        durable: whether accepted entries survive a crash, as far as the journal's durability
            promises it; None without a journal.
        call_seconds: age of the oldest call of the store that is under way; 0.0 when none is.
        next_try_in_seconds: time to the writer's next try while it backs off, else None.
        last_error: the last error of the store or the sink, or None. It stays after the
            store has recovered; ``state`` shows the present.
        timestamp: when the snapshot was taken; aware, UTC.
    """

    total_enqueued: int
    total_recovered: int
    total_persisted: int
    total_coalesced: int
    total_failed: int
    total_abandoned: int
    total_kept: int = 0
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
