"""The waiting room: producers that wait for room in the line, first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Generic

import trio

from provcache_trio._vocabulary.errors import QueueClosedError
from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .batch import Batch, Bell, Receipt
    from .calls import Calls
    from .lanes import Lanes
    from .lifetime import Lifetime


class Producer(Generic[E]):
    """A task that waits, and its entry."""

    __slots__ = ("entry", "error", "gone", "key", "known_as", "receipt", "task")

    def __init__(
        self, key: Hashable, entry: E, receipt: Receipt | None, known_as: Hashable | None
    ) -> None:
        self.task: trio.lowlevel.Task = trio.lowlevel.current_task()
        self.key: Hashable = key
        self.entry: E = entry
        self.receipt: Receipt | None = receipt
        # The producer as telemetry knows it.
        self.known_as: Hashable | None = known_as
        self.error: BaseException | None = None
        # True if it was cancelled too late to leave no trace.
        self.gone: bool = False


class WaitingRoom(Generic[E]):
    """Admits producers as the line gets shorter.

    The step that makes room accepts the entries itself, on behalf of the waiting tasks. So no
    later producer can overtake them before they run, and a producer that is cancelled was either
    accepted or leaves no trace.

    Who is admitted, and when:

    - A key in line needs no room. So when a key gets its place, every producer that waits with
      that key is admitted, in order.
    - Otherwise there has to be room; producers are admitted in the order in which they came.
    - While the door is closed, nobody: older entries come from the journal, or, with a journal of
      durability "always", every entry goes to the disk first. ``take`` admits producers then.

    Args:
        bell: rung when a producer comes or there is room.
    """

    def __init__(
        self, lanes: Lanes[E], lifetime: Lifetime, calls: Calls, bell: Bell | None = None
    ) -> None:
        self._lanes = lanes
        self._calls = calls
        self._ledger = lifetime.ledger
        self._capacity = lifetime.options.queue_capacity
        # Whether those who wait with the same key are admitted together.
        self._together = lifetime.options.coalesce
        self._telemetry = lifetime.telemetry
        self._bell = bell
        self.door_is_open: bool = True
        # In the order in which they came. Not a dict: finding its first item means passing over
        # all that were deleted before it.
        self.producers: OrderedDict[Producer[E], None] = OrderedDict()
        # A new producer is admitted while fewer entries than this are in line. (A merge function
        # may call the queue while ``let_in`` runs, when there is room that others wait for.)
        self.most: int = self._capacity
        self._by_key: dict[Hashable, dict[Producer[E], None]] = {}
        # Keys that came into line while a producer waited with them; only for ``take``.
        self._need_no_room: OrderedDict[Hashable, None] = OrderedDict()
        for line in lanes.lines:
            line.on_room = self.let_in

    def close_door(self) -> None:
        """Admit nobody, even if there is room."""
        self.door_is_open = False

    def open_door(self) -> None:
        """Admit all whose key is in line, in order, then others as far as there is room."""
        self.door_is_open = True
        for producer in tuple(self.producers):
            if self._lanes.of(producer.key).holder(producer.key) is not None:
                self._leave(producer)
                self.admit(producer)
        self.let_in()

    @trio.lowlevel.enable_ki_protection
    async def wait(self, key: Hashable, entry: E, receipt: Receipt | None) -> None:
        """Wait until ``entry`` is accepted.

        Raises:
            QueueClosedError: the intake was closed first.
            RuntimeError: the caller is a call that makes room, so it would wait for itself.
            Exception: whatever the queue's ``merge`` raised for this entry.
        """
        self._calls.raise_if_inside("waiting for room")
        known_as = None if self._telemetry is None else self._telemetry.producer()
        producer = Producer(key, entry, receipt, known_as)
        # First, as comparing keys runs code that may raise.
        if self._together:
            self._by_key.setdefault(key, {})[producer] = None
            self._note_place(key)
        self.producers[producer] = None
        self.most = 0
        self.hurry()
        if self._bell is not None:
            self._bell.ring()

        def abort(_: object) -> trio.lowlevel.Abort:
            producer.gone = producer not in self.producers
            if not producer.gone:
                self._leave(producer)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if producer.error is not None:
            raise producer.error

    def hurry(self) -> None:
        """Make the heads of a full queue's lines due: they may take room without being due."""
        if self._ledger.depth >= self._capacity:
            self._lanes.hurry()

    def close(self, name: str) -> None:
        """Refuse everybody who waits."""
        why = "while it was full" if self.door_is_open else "before the journal had it"
        for producer in tuple(self.producers):
            self._leave(producer)
            self.dismiss(producer, QueueClosedError(f"queue {name!r} was closed {why}"))

    def _leave(self, producer: Producer[E]) -> None:
        del self.producers[producer]
        if not self.producers:
            self.most = self._capacity
        if self._together:
            same_key = self._by_key[producer.key]
            del same_key[producer]
            if not same_key:
                del self._by_key[producer.key]

    def let_in(self) -> None:
        """Admit those who wait, as far as there is room."""
        if self._bell is not None:
            self._bell.ring()
        while self.door_is_open and self.producers and self._ledger.depth < self._capacity:
            first = next(iter(self.producers))
            same_key = tuple(self._by_key.get(first.key, (first,)))
            # The first one gives the key its place, and the others share it.
            for producer in same_key:
                self._leave(producer)
                self.admit(producer)
        if self.producers:
            self.hurry()

    def take(self, room: int, most: int) -> list[Producer[E]]:
        """Take out at most ``most``: the first ones that have room, then those that need none."""
        taken: list[Producer[E]] = []
        while self.producers and len(taken) < min(room, most):
            taken.append(next(iter(self.producers)))
            self._leave(taken[-1])
        keys = self._need_no_room
        while keys and len(taken) < most:
            key, _ = keys.popitem(last=False)
            if self._lanes.of(key).holder(key) is not None:
                taken += self._take_with(key, most - len(taken))
        return taken

    def _take_with(self, key: Hashable, most: int) -> list[Producer[E]]:
        """Take out the first producers that wait with ``key``, which is in line."""
        taken = list(islice(self._by_key.get(key, ()), most))
        for producer in taken:
            self._leave(producer)
        # For those that still wait with it.
        self._note_place(key)
        return taken

    def admit(self, producer: Producer[E]) -> Batch[E] | None:
        """Accept the entry of a producer that was taken out; return None if merging failed."""
        batch = self._accept(producer)
        if not producer.gone:
            trio.lowlevel.reschedule(producer.task)
        return batch

    def dismiss(self, producer: Producer[E], error: BaseException) -> None:
        """Raise ``error`` in a producer that was taken out."""
        producer.error = error
        if not producer.gone:
            trio.lowlevel.reschedule(producer.task)

    def _accept(self, producer: Producer[E]) -> Batch[E] | None:
        key, entry = producer.key, producer.entry
        line = self._lanes.of(key)
        try:
            batch = line.accept(key, entry, inf)
        except BaseException as error:  # noqa: BLE001, ASYNC103  # merge's: that caller's
            producer.error = error
            return None  # noqa: ASYNC104
        if batch is None:
            # Accepting had no limit.
            raise AssertionError("unreachable")
        if producer.receipt is not None and not producer.gone:
            line.await_fate(batch, key, producer.receipt)
        batch.note_producer(producer.known_as)
        self._note_place(key)
        return batch

    def _note_place(self, key: Hashable) -> None:
        """Note for ``take`` that ``key`` may be in line while a producer waits with it."""
        if not self.door_is_open and key in self._by_key:
            self._need_no_room[key] = None
