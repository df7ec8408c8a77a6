"""The line of batches: every place in which an accepted entry can be before it is written.

Nothing here waits. Each method is one synchronous step that leaves every entry with exactly
one owner and the ledger in balance, so no cancellation, crash or task switch can fall in
between.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic

from provcache_trio._vocabulary.entries import ProvcacheEntry, merge_or_replace
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

from .batch import Batch, Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from provcache_trio._vocabulary.errors import ProvcacheError

    from .batch import Receipt
    from .ledger import Ledger
    from .progress import Part


class Line(Generic[E]):
    """One lane: its batches in line, oldest first, and the one being written.

    Invariant: an accepted entry is in exactly one of ``batches`` or in ``writing`` (or has
    become a dead letter), and the ledger's ``depth`` and ``in_flight`` say how many are
    where.
    """

    __slots__ = (
        "_batch_size",
        "_clock",
        "_coalesce",
        "_ledger",
        "_merge",
        "_plain",
        "_sealed",
        "batches",
        "bell",
        "on_room",
        "open",
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
        self._batch_size = batch_size
        self._coalesce = coalesce
        self._merge = self._merge_or_replace if merge is None else merge
        # Of which the newer version wins, without a call to learn that again.
        self._plain: type | None = None
        self._ledger = ledger
        self._clock = clock
        self.on_room: Callable[[], None]  # set by the waiting room; the line got shorter
        self.batches: deque[Batch[E]] = deque()
        self.open: Batch[E] | None = None  # batches[-1] while it takes new keys
        self._sealed: dict[Hashable, Batch[E]] = {}  # newest batch in line, not open, by key
        self.writing: Batch[E] | None = None
        # Rings when the head of the line appears or becomes due: once a batch, never once
        # an entry.
        self.bell: Bell = Bell()

    def accept(self, key: Hashable, entry: E, most: float) -> Batch[E] | None:
        """Accept ``entry``; return its batch, or None if ``most`` entries are in line already.

        A version of ``key`` in line is replaced, however many there are. The place keeps its
        position and age, so that a key which is rewritten without end is still written
        within the flush interval.
        """
        batch = self.open
        ledger = self._ledger
        if self._coalesce:
            holder = batch if batch is not None and key in batch.entries else self._sealed.get(key)
            if holder is not None:
                entries = holder.entries
                if type(entry) is not self._plain:
                    entry = self._merge(entries[key], entry)
                entries[key] = entry
                ledger.enqueued += 1
                ledger.coalesced += 1
                return holder
        else:
            hash(key)  # if it can't, before anything has changed
        if ledger.depth >= most:
            return None
        # Without coalescing the key may be here already, and no batch holds one twice.
        if batch is None or len(batch.entries) >= self._batch_size or key in batch.entries:
            batch = self._open_batch()
        entries = batch.entries
        entries[key] = entry
        ledger.enqueued += 1
        ledger.depth += 1
        if len(entries) == self._batch_size:
            self.hurry(batch, FlushReason.FULL)
        return batch

    def _merge_or_replace(self, old: E, new: E) -> E:
        if not isinstance(new, ProvcacheEntry):
            self._plain = type(new)
        return merge_or_replace(old, new)

    def _open_batch(self) -> Batch[E]:
        self.seal(FlushReason.FULL)
        batch = Batch[E](self._clock())
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
            self._sealed.update(dict.fromkeys(batch.entries, batch))
            self.hurry(batch, reason)

    def can_grow(self, batch: Batch[E]) -> bool:
        """Return whether ``batch`` may still take a new key."""
        return batch is self.open and len(batch.entries) < self._batch_size

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
        if batch is self.open:
            self.open = None
        elif len(self.batches) == 1:
            self._sealed.clear()
        elif self._coalesce:  # no other batch in line holds a key of this one
            deque(map(self._sealed.__delitem__, batch.entries), maxlen=0)  # in C
        else:
            for key in batch.entries:
                # A later batch may hold a newer version of the key.
                if self._sealed[key] is batch:
                    del self._sealed[key]
        batch.progress.begin(batch.entries)
        self.writing = batch
        self.batches.popleft()
        moved = len(batch.entries)
        ledger = self._ledger
        ledger.depth -= moved
        ledger.in_flight += moved
        ledger.count_flush(batch.due or FlushReason.DUE)
        self.on_room()

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
        for receipts in batch.receipts.values():
            for receipt in receipts:
                receipt.known.set()
        batch.settled.set()

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
        batch.receipts.setdefault(key, []).append(receipt)
        receipt.register = batch.receipts
        receipt.key = key
        self.hurry(batch, FlushReason.REQUESTED)

    def tail(self) -> Batch[E] | None:
        """Return the batch whose fate is known last, or None if all is settled."""
        return self.batches[-1] if self.batches else self.writing

    def pending(self, key: Hashable) -> E | None:
        """Return the newest version of ``key`` whose fate is open."""
        batch = self.open
        if batch is None or key not in batch.entries:
            batch = self._sealed.get(key) or self.writing
        if batch is None:
            return None
        if key in batch.entries:
            return batch.entries[key]
        refusal = batch.refused.get(key)
        return None if refusal is None else refusal.entry

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
        self._sealed.clear()
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
        batch.abandoned = True
        batch.settled.set()
