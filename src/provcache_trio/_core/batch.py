"""A batch: the one object that lives from its first accepted entry to its last settled one."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Final, Generic

import trio

from provcache_trio._vocabulary.protocols import E

from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from provcache_trio._vocabulary.errors import ProvcacheError
    from provcache_trio._vocabulary.metrics import FlushReason

    from .progress import Part, Refusal

_MOST_PRODUCERS: Final = 128  # links that a span keeps, by default


class Bell:
    """Wakes one waiting task; rings once however often it was pulled before."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake the waiter now, or as soon as it waits."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for a ring since the last wait."""
        await self._event.wait()
        self._event = trio.Event()


class Receipt:
    """One caller's wait for the fate of one key in one batch."""

    __slots__ = ("error", "known", "register")

    def __init__(self) -> None:
        self.known: trio.Event = trio.Event()
        self.error: ProvcacheError | None = None
        # All that wait for the same key; a dict, since any of them may leave at any time.
        self.register: dict[Receipt, None] | None = None

    def withdraw(self) -> None:
        """Forget about a caller that does not wait any more."""
        if self.register is not None:
            self.register.pop(self, None)


class Fate:
    """Whether everything of a batch is settled or has become a letter; ``flush`` waits for it."""

    __slots__ = ("abandoned", "known", "letters")

    def __init__(self) -> None:
        self.known: trio.Event = trio.Event()
        self.abandoned: bool = False  # it is that they were handed back
        self.letters: int = 0  # number of the last letter among them


class Place:
    """Where a journal holds one entry that is not settled."""

    __slots__ = ("entry", "gone", "numbers", "unsafe")

    def __init__(self) -> None:
        self.numbers: list[int] = []  # of its records; several make one by merging
        self.gone: bool = False  # the entry is settled
        self.entry: object = None  # as the journal holds it
        self.unsafe: bool = False  # of a dead letter: it has to be written


class Journaled:
    """What a journal knows of a batch.

    Invariant: with a journal, each open entry of the batch has its key in ``unsafe``, or a place
    in ``places``, or is in the journal's write under way, which will give it one. (A key that has
    both was replaced since it was written.)
    """

    __slots__ = ("number", "places", "unsafe")

    def __init__(self) -> None:
        self.unsafe: dict[Hashable, None] = {}  # the entry has to be written
        self.places: dict[Hashable, Place] = {}  # where the journal holds the entry
        self.number: int = 0  # batches are numbered in the order in which they are opened


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
        self.opened_at: float = opened_at  # trio's clock at its first entry's acceptance
        self.due: FlushReason | None = None  # why to write as soon as the writer is free
        self.receipts: dict[Hashable, dict[Receipt, None]] = {}
        self.producers: dict[Hashable, None] = {}  # as telemetry knows them, in their order
        # All entries at one time, and the same as the repository takes them best.
        self.prepared: tuple[tuple[E, ...], Sequence[E]] = (), ()
        self.fates: list[Fate] = [Fate()]  # its own first, then of batches that joined it
        self.journaled: Journaled = Journaled()
        # The writer's: what is left to do, once it has it, and what the store refused.
        self.progress: Progress = Progress()
        self.refused: dict[Hashable, Refusal[E]] = {}

    def note_producer(self, producer: Hashable | None) -> None:
        """Note who brought an entry, as telemetry knows it; the first ones are enough."""
        if producer is not None and len(self.producers) < _MOST_PRODUCERS:
            self.producers[producer] = None

    def absorb(self, batch: Batch[E]) -> None:
        """Take over everything that ``batch``, which waits behind this one, is made of."""
        self.entries.update(batch.entries)
        self.receipts.update(batch.receipts)
        self.fates += batch.fates
        for producer in batch.producers:
            self.note_producer(producer)

    def to_send(self, part: Part) -> Sequence[E]:
        """Return the entries of ``part``, prepared if they were and none was replaced since."""
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
