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

    from .progress import Refusal

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

    __slots__ = ("error", "key", "known", "register")

    def __init__(self) -> None:
        self.known: trio.Event = trio.Event()
        self.error: ProvcacheError | None = None
        self.key: Hashable = None
        self.register: dict[Hashable, list[Receipt]] = {}  # of the batch; see await_fate

    def withdraw(self) -> None:
        """Forget about a caller that does not wait any more."""
        waiting = self.register.get(self.key, [])
        if self in waiting:
            waiting.remove(self)
            if not waiting:
                del self.register[self.key]


class Place:
    """Where a journal holds one entry that is not settled."""

    __slots__ = ("gone", "numbers", "refused", "unsafe")

    def __init__(self) -> None:
        self.numbers: list[int] = []  # of its records; several make one by merging
        self.gone: bool = False  # the entry is settled
        self.refused: bool = False  # the journal can't hold its newest version
        self.unsafe: bool = False  # of a dead letter: it has to be written


class Batch(Generic[E]):
    """Lives from its first accepted entry to its last settled one, and owns them all.

    An entry is in ``entries`` or, once the store has refused it, in ``refused``.
    """

    __slots__ = (
        "abandoned",
        "due",
        "entries",
        "opened_at",
        "places",
        "prepared",
        "producers",
        "progress",
        "receipts",
        "refused",
        "settled",
        "unsafe",
    )

    def __init__(self, opened_at: float) -> None:
        self.entries: dict[Hashable, E] = {}
        self.opened_at: float = opened_at  # trio's clock at its first entry's acceptance
        self.due: FlushReason | None = None  # why to write as soon as the writer is free
        self.receipts: dict[Hashable, list[Receipt]] = {}
        self.producers: dict[Hashable, None] = {}  # as telemetry knows them, in their order
        # All entries at one time, and the same as the repository takes them best.
        self.prepared: tuple[tuple[E, ...], Sequence[E]] = (), ()
        self.settled: trio.Event = trio.Event()  # the fate of every entry is known
        self.abandoned: bool = False  # ... and it is that they were handed back
        # With a journal: the keys whose entries have to be written to it, and where it holds the
        # others.
        self.unsafe: dict[Hashable, None] = {}
        self.places: dict[Hashable, Place] = {}
        # The writer's: what is left to do, once it has it, and what the store refused.
        self.progress: Progress = Progress()
        self.refused: dict[Hashable, Refusal[E]] = {}

    def note_producer(self, producer: Hashable | None) -> None:
        """Note who brought an entry, as telemetry knows it; the first ones are enough."""
        if producer is not None and len(self.producers) < _MOST_PRODUCERS:
            self.producers[producer] = None

    def to_send(self, keys: Sequence[Hashable]) -> Sequence[E]:
        """Return the entries of ``keys``, prepared if they were and none was replaced since."""
        entries = tuple(map(self.entries.__getitem__, keys))
        before, prepared = self.prepared
        if len(entries) == len(before) and all(map(is_, entries, before)):
            return prepared
        return entries

    def unsettled(self) -> int:
        """Count the entries whose fate is open."""
        return len(self.entries) + len(self.refused)
