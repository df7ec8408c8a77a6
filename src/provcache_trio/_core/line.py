"""The line of batches: every place in which an accepted entry can be before it is written.

Nothing here waits. Each method is one synchronous step that leaves every entry with exactly
one owner and the ledger in balance, so no cancellation, crash or task switch can fall in
between.
"""

from __future__ import annotations

from collections import deque
from functools import reduce
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


# A dict of 174,762 keys takes six milliseconds, in one step, to grow by one key; one of half as many
# takes two.
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
        # Entry type known to coalesce without a merge: the newer version replaces the older.
        self.plain: type | None = None
        self._ledger = ledger
        self._clock = clock
        # Called when the line got shorter; the waiting room puts itself here.
        self.on_room: Callable[[], None] = _nobody_waits
        self.observer: EntryObserver[E] | None = None
        self.batches: deque[Batch[E]] = deque()
        self.open: Batch[E] | None = None  # batches[-1] while it takes new keys
        # Of every key in line, the newest batch that holds it: of the keys that came last and, oldest
        # first, of those that came before. Few queues hold so many keys, and asking whether something
        # is None costs a hot path less than asking whether a deque is empty.
        self.holders: dict[Hashable, Batch[E]] = {}
        self.holders_before: deque[dict[Hashable, Batch[E]]] | None = None
        self.writing: Batch[E] | None = None
        self.preparing: trio.CancelScope | None = None  # the head, while one is written
        # Rings when the head of the line appears or becomes due: once a batch, never once
        # an entry.
        self.bell: Bell = Bell()

    def accept(self, key: Hashable, entry: E, most: float) -> Batch[E] | None:  # noqa: C901, PLR0912, PLR0915  # a call is dearer
        """Accept ``entry``; return its batch, or None if ``most`` entries are in line already.

        A version of ``key`` in line is replaced, however many there are. The place keeps its
        position and age, so that a key which is rewritten without end is still written
        within the flush interval.
        """
        holder = self.holders.get(key)  # raises, if the key can't be hashed
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
            self.holders[key] = batch  # compares keys, so it may run code that raises
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
        batch = Batch[E](self._clock())
        batch.entries[key] = entry  # hashes the key, which may raise: no batch in line is empty
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
        """Close the open batch to new keys; it can't grow, so it is due."""
        batch = self.open
        if batch is not None:
            self.open = None
            self.hurry(batch, reason)

    def holder(self, key: Hashable) -> Batch[E] | None:
        """Return the batch in line whose entry a new version of ``key`` would replace."""
        return self._newest_holder(key) if self._coalesce else None

    def _newest_holder(self, key: Hashable) -> Batch[E] | None:
        return self.holders.get(key) or self._holder_before(key)

    def _holder_before(self, key: Hashable) -> Batch[E] | None:
        for holders in reversed(self.holders_before or ()):
            if key in holders:
                return holders[key]
        return None

    def can_grow(self, batch: Batch[E]) -> bool:
        """Return whether ``batch`` may still take a new key."""
        return batch is self.open

    def hurry(self, batch: Batch[E], reason: FlushReason) -> None:
        """Make ``batch`` due as soon as the writer is free; the first reason counts."""
        batch.due = batch.due or reason
        if self.batches and self.batches[0] is batch:
            self.bell.ring()

    def take(self, batch: Batch[E]) -> None:
        """Hand ``batch`` to the writer, unless it already was.

        Both ends of the channel call this, so that a reference which is lost with a
        crashed task loses nothing.
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
        """Forget which keys a batch holds that has just left the line."""
        if not self.batches:
            self._forget_holders()
            return
        before = self.holders_before
        holders = before[0] if before else self.holders  # the oldest batch is in the oldest ones
        if self._coalesce:  # no other batch in line holds a key of this one
            deque(map(holders.pop, batch.entries), maxlen=0)  # in C
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
        """Have sealed batches written together with ``head``, as far as they fit into its call.

        So a ``flush`` after each entry does not make a call of each. The open batch never
        joins, so nobody waits for entries that came later than a ``flush``.
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
        """Let go of a batch that holds no entry any more."""
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
        """Have ``receipt`` told the fate of ``key`` in ``batch``, and that soon."""
        register = batch.receipts.get(key)
        if register is None:
            register = batch.receipts[key] = {}
        register[receipt] = None
        receipt.register = register
        self.hurry(batch, FlushReason.REQUESTED)

    def tail(self) -> Fate | None:
        """Return the fate that is known last, or None if all is settled."""
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

    def folded(self, key: Hashable) -> E | None:
        """Return what all versions of ``key`` with open fates come to, oldest first; or None."""
        versions: list[E] = []
        if self.writing is not None:
            if key in self.writing.entries:
                versions.append(self.writing.entries[key])
            elif key in self.writing.refused:
                versions.append(self.writing.refused[key].entry)
        if not self._coalesce:
            versions += [batch.entries[key] for batch in self.batches if key in batch.entries]
        elif (holder := self._newest_holder(key)) is not None:  # there is one at most
            versions.append(holder.entries[key])
        return reduce(self.merge, versions) if versions else None

    def abandon(self, error: Callable[[], ProvcacheError]) -> list[tuple[float, list[E]]]:
        """Give up everything; return when each batch was opened, and its entries."""
        given_up: list[tuple[float, list[E]]] = []
        ledger = self._ledger
        if self.writing is not None:
            batch = self.writing
            refused = [refusal.entry for refusal in batch.refused.values()]
            given_up.append((batch.opened_at, [*refused, *batch.entries.values()]))
            moved = batch.unsettled()
            self._give_up(batch, error)
            self.writing = None
            ledger.in_flight -= moved
            ledger.abandoned += moved
        self.open = None
        self._forget_holders()
        while self.batches:
            batch = self.batches.popleft()
            given_up.append((batch.opened_at, [*batch.entries.values()]))
            moved = batch.unsettled()
            self._give_up(batch, error)
            ledger.depth -= moved
            ledger.abandoned += moved
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
    """Let nobody in."""
