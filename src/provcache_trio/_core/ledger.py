"""The ledger in which every step of an entry is booked."""

from __future__ import annotations

from provcache_trio._vocabulary.metrics import FlushReason, Histogram


class Ledger:
    """Every counter of a queue, booked in the same step in which an entry moves.

    ``metrics()`` may run in another thread or in a signal handler. CPython interrupts code
    only at calls and backward jumps, never between plain attribute operations. So the lines
    that book one move stand next to each other with no call among them. (A test reads the
    bytecode.) A lock would deadlock in a signal handler.

    No counter is computed from the others; tests compare them with the real lengths.
    """

    __slots__ = (
        "abandoned",
        "age_seconds",
        "batches",
        "coalesced",
        "depth",
        "enqueued",
        "failed",
        "flush_seconds",
        "flushes_drain",
        "flushes_due",
        "flushes_full",
        "flushes_requested",
        "in_flight",
        "kept",
        "persisted",
        "recovered",
        "refused",
        "retries",
        "unchanged",
    )

    def __init__(self) -> None:
        self.enqueued: int = 0
        self.recovered: int = 0
        self.persisted: int = 0
        self.coalesced: int = 0
        self.failed: int = 0
        self.abandoned: int = 0
        self.kept: int = 0
        self.depth: int = 0
        self.in_flight: int = 0
        self.retries: int = 0
        self.batches: int = 0
        self.unchanged: int = 0
        self.refused: int = 0
        self.flushes_full: int = 0
        self.flushes_due: int = 0
        self.flushes_requested: int = 0
        self.flushes_drain: int = 0
        self.flush_seconds: Histogram = Histogram()
        self.age_seconds: Histogram = Histogram()

    def count_flush(self, reason: FlushReason) -> None:
        """Count a batch that goes to the writer."""
        match reason:
            case FlushReason.FULL:
                self.flushes_full += 1
            case FlushReason.DUE:
                self.flushes_due += 1
            case FlushReason.REQUESTED:
                self.flushes_requested += 1
            case FlushReason.DRAIN:  # pragma: no branch  # there is no other
                self.flushes_drain += 1
