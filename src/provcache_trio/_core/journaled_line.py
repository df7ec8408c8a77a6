"""A line that notes for the journal what is accepted and what is settled."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Generic

from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

from .batch import Bell, Place
from .line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from .batch import Batch
    from .ledger import Ledger
    from .progress import Part


class Notes(Generic[E]):
    """What the recorder has to write; lines and outbox note it in the steps that change it.

    Attributes:
        settled: numbers of records whose entries are settled.
        marked: batches with unsafe entries. Kept, as searching thousands of batches takes long.
        displaced: how many of them stand behind younger ones. Those have to be written later, as
            they may hold newer versions of the same keys.
        marked_at: when the first batch was marked since the recorder began to write.
        held: the places of all unsettled entries that the journal holds.
        unwritable: the places of entries that the journal can't hold.
        bell: rings when there is something to do.
    """

    __slots__ = (
        "_clock",
        "_numbers",
        "bell",
        "displaced",
        "held",
        "marked",
        "marked_at",
        "settled",
        "unwritable",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = count(1)
        self.settled: list[int] = []
        self.marked: deque[Batch[E]] = deque()
        self.displaced: int = 0
        self.marked_at: float | None = None
        self.held: dict[Place, None] = {}
        self.unwritable: dict[Place, None] = {}
        self.bell: Bell = Bell()

    def opened(self, batch: Batch[E]) -> None:
        """Number a new batch."""
        batch.journaled.number = next(self._numbers)
        self.bell.ring()

    def mark(self, batch: Batch[E]) -> None:
        """Note that ``batch`` has an unsafe entry, the first since its entries were written."""
        marked = self.marked
        if marked and marked[-1].journaled.number > batch.journaled.number:
            self.displaced += 1
        marked.append(batch)
        self.note_time()

    def note_time(self) -> None:
        """Note when the first batch was marked."""
        if self.marked_at is None:
            self.marked_at = self._clock()
            self.bell.ring()

    def absorb(self, head: Batch[E], batch: Batch[E]) -> None:
        """Move the notes on ``batch`` to ``head``, which has taken over its entries."""
        unsafe = head.journaled.unsafe
        if batch.journaled.unsafe and not unsafe:
            self.mark(head)
        unsafe.update(batch.journaled.unsafe)
        # Otherwise they would be written twice.
        batch.journaled.unsafe.clear()
        head.journaled.places.update(batch.journaled.places)

    def hold(self, place: Place, entry: E) -> None:
        """Note what the journal holds at ``place``."""
        place.entry = entry
        self.held[place] = None

    def settle(self, places: Iterable[Place]) -> None:
        """Note that the entries of these places are settled."""
        for place in places:
            place.gone = True
            self.settled += place.numbers
            self.held.pop(place, None)
            if self.unwritable:
                self.unwritable.pop(place, None)
        self.bell.ring()

    def settle_keys(self, batch: Batch[E], keys: Iterable[Hashable]) -> None:
        """Note that these entries of ``batch`` are settled."""
        unsafe, places = batch.journaled.unsafe, batch.journaled.places
        if unsafe:
            for key in keys:
                unsafe.pop(key, None)
        if places:
            self.settle([places.pop(key) for key in keys if key in places])

    @staticmethod
    def take_out(batch: Batch[E], key: Hashable) -> Place:
        """Return the place of an entry that leaves ``batch`` without being settled."""
        unsafe = batch.journaled.unsafe
        place = batch.journaled.places.pop(key, None) or Place()
        place.unsafe = key in unsafe
        unsafe.pop(key, None)
        return place


class JournaledLine(Line[E]):
    """A line with a journal. It only marks what is accepted; the journal's task writes it.

    Args:
        marks: whether accepted entries are still to be written.
    """

    __slots__ = ("_marks", "_notes")

    def __init__(
        self,
        *,
        batch_size: int,
        coalesce: bool,
        merge: Callable[[E, E], E] | None,
        ledger: Ledger,
        clock: Callable[[], float],
        notes: Notes[E],
        marks: bool,
    ) -> None:
        super().__init__(
            batch_size=batch_size, coalesce=coalesce, merge=merge, ledger=ledger, clock=clock
        )
        self._notes = notes
        self._marks = marks

    def accept(self, key: Hashable, entry: E, most: float) -> Batch[E] | None:
        """See ``Line.accept``."""
        batch = super().accept(key, entry, most)
        if batch is not None and self._marks:
            unsafe = batch.journaled.unsafe
            if not unsafe:
                self._notes.mark(batch)
            unsafe[key] = None
        return batch

    def _open_batch(self, key: Hashable, entry: E) -> Batch[E]:
        batch = super()._open_batch(key, entry)
        self._notes.opened(batch)
        return batch

    def _absorb(self, head: Batch[E], batch: Batch[E]) -> None:
        super()._absorb(head, batch)
        self._notes.absorb(head, batch)

    def persisted(self, batch: Batch[E], part: Part, unchanged: int) -> None:
        """See ``Line.persisted``."""
        super().persisted(batch, part, unchanged)
        self._notes.settle_keys(batch, part.keys)

    def recover(self, key: Hashable, entry: E, holder: Batch[E] | None) -> Batch[E]:
        """Take over an entry from the journal, as ``accept`` would accept it.

        Args:
            key: its key.
            entry: what to take over.
            holder: what ``holder`` returns for that key.
        """
        ledger = self._ledger
        batch = holder
        if batch is not None:
            batch.entries[key] = self.merge(batch.entries[key], entry)
            ledger.recovered += 1
            ledger.coalesced += 1
            if self.observer is not None:
                self.observer.accepted(key, entry)
            return batch
        batch = self.place(key, entry, self.holders.get(key))
        ledger.recovered += 1
        ledger.depth += 1
        if len(batch.entries) == self.batch_size:
            # Replayed entries are older than any flush interval.
            self.seal(FlushReason.DUE)
        if self.observer is not None:
            self.observer.accepted(key, entry)
        return batch
