"""What the queue asks of the outside, and what it gives: six small protocols."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from .metrics import WriteBehindMetrics

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
E_contra = TypeVar("E_contra", contravariant=True)


class Repository(Protocol[E_contra]):
    """Where batches of entries go. One method; the errors are its contract.

    The queue never has more calls under way than it has ``writers``, and never one key in
    two of them.

    A repository may have a second method, ``async def prepare(self, entries, /)``. While a
    call of ``upsert_many`` is under way, it is given what is likely to come next, and
    returns the same entries as a sequence that ``upsert_many`` will take faster, having
    encoded them, say. That sequence comes back if nothing changed until then, and otherwise
    is forgotten. An exception has no consequence: ``upsert_many`` is called all the same. A call
    that is still running when the writer is free is cancelled; after three of these in a row it
    is not called again.

    It may have an attribute ``entry_type``: the class of its entries. A journal or a file of dead
    letters for entries of another class is then refused when the queue is opened.
    """

    async def upsert_many(self, entries: Sequence[E_contra], /) -> int:
        """Store every entry, or none.

        Must be idempotent: after an unknown outcome the same entries come again. A call
        that is cancelled must return promptly; if the entries were stored all the same,
        it should return normally.

        Args:
            entries: 1 to ``batch_size`` entries, no key twice.

        Returns:
            How many rows the call changed (0 to ``len(entries)``).

        Raises:
            StoreUnavailableError: can't be reached, locked, or outcome unknown: the queue
                keeps the batch and tries again without end. ``OSError``, ``EOFError``,
                ``trio.BrokenResourceError`` and ``trio.BusyResourceError`` mean the same.
                With ``too_slow=True`` the store was at work when time ran out: after three
                in a row fewer entries are sent at once. A bare ``TimeoutError``,
                ``trio.TooSlowError``, ``MemoryError`` and ``trio.WouldBlock``, as of a full
                queue or channel, mean that.
            StoreMisconfiguredError: the same as unavailable, but a person is needed; so does
                ``trio.ClosedResourceError``.
            TransientStoreError: rolled back; tried again up to ``max_retries`` times, then
                halved. An entry whose own retries are used up is dead-lettered.
            EntryRejectedError: one entry can't be stored; it is isolated and dead-lettered.
            Exception: unknown; tried again once, then halved. What fails alone is
                dead-lettered once there is evidence against it rather than the store.
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
        attempts: how many ``upsert_many`` calls included the entry.
        opened_at: when its batch was opened, that is, when the batch's oldest entry was
            accepted; aware, UTC.
        failed_at: when the entry was given up; aware, UTC.
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


class DeadLetterSink(Protocol[E_contra]):
    """Where refused entries go.

    ``DeadLetter`` is generic in the entry, so a sink for ``ProvcacheEntry`` takes
    ``Sequence[DeadLetter[ProvcacheEntry]]``.
    """

    async def put_many(self, letters: Sequence[DeadLetter[E_contra]], /) -> None:
        """Take every letter, or raise.

        One call at a time. A call that raises, or takes longer than five seconds, is
        repeated with the same letters (and perhaps more), so a sink may see one twice. After
        three calls in a row that took too long there are fewer letters in each.

        Args:
            letters: at least one letter, oldest first.

        Raises:
            EntryRejectedError: the letter at ``index``, or some letter, can never be taken. Once
                it was refused alone it is logged, not sent again, and handed back when the queue
                ends; the others come again.
            Exception: anything else: all come again.
        """
        ...


class Journal(Protocol[E]):
    """What keeps accepted entries on disk; ``provcache_trio.journal.open_journal`` opens one.

    A journal may have more than this. ``heals: bool`` says that ``append`` works again by itself
    after it failed, so that nothing has to be written anew. ``async def tidy(self)`` makes it
    smaller by itself and is called instead of ``rewrite`` when it is overgrown; ``tidy_at: float``
    is when to look again, on trio's clock. ``entries_to_replay: int`` counts those.

    It gives each entry a number, 1 or more and ascending. One queue uses it, once, and makes
    one call at a time. A call is as good as done or has to raise ``JournalError``; cancelled,
    it goes on to its end and returns.

    If it has an attribute ``entries_to_replay``, the number of entries that it held when it was
    opened, the log can say at the end how many were not replayed.
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
        """Be used by a queue from now on.

        Raises:
            RuntimeError: another one was first.
        """
        ...

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        """Have ``entries`` on disk, and that ``settled`` ones are not to be replayed.

        Args:
            entries: each with the numbers of those whose place it takes.
            settled: numbers.

        Returns:
            The entries' numbers; None for one that can't be written and read back.

        Raises:
            JournalError: it is not known to be on disk. After that, only ``rewrite`` helps.
        """
        ...

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        """Hold these entries and nothing else; returns as ``append``.

        Raises:
            JournalError: it holds what it held before, or these entries.
        """
        ...

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        """Return the first entries with numbers above ``after``, at most ``most``.

        Called until it returns none, each time with the last number that came, or once more
        with the same one.

        Raises:
            JournalError: it can't be read.
        """
        ...

    async def set_aside(self, number: int, /) -> None:
        """Keep an entry that was just replayed for a person: the queue can't take it.

        Raises:
            JournalError: it could not be kept.
        """
        ...


class EntryObserver(Protocol[E_contra]):
    """What a queue reports to, in the very step in which it happens; a cache is one.

    Neither method may raise, wait, or call the queue.
    """

    def accepted(self, key: Hashable, version: E_contra, /) -> None:
        """Note that ``version`` was accepted, or recovered from a journal.

        It may be merged with an older version of the key that is in line.
        """
        ...

    def refused(self, key: Hashable, /) -> None:
        """Note that the oldest versions of ``key`` with open fates have become a dead letter."""
        ...


class ObservedQueue(Protocol):
    """What is asked of a queue to show how it is doing; a ``WriteBehindQueue`` has it."""

    @property
    def name(self) -> str:
        """What the queue is called; of several that are shown, no two have the same name."""
        ...

    def metrics(self) -> WriteBehindMetrics:
        """Return a snapshot; is called from whichever thread serves."""
        ...


class EntryQueue(Protocol[E_contra]):
    """What an application types against, so that a test can pass something smaller."""

    async def enqueue(self, entry: E_contra, /) -> None:
        """Accept ``entry``, waiting for room; see ``WriteBehindQueue.enqueue``."""
        ...

    def enqueue_nowait(self, entry: E_contra, /) -> None:
        """Accept ``entry`` or raise; see ``WriteBehindQueue.enqueue_nowait``."""
        ...

    def metrics(self) -> WriteBehindMetrics:
        """Return a consistent snapshot; see ``WriteBehindQueue.metrics``."""
        ...
