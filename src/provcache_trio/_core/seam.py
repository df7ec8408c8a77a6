"""What a cache asks of the queue that it reads through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, final

from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence

    from provcache_trio._vocabulary.protocols import EntryObserver

    from .batch import Fate
    from .lanes import Lanes
    from .lifetime import Lifetime
    from .outbox import Outbox
    from .waiting_room import WaitingRoom


@final
class Seam(Generic[E]):
    """The side of a queue that its cache uses.

    Args:
        lifetime: the queue's state.
        lanes: where its entries wait.
        room: where its producers wait.
        outbox: where its dead letters wait.
        key: reads the key of an entry.
        enqueue: the queue's method.
        flush: the queue's method.
        note_cache: tells the queue which cache it has from now on.

    Attributes:
        name: the queue's.
        key: as given.
        merge: makes one entry of an older version and a newer one.
        enqueue: as given.
        flush: as given.
    """

    def __init__(
        self,
        lifetime: Lifetime,
        lanes: Lanes[E],
        room: WaitingRoom[E],
        outbox: Outbox[E],
        *,
        key: Callable[[E], Hashable],
        enqueue: Callable[[E], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
        note_cache: Callable[[EntryObserver[E] | None], None],
    ) -> None:
        self.name: Final = lifetime.name
        self.key: Final = key
        self.merge: Final = lanes.lines[0].merge
        self.enqueue: Final = enqueue
        self.flush: Final = flush
        self._lifetime = lifetime
        self._lanes = lanes
        self._room = room
        self._outbox = outbox
        self._note_cache = note_cache

    def tails(self) -> Sequence[Fate]:
        """Return fates that are open; once they are known, so is that of everything accepted by now."""
        return self._lanes.tails()

    def observe(self, observer: EntryObserver[E] | None) -> None:
        """Report every accepted version and every dead letter to ``observer``; None: to nobody.

        Raises:
            RuntimeError: there is one already.
        """
        if observer is not None and self._outbox.observer is not None:
            raise RuntimeError(f"queue {self.name!r} has a cache already: share it")
        self._note_cache(observer)
        for line in self._lanes.lines:
            line.observer = observer
        self._outbox.observer = observer

    def open_versions(self, keys: Iterable[Hashable]) -> dict[Hashable, E]:
        """Return, by key, the versions with open fates merged into one; for ``keys`` that have any."""
        ledger = self._lifetime.ledger
        if not (ledger.depth or ledger.in_flight):
            return {}
        each = ((key, self._lanes.of(key).folded(key)) for key in keys)
        return {key: version for key, version in each if version is not None}

    def has_room(self, key: Hashable) -> bool:
        """Return whether an entry with that key would be accepted without waiting for room."""
        if self._lifetime.recovering:
            return False
        if self._lanes.of(key).holder(key) is not None:
            return True
        # With a journal of durability "always", all wait for the disk, not for room.
        in_line = self._lifetime.ledger.depth + len(self._room.producers)
        return in_line < self._lifetime.options.queue_capacity
