"""The protocols between a queue and what is around it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from .metrics import CacheMetrics, WriteBehindMetrics

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
E_contra = TypeVar("E_contra", contravariant=True)


class Repository(Protocol[E_contra]):
    """Stores batches of entries by one method, whose errors are its contract.

    The queue never has more than ``writers`` calls under way, and never one key in two of them.

    A repository may have a second method, ``async def prepare(self, entries, /)``. While a call
    of ``upsert_many`` is under way, it gets the entries that are likely to come next, and returns
    them as a sequence that ``upsert_many`` can store faster, for example encoded. The queue passes
    that sequence to ``upsert_many`` unless an entry was replaced meanwhile. An exception has no
    consequence: ``upsert_many`` is called all the same. A call that is still running when the
    writer is free is cancelled; after three such calls in a row it is not called again.

    It may have an attribute ``entry_type``, the class of its entries. Then opening a queue refuses
    a journal or a file of dead letters for another class. An attribute ``label`` is its store's name
    in the log, and holds no secret. What wraps a ``StreamRepository`` should
    forward ``stream_metrics``, by which exporters know the stream.
    """

    async def upsert_many(self, entries: Sequence[E_contra], /) -> int:
        """Store every entry, or none.

        Must be idempotent: after an unknown outcome the same entries come again. A cancelled
        call must return promptly; if the entries were stored nevertheless, it should return
        normally.

        Args:
            entries: 1 to ``batch_size`` entries, no key twice.

        Returns:
            How many rows the call changed (0 to ``len(entries)``).

        Raises:
            StoreUnavailableError: the store can't be reached, is locked, or the outcome is unknown:
                the queue keeps the batch and tries again without end. ``OSError``, ``EOFError``,
                ``trio.BrokenResourceError`` and ``trio.BusyResourceError`` mean the same. With
                ``too_slow=True`` the store was at work when time ran out: after three in a row
                fewer entries are sent at once. A bare ``TimeoutError``, ``trio.TooSlowError``,
                ``MemoryError``, and ``trio.WouldBlock`` of a full queue or channel mean that.
            StoreMisconfiguredError: the same as unavailable, but a person is needed.
                ``trio.ClosedResourceError`` means the same.
            TransientStoreError: the call was rolled back. The batch is retried up to
                ``max_retries`` times, then halved. An entry whose own retries are used up is
                dead-lettered.
            EntryRejectedError: one entry can't be stored; it is isolated and dead-lettered.
            Exception: the reason is unknown. The batch is retried once, then halved. An entry
                that fails alone is dead-lettered once there is evidence against it rather than
                the store.
        """
        ...


class DeadLetter(msgspec.Struct, Generic[E_co], frozen=True, kw_only=True):
    """One entry that the store refused, and why.

    Attributes:
        entry: the entry, whole.
        key: its key.
        error_class: name of the error's class (of the driver's, where it is known).
        sqlstate: five-character SQLSTATE, or None.
        constraint: name of the violated constraint, or None.
        field: name of the field that could not be stored, or None.
        reason: why, in words that quote no entry, if the repository found that out itself, before
            the store was asked; or None.
        attempts: how many ``upsert_many`` calls included the entry.
        opened_at: when its batch was opened, that is, when the batch's oldest entry was
            accepted; aware, UTC.
        failed_at: when the entry became a letter; aware, UTC.
    """

    entry: E_co
    key: object
    error_class: str
    sqlstate: str | None
    constraint: str | None
    attempts: int
    opened_at: datetime
    failed_at: datetime
    field: str | None = None
    reason: str | None = None


class DeadLetterSink(Protocol[E_contra]):
    """Takes the entries that the store refused.

    ``DeadLetter`` is generic in the entry, so a sink for ``ProvcacheEntry`` takes
    ``Sequence[DeadLetter[ProvcacheEntry]]``.
    """

    async def put_many(self, letters: Sequence[DeadLetter[E_contra]], /) -> None:
        """Take every letter, or raise.

        There is one call at a time. A call that raises, or takes longer than five seconds, is
        repeated with the same letters (and perhaps more), so a sink may see one twice. After
        three calls in a row that took too long, each call has fewer letters.

        Args:
            letters: at least one letter, oldest first.

        Raises:
            EntryRejectedError: the letter at ``index``, or some letter, can never be taken. Once
                it was refused alone, it is logged, not sent again, and in ``undelivered`` when
                the queue has ended; the others come again.
            Exception: anything else; all letters come again.
        """
        ...


class Journal(Protocol[E]):
    """Keeps accepted entries on disk; ``provcache_trio.journal.open_journal`` opens one.

    A journal may have more members than these. ``heals: bool`` states that ``append`` works again
    by itself after a failure, so that no ``rewrite`` is needed. ``async def tidy(self)`` makes it
    smaller and is called instead of ``rewrite`` when it is overgrown; ``tidy_at: float`` is when
    to look again, on trio's clock. ``entries_to_replay: int`` is the number of entries that it
    held when it was opened, so that the log can report how many were not replayed. ``fault_of(entry)``
    returns why it can't hold an entry, in words that quote none of its values.

    It gives each entry a number, ascending from 1 or more. One queue uses it, once, and makes
    one call at a time. When a call returns, its work is done; otherwise it has to raise
    ``JournalError``. A cancelled call continues to its end and returns.
    """

    @property
    def always(self) -> bool:
        """Whether an entry is accepted only once it is on disk."""
        ...

    @property
    def sync_interval_seconds(self) -> float:
        """How long an accepted entry may wait until it is written, unless ``always``."""
        ...

    @property
    def holds_entries(self) -> bool:
        """Whether there is something to replay."""
        ...

    @property
    def overgrown(self) -> bool:
        """Whether ``rewrite`` would make it a good deal smaller."""
        ...

    def attach(self) -> None:
        """Reserve the journal for the queue that calls this.

        Raises:
            RuntimeError: another queue has reserved it already.
        """
        ...

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        """Write ``entries`` to disk, and that the ``settled`` ones are not to be replayed.

        Args:
            entries: each with the numbers of the records that it replaces.
            settled: the numbers of settled entries.

        Returns:
            The entries' numbers; None for one that can't be written and read back.

        Raises:
            JournalError: the entries may not be on disk. Then only ``rewrite`` helps, unless the
                journal ``heals``.
        """
        ...

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        """Replace everything by these entries; return as ``append`` does.

        Raises:
            JournalError: the journal holds either what it held before, or these entries.
        """
        ...

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        """Return the first entries with numbers above ``after``, at most ``most``.

        Called until it returns none, each time with the last number returned; a call may be
        repeated.

        Raises:
            JournalError: the journal can't be read.
        """
        ...

    async def set_aside(self, number: int, /) -> None:
        """Set aside, for a person, an entry just replayed that the queue can't take.

        Raises:
            JournalError: it could not be kept.
        """
        ...


class EntryObserver(Protocol[E_contra]):
    """Gets reports from a queue in the very step in which something happens; a cache is one.

    No method may raise, wait, or call the queue.
    """

    def accepted(self, key: Hashable, version: E_contra, /) -> None:
        """Note that ``version`` was accepted, or recovered from a journal.

        It may be merged with an older version of the key that is in line.
        """
        ...

    def refused(self, key: Hashable, /) -> None:
        """Note that the oldest versions of ``key`` with open fates have become a dead letter."""
        ...

    def metrics(self) -> CacheMetrics:
        """Return a snapshot of the cache; is called from any thread."""
        ...


class ObservedQueue(Protocol):
    """What exporters need of a queue; ``WriteBehindQueue`` has it.

    It may have two methods more. ``cache_metrics()`` returns the ``CacheMetrics`` of the cache over
    it, and ``stream_metrics()`` the ``StreamMetrics`` of the stream that it writes to, or takes
    from; either may return None.
    """

    @property
    def name(self) -> str:
        """The queue's name, unique among those that are shown together."""
        ...

    def metrics(self) -> WriteBehindMetrics:
        """Return a snapshot; may be called from any thread."""
        ...


class EntryQueue(Protocol[E_contra]):
    """The part of a queue for annotations of an application, so that tests can pass a smaller one."""

    async def enqueue(self, entry: E_contra, /) -> None:
        """Accept ``entry``, waiting for room; see ``WriteBehindQueue.enqueue``."""
        ...

    def enqueue_nowait(self, entry: E_contra, /) -> None:
        """Accept ``entry`` or raise; see ``WriteBehindQueue.enqueue_nowait``."""
        ...

    def metrics(self) -> WriteBehindMetrics:
        """Return a consistent snapshot; see ``WriteBehindQueue.metrics``."""
        ...
