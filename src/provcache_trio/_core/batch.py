"""A batch: the one object that lives from its first accepted entry to its last settled one."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Final, Generic

import msgspec
import trio

from provcache_trio._vocabulary.protocols import E

from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from provcache_trio._vocabulary.errors import ProvcacheError
    from provcache_trio._vocabulary.metrics import FlushReason

    from .progress import Part, Refusal

# The number of links that a span of OpenTelemetry keeps by default.
_MOST_PRODUCERS: Final = 128


class Bell:
    """Wakes one waiting task; several rings before it waits count as one."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake the waiter now, or as soon as it waits."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until it rings, or return at once if it has rung since the last wait."""
        await self._event.wait()
        self._event = trio.Event()


class Receipt:
    """One caller's wait for the fate of one key in one batch."""

    __slots__ = ("error", "known", "register")

    def __init__(self) -> None:
        self.known: trio.Event = trio.Event()
        self.error: ProvcacheError | None = None
        # All receipts of the same key; a dict, since any of them may leave at any time.
        self.register: dict[Receipt, None] | None = None

    def withdraw(self) -> None:
        """Remove a caller that waits no longer."""
        if self.register is not None:
            self.register.pop(self, None)


class Fate:
    """The end of a batch, when each entry is settled or a letter; ``flush`` waits for it."""

    __slots__ = ("abandoned", "known", "letters")

    def __init__(self) -> None:
        self.known: trio.Event = trio.Event()
        # True if entries of the batch ended in ``undelivered``.
        self.abandoned: bool = False
        # The number of the last letter among them.
        self.letters: int = 0


class Place(msgspec.Struct, eq=False, gc=False):
    """The place of one unsettled entry in a journal.

    There is one for each entry that is recovered or relayed, so it costs the collector nothing: it
    can't be part of a cycle, unless an entry leads to its own queue.

    Attributes:
        numbers: the numbers of its records; merging makes one entry of several records.
        gone: True once the entry is settled.
        entry: the entry as the journal holds it.
        unsafe: True for a dead letter that is still to be written.
    """

    numbers: list[int] = []
    gone: bool = False
    entry: object = None
    unsafe: bool = False


class Journaled:
    """What is known of a batch's entries in the journal.

    Invariant: with a journal, each open entry of the batch has its key in ``unsafe``, or a place
    in ``places``, or is in the journal's write under way, which will give it one. (A key that has
    both was replaced since it was written.)
    """

    __slots__ = ("number", "places", "unsafe")

    def __init__(self) -> None:
        # Keys whose entries are still to be written.
        self.unsafe: dict[Hashable, None] = {}
        # Where the journal holds each entry.
        self.places: dict[Hashable, Place] = {}
        # Batches are numbered in the order in which they are opened.
        self.number: int = 0


class Batch(Generic[E]):
    """Lives from its first accepted entry to its last settled one, and owns them all.

    An entry is in ``entries`` or, once the store has refused it, in ``refused``.
    """

    __slots__ = (
        "due",
        "entries",
        "fates",
        "journaled",
        "opened_at",
        "prepared",
        "producers",
        "progress",
        "receipts",
        "refused",
    )

    def __init__(self, opened_at: float) -> None:
        self.entries: dict[Hashable, E] = {}
        # When its first entry was accepted, on trio's clock.
        self.opened_at: float = opened_at
        # Why it is to be written as soon as the writer is free; None: it is not.
        self.due: FlushReason | None = None
        self.receipts: dict[Hashable, dict[Receipt, None]] = {}
        # The producers of its entries as telemetry knows them, in order.
        self.producers: dict[Hashable, None] = {}
        # The entries that were prepared, and what ``prepare`` returned for them.
        self.prepared: tuple[tuple[E, ...], Sequence[E]] = (), ()
        # Its own fate first, then those of batches that joined it.
        self.fates: list[Fate] = [Fate()]
        self.journaled: Journaled = Journaled()
        # For the writer: what is left to do, and what the store refused.
        self.progress: Progress = Progress()
        self.refused: dict[Hashable, Refusal[E]] = {}

    def note_producer(self, producer: Hashable | None) -> None:
        """Note the producer of an entry as telemetry knows it; only the first ones are kept."""
        if producer is not None and len(self.producers) < _MOST_PRODUCERS:
            self.producers[producer] = None

    def absorb(self, batch: Batch[E]) -> None:
        """Take over everything from ``batch``, which waits behind this one."""
        self.entries.update(batch.entries)
        self.receipts.update(batch.receipts)
        self.fates += batch.fates
        self.progress.tries.update(batch.progress.tries)
        for producer in batch.producers:
            self.note_producer(producer)

    def to_send(self, part: Part) -> Sequence[E]:
        """Return the entries of ``part``, in prepared form if none was replaced since."""
        if part.is_whole:
            entries = tuple(self.entries.values())
        else:
            entries = tuple(map(self.entries.__getitem__, part.keys))
        before, prepared = self.prepared
        if len(entries) == len(before) and all(map(is_, entries, before)):
            return prepared
        return entries

    def unsettled(self) -> int:
        """Count the entries whose fate is open."""
        return len(self.entries) + len(self.refused)
