"""The line of batches: every place in which an accepted entry can be before it is written.

Nothing here waits. Each method is one synchronous step that leaves every entry with exactly
one owner and the ledger in balance, so no cancellation, crash or task switch can fall in
between.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic

from provcache_trio._vocabulary.entries import ProvcacheEntry, merge_or_replace
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

from .batch import Batch, Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import trio

    from provcache_trio._vocabulary.errors import ProvcacheError

    from .batch import Fate, Receipt
    from .ledger import Ledger
    from .progress import Part


# A larger dict takes milliseconds, in one step, to grow by one key.
_MOST_KEYS: Final = 20_000


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
        "_sealed_before",
        "batches",
        "bell",
        "on_room",
        "open",
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
        self._batch_size = batch_size
        self._coalesce = coalesce
        self._merge = self._merge_or_replace if merge is None else merge
        # Entry type known to need no merge: the newer version replaces the older.
        self._plain: type | None = None
        self._ledger = ledger
        self._clock = clock
        # Called when the line got shorter; the waiting room puts itself here.
        self.on_room: Callable[[], None] = _nobody_waits
        self.batches: deque[Batch[E]] = deque()
        self.open: Batch[E] | None = None  # batches[-1] while it takes new keys
        # The newest batch in line, not open, by key: of the keys that were sealed last, and, oldest
        # first, of those that were sealed before.
        self._sealed: dict[Hashable, Batch[E]] = {}
        self._sealed_before: deque[dict[Hashable, Batch[E]]] = deque()
        self.writing: Batch[E] | None = None
        self.preparing: trio.CancelScope | None = None  # the head, while one is written
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
            if holder is None and self._sealed_before:
                holder = self._holder_sealed_before(key)
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
            if len(self._sealed) >= _MOST_KEYS:
                self._sealed_before.append(self._sealed)
                self._sealed = {}
            self._sealed.update(dict.fromkeys(batch.entries, batch))
            self.hurry(batch, reason)

    def holder(self, key: Hashable) -> Batch[E] | None:
        """Return the batch in line whose entry a new version of ``key`` would replace."""
        if not self._coalesce:
            return None
        batch = self.open
        if batch is not None and key in batch.entries:
            return batch
        return self._sealed_holder(key)

    def _sealed_holder(self, key: Hashable) -> Batch[E] | None:
        return self._sealed.get(key) or self._holder_sealed_before(key)

    def _holder_sealed_before(self, key: Hashable) -> Batch[E] | None:
        for keys in reversed(self._sealed_before):
            if key in keys:
                return keys[key]
        return None

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
        self.batches.popleft()
        if batch is self.open:
            self.open = None
        else:
            self._unlist(batch)
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
        """Forget which keys a sealed batch holds that has just left the line."""
        if not self.batches or self.batches[0] is self.open:  # no other is sealed
            self._forget_sealed()
            return
        before = self._sealed_before
        sealed = before[0] if before else self._sealed  # the oldest batch is among the oldest keys
        if self._coalesce:  # no other batch in line holds a key of this one
            deque(map(sealed.__delitem__, batch.entries), maxlen=0)  # in C
        else:
            for key in batch.entries:
                # A later batch may hold a newer version of the key.
                if sealed[key] is batch:
                    del sealed[key]
        if before and not sealed:
            before.popleft()

    def _forget_sealed(self) -> None:
        self._sealed.clear()
        self._sealed_before.clear()

    def _join(self, head: Batch[E]) -> None:
        """Have sealed batches written together with ``head``, as far as they fit into its call.

        So a ``flush`` after each entry does not make a call of each. The open batch never
        joins, so nobody waits for entries that came later than a ``flush``.
        """
        while self.batches:
            batch = self.batches[0]
            if batch is self.open or len(head.entries) + len(batch.entries) > self._batch_size:
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
        batch = self.open
        if batch is None or key not in batch.entries:
            batch = self._sealed_holder(key) or self.writing
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
        self._forget_sealed()
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
