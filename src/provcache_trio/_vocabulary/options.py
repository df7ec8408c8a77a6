"""``WriteBehindOptions``: the settings of a queue, checked when they are made."""

from __future__ import annotations

from typing import Final

import msgspec

from .checks import check_int, check_seconds, check_type

_MOST_WRITERS: Final = 100


class WriteBehindOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue batches, waits, retries and drains.

    Raises:
        TypeError: a field has the wrong type (a bool is not a number here).
        ValueError: a field is out of its range.

    Attributes:
        queue_capacity: entries that wait in line before ``enqueue`` waits for room; at
            least 1. Memory holds at most ``queue_capacity + 2 * batch_size * writers``.
        batch_size: most entries in one ``upsert_many``; at least 1.
        flush_interval_seconds: oldest age at which a batch that is not full is written;
            0 writes as soon as the writer is free.
        max_retries: most retries of a batch, or a part of it, that failed for a transient reason;
            then it is halved, and a single entry is dead-lettered. Also retries of an entry that
            is the only one to fail alone for an unknown reason (about 40 s with the other
            defaults). None retries without end. An unreachable store uses up no retry.
        retry_base_seconds: backoff before retry n is drawn from 0 to
            ``min(retry_cap_seconds, retry_base_seconds * 2**(n - 1))``; above 0.
        retry_cap_seconds: see above; at least ``retry_base_seconds``.
        drain_timeout_seconds: bound on the drain at exit; the default is below the 30 s that
            orchestrators grant. With 0, whatever is not written ends in ``undelivered`` at once.
        coalesce: a newer version of a waiting key takes its place. False writes every
            version, in order.
        writers: how many lanes there are, each of which writes one batch at a time; 1 to 100. The
            hash of an entry's key chooses its lane, so the versions of one key keep their order;
            entries of different keys may not.
    """

    queue_capacity: int = 10_000
    batch_size: int = 500
    flush_interval_seconds: float = 0.25
    max_retries: int | None = 10
    retry_base_seconds: float = 0.1
    retry_cap_seconds: float = 30.0
    drain_timeout_seconds: float = 20.0
    coalesce: bool = True
    writers: int = 1

    def __post_init__(self) -> None:
        """Check every field; msgspec itself checks types only when it decodes."""
        check_int("queue_capacity", self.queue_capacity, at_least=1, at_most=None)
        check_int("batch_size", self.batch_size, at_least=1, at_most=None)
        check_seconds("flush_interval_seconds", self.flush_interval_seconds)
        if self.max_retries is not None:
            check_int("max_retries", self.max_retries, at_least=0, at_most=None)
        check_seconds("retry_base_seconds", self.retry_base_seconds, positive=True)
        check_seconds("retry_cap_seconds", self.retry_cap_seconds)
        if self.retry_cap_seconds < self.retry_base_seconds:
            raise ValueError("retry_cap_seconds must be at least retry_base_seconds")
        check_seconds("drain_timeout_seconds", self.drain_timeout_seconds)
        check_type("coalesce", self.coalesce, bool)
        check_int("writers", self.writers, at_least=1, at_most=_MOST_WRITERS)
