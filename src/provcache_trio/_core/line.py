"""The line of batches: every place in which an accepted entry can be before it is written.

Nothing here waits. Each method is one synchronous step that leaves every entry with exactly one
owner and the ledger in balance, so no cancellation, crash or task switch can come in between.
"""

from __future__ import annotations

from collections import deque
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic

from provcache_trio._vocabulary.entries import ProvcacheEntry, merge_or_replace
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

from .batch import Batch, Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import trio

    from provcache_trio._vocabulary.errors import ProvcacheError
    from provcache_trio._vocabulary.protocols import EntryObserver

    from .batch import Fate, Receipt
    from .ledger import Ledger
    from .progress import Part


# At 174,762 keys a dict takes six milliseconds to grow, in one step; at half as many, two.
_MOST_KEYS: Final = 170_000


class Line(Generic[E]):
    """One lane: its batches in line, oldest first, and the one being written.

    Invariant: an accepted entry is in exactly one of ``batches`` or in ``writing`` (or has
    become a dead letter), and the ledger's ``depth`` and ``in_flight`` say how many are
    where.
    """

    __slots__ = (
        "_clock",
        "_coalesce",
        "_ledger",
        "batch_size",
        "batches",
        "bell",
        "holders",
        "holders_before",
        "merge",
        "observer",
        "on_room",
        "open",
        "plain",
        "preparing",
        "writing",
    )

    def __init__(
        self,
        *,
        batch_size: int,
        coalesce: bool,
        merge: Callable[[E, E], E] | None,
        ledger: Ledger,
        clock: Callable[[], float],
    ) -> None:
        self.batch_size: int = batch_size
        self._coalesce = coalesce
        self.merge: Callable[[E, E], E] = self._merge_or_replace if merge is None else merge
        # The type of entries whose newer version simply replaces the older, without a merge.
        self.plain: type | None = None
        self._ledger = ledger
        self._clock = clock
        # Called when the line got shorter; set by the waiting room.
        self.on_room: Callable[[], None] = _nobody_waits
        self.observer: EntryObserver[E] | None = None
        self.batches: deque[Batch[E]] = deque()
        # ``batches[-1]`` while it takes new keys.
        self.open: Batch[E] | None = None
        # The newest batch that holds each key in line: for the latest keys, and then, oldest first,
        # for those that came before. Few queues hold that many keys, and on the hot path a test for
        # None costs less than a test for an empty deque.
        self.holders: dict[Hashable, Batch[E]] = {}
        self.holders_before: deque[dict[Hashable, Batch[E]]] | None = None
        self.writing: Batch[E] | None = None
        # Set while the head of the line is being prepared.
        self.preparing: trio.CancelScope | None = None
        # Rings when the head of the line appears or becomes due: once per batch, not per entry.
        self.bell: Bell = Bell()

    def accept(self, key: Hashable, entry: E, most: float) -> Batch[E] | None:  # noqa: C901, PLR0912, PLR0915  # a call is dearer
        """Accept ``entry``; return its batch, or None if ``most`` entries are in line already.

        A version of ``key`` in line is replaced, however full the line is. It keeps its position
        and age, so a key that is rewritten without end is still written within the flush interval.
        """
        # Raises if the key can't be hashed.
        holder = self.holders.get(key)
        ledger = self._ledger
        if holder is None and self.holders_before is not None:
            holder = self._holder_before(key)
        if holder is not None and self._coalesce:
            entries = holder.entries
            if type(entry) is not self.plain:
                entry = self.merge(entries[key], entry)
            entries[key] = entry
            ledger.enqueued += 1
            ledger.coalesced += 1
            if self.observer is not None:
                self.observer.accepted(key, entry)
            return holder
        if ledger.depth >= most:
            return None
        # As ``place``, inlined: ``enqueue`` costs 3 % of a checkpoint less.
        batch = self.open
        if batch is None or batch is holder:
            batch = self._open_batch(key, entry)
        else:
            batch.entries[key] = entry
        try:
            self.holders[key] = batch
        except BaseException:
            self.take_back(batch)
            raise
        ledger.enqueued += 1
        ledger.depth += 1
        if len(batch.entries) == self.batch_size:
            self.seal(FlushReason.FULL)
        if self.observer is not None:
            self.observer.accepted(key, entry)
        return batch

    def place(self, key: Hashable, entry: E, holder: Batch[E] | None) -> Batch[E]:
        """Put ``entry`` into the open batch, or into a new one; return it."""
        batch = self.open
        # Without coalescing the key may be here already, and no batch holds one twice.
        if batch is None or batch is holder:
            batch = self._open_batch(key, entry)
        else:
            batch.entries[key] = entry
        try:
            # Comparing keys may run code that raises.
            self.holders[key] = batch
        except BaseException:
            self.take_back(batch)
            raise
        return batch

    def take_back(self, batch: Batch[E]) -> None:
        """Drop the last entry of the open batch, which could not be accepted after all."""
        batch.entries.popitem()
        if not batch.entries:
            self.batches.pop()
            self.open = None

    def _merge_or_replace(self, old: E, new: E) -> E:
        if not isinstance(new, ProvcacheEntry):
            self.plain = type(new)
        return merge_or_replace(old, new)

    def _open_batch(self, key: Hashable, entry: E) -> Batch[E]:
        # Not ``Batch[E](…)``, which takes several times as long.
        batch: Batch[E] = Batch(self._clock())
        # Hashing the key may raise; this comes first, so no batch in line is ever empty.
        batch.entries[key] = entry
        self.seal(FlushReason.FULL)
        if len(self.holders) >= _MOST_KEYS:
            before = self.holders_before = self.holders_before or deque()
            before.append(self.holders)
            self.holders = {}
        self.open = batch
        self.batches.append(batch)
        if len(self.batches) == 1:
            self.bell.ring()
        return batch

    def seal(self, reason: FlushReason) -> None:
        """Close the open batch to new keys, and make it due, as it can't grow."""
        batch = self.open
        if batch is not None:
            self.open = None
            self.hurry(batch, reason)

    def holder(self, key: Hashable) -> Batch[E] | None:
        """Return the batch in line whose entry a new version of ``key`` would replace."""
        return self._newest_holder(key) if self._coalesce else None

    def _newest_holder(self, key: Hashable) -> Batch[E] | None:
        newest = self.holders.get(key)
        if newest is None and self.holders_before:
            newest = self._holder_before(key)
        return newest

    def _holder_before(self, key: Hashable) -> Batch[E] | None:
        for holders in reversed(self.holders_before or ()):
            if key in holders:
                return holders[key]
        return None

    def can_grow(self, batch: Batch[E]) -> bool:
        """Return whether ``batch`` may still take a new key."""
        return batch is self.open

    def hurry(self, batch: Batch[E], reason: FlushReason) -> None:
        """Make ``batch`` due; the first reason counts."""
        batch.due = batch.due or reason
        if self.batches and self.batches[0] is batch:
            self.bell.ring()

    def take(self, batch: Batch[E]) -> None:
        """Move ``batch`` from the line to the writer, unless it is there already.

        Both ends of the channel call this, so no batch is lost when a task crashes between them.
        """
        if self.writing is not None or not self.batches or self.batches[0] is not batch:
            return
        self.batches.popleft()
        self._unlist(batch)
        if batch is self.open:
            self.open = None
        else:
            self._join(batch)
        batch.progress.begin(batch.entries)
        self.writing = batch
        moved = len(batch.entries)
        ledger = self._ledger
        ledger.depth -= moved
        ledger.in_flight += moved
        ledger.count_flush(batch.due or FlushReason.DUE)
        self.on_room()

    def _unlist(self, batch: Batch[E]) -> None:
        """Remove the keys of a batch that has just left the line."""
        if not self.batches:
            self._forget_holders()
            return
        before = self.holders_before
        # The oldest batch is in the oldest holders.
        holders = before[0] if before else self.holders
        if self._coalesce:
            # No other batch in line holds a key of this one. The loop runs in C.
            deque(map(holders.pop, batch.entries), maxlen=0)
        else:
            for key in batch.entries:
                # A later batch may hold a newer version of the key.
                if holders[key] is batch:
                    del holders[key]
        if before and not holders:
            before.popleft()
            self.holders_before = before or None

    def _forget_holders(self) -> None:
        self.holders.clear()
        self.holders_before = None

    def _join(self, head: Batch[E]) -> None:
        """Join sealed batches to ``head``, as far as they fit into its call.

        So a ``flush`` after each entry does not cost a call for each. The open batch never joins,
        so a ``flush`` never waits for entries that came later.
        """
        while self.batches:
            batch = self.batches[0]
            if batch is self.open or len(head.entries) + len(batch.entries) > self.batch_size:
                return
            if not self._coalesce and not head.entries.keys().isdisjoint(batch.entries):
                return
            self.batches.popleft()
            self._unlist(batch)
            self._absorb(head, batch)

    def _absorb(self, head: Batch[E], batch: Batch[E]) -> None:
        head.absorb(batch)

    def persisted(self, batch: Batch[E], part: Part, unchanged: int) -> None:
        """Settle the entries of ``part``, which the store has acknowledged."""
        batch.progress.done(part)
        entries, keys = batch.entries, part.keys
        if len(keys) == len(entries):
            entries.clear()
        else:
            for key in keys:
                del entries[key]
        if batch.receipts:
            for key in keys:
                for receipt in batch.receipts.pop(key, ()):
                    receipt.known.set()
        settled = len(keys)
        ledger = self._ledger
        ledger.in_flight -= settled
        ledger.persisted += settled
        ledger.unchanged += unchanged
        ledger.batches += 1

    def finish(self, batch: Batch[E]) -> None:
        """Drop a batch that holds no entry any more."""
        self.writing = None
        if self.preparing is not None:
            self.preparing.cancel()
        for receipts in batch.receipts.values():
            for receipt in receipts:
                receipt.known.set()
        for fate in batch.fates:
            fate.known.set()

    def oldest(self) -> float | None:
        """Return when the oldest batch with an open fate was opened; from any thread."""
        writing = self.writing
        if writing is not None:
            return writing.opened_at
        try:
            return self.batches[0].opened_at
        except IndexError:
            return None

    def await_fate(self, batch: Batch[E], key: Hashable, receipt: Receipt) -> None:
        """Connect ``receipt`` with the fate of ``key`` in ``batch``, and make the batch due."""
        register = batch.receipts.get(key)
        if register is None:
            register = batch.receipts[key] = {}
        register[receipt] = None
        receipt.register = register
        self.hurry(batch, FlushReason.REQUESTED)

    def tail(self) -> Fate | None:
        """Return the fate that will be known last, or None if all is settled."""
        batch = self.batches[-1] if self.batches else self.writing
        return None if batch is None else batch.fates[0]

    def pending(self, key: Hashable) -> E | None:
        """Return the newest version of ``key`` whose fate is open."""
        batch = self._newest_holder(key) or self.writing
        if batch is None:
            return None
        if key in batch.entries:
            return batch.entries[key]
        refusal = batch.refused.get(key)
        return None if refusal is None else refusal.entry

    def behind(self, turn: int) -> tuple[Batch[E], Hashable] | None:
        """Return an entry in line by its batch and key, or None if there is none.

        The newest is the first; in each turn it is another.

        It stays where it is. No older version of its key is open, so that writing it before what
        stands in front of it, and once more later, changes nothing.
        """
        if not self.batches:
            return None
        back, nth = divmod(turn, len(self.batches))
        *before, batch = islice(self.batches, len(self.batches) - nth)
        key = next(islice(reversed(batch.entries), back % len(batch.entries), None))
        writing = self.writing
        if writing is not None and (key in writing.entries or key in writing.refused):
            return None
        if any(key in older.entries for older in before):
            return None
        return batch, key

    def folded(self, key: Hashable) -> E | None:
        """Return all versions of ``key`` with open fates, merged oldest first; None if there is none."""
        versions: list[E] = []
        if self.writing is not None:
            if key in self.writing.entries:
                versions.append(self.writing.entries[key])
            elif key in self.writing.refused:
                versions.append(self.writing.refused[key].entry)
        if not self._coalesce:
            versions += [batch.entries[key] for batch in self.batches if key in batch.entries]
        # At most one batch holds the key.
        elif (holder := self._newest_holder(key)) is not None:
            versions.append(holder.entries[key])
        return reduce(self.merge, versions) if versions else None

    def abandon(
        self, error: Callable[[], ProvcacheError], *, kept: bool
    ) -> list[tuple[float, list[E]]]:
        """Abandon everything; return each batch's time of opening and its entries.

        Args:
            error: makes the error of those who wait for a fate.
            kept: whether the next queue gets the entries all the same.
        """
        given_up: list[tuple[float, list[E]]] = []
        ledger = self._ledger
        if self.writing is not None:
            batch = self.writing
            refused = [refusal.entry for refusal in batch.refused.values()]
            given_up.append((batch.opened_at, [*refused, *batch.entries.values()]))
            moved = batch.unsettled()
            saved = moved if kept else 0
            self._give_up(batch, error)
            self.writing = None
            ledger.in_flight -= moved
            ledger.abandoned += moved
            ledger.kept += saved
        self.open = None
        self._forget_holders()
        while self.batches:
            batch = self.batches.popleft()
            given_up.append((batch.opened_at, [*batch.entries.values()]))
            moved = batch.unsettled()
            saved = moved if kept else 0
            self._give_up(batch, error)
            ledger.depth -= moved
            ledger.abandoned += moved
            ledger.kept += saved
        return given_up

    @staticmethod
    def _give_up(batch: Batch[E], error: Callable[[], ProvcacheError]) -> None:
        batch.entries.clear()
        batch.refused.clear()
        batch.progress.parts.clear()
        for receipts in batch.receipts.values():
            for receipt in receipts:
                receipt.error = receipt.error or error()
                receipt.known.set()
        for fate in batch.fates:
            fate.abandoned = True
            fate.known.set()


def _nobody_waits() -> None:
    """Do nothing when a line gets shorter: nobody waits."""
