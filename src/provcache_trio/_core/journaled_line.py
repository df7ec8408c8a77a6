"""A line that notes what a journal has to know: what is accepted, and what is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

from .batch import Bell, Place
from .line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from .batch import Batch
    from .ledger import Ledger
    from .progress import Part


class Notes:
    """What is to be told to the journal; written down by lines and outbox, in their steps."""

    __slots__ = ("bell", "settled")

    def __init__(self) -> None:
        self.settled: list[int] = []  # numbers
        self.bell: Bell = Bell()  # there is something to do

    def settle(self, places: Iterable[Place]) -> None:
        """Note that the entries of these places are settled."""
        for place in places:
            place.gone = True
            self.settled += place.numbers
        self.bell.ring()

    def settle_keys(self, batch: Batch[E], keys: Iterable[Hashable]) -> None:
        """Note that these entries of ``batch`` are settled."""
        if batch.unsafe:
            for key in keys:
                batch.unsafe.pop(key, None)
        if batch.places:
            self.settle([batch.places.pop(key) for key in keys if key in batch.places])

    @staticmethod
    def hand_over(batch: Batch[E], key: Hashable) -> Place:
        """Return the place of an entry that leaves ``batch`` without being settled."""
        place = batch.places.pop(key, None) or Place()
        place.unsafe = key in batch.unsafe
        batch.unsafe.pop(key, None)
        return place


class JournaledLine(Line[E]):
    """A line with a journal. Only what is accepted is marked; the journal's task does the rest.

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
        notes: Notes,
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
            batch.unsafe[key] = None
        return batch

    def _open_batch(self) -> Batch[E]:
        self._notes.bell.ring()
        return super()._open_batch()

    def persisted(self, batch: Batch[E], part: Part, unchanged: int) -> None:
        """See ``Line.persisted``."""
        super().persisted(batch, part, unchanged)
        self._notes.settle_keys(batch, part.keys)

    def unsettled(self) -> Iterator[Batch[E]]:
        """Yield every batch with entries that are not settled, oldest first."""
        if self.writing is not None:
            yield self.writing
        yield from self.batches

    def holder(self, key: Hashable) -> Batch[E] | None:
        """Return the batch in line whose entry a new version of ``key`` would replace."""
        if not self._coalesce:
            return None
        batch = self.open
        if batch is not None and key in batch.entries:
            return batch
        return self._sealed.get(key)

    def recover(self, key: Hashable, entry: E) -> Batch[E]:
        """Take over an entry from the journal, as ``accept`` would accept it."""
        ledger = self._ledger
        batch = self.holder(key)
        if batch is not None:
            batch.entries[key] = self._merge(batch.entries[key], entry)
            ledger.recovered += 1
            ledger.coalesced += 1
            return batch
        batch = self.open
        if batch is None or len(batch.entries) >= self._batch_size or key in batch.entries:
            batch = self._open_batch()
        batch.entries[key] = entry
        ledger.recovered += 1
        ledger.depth += 1
        if len(batch.entries) == self._batch_size:
            self.hurry(batch, FlushReason.FULL)
        return batch
