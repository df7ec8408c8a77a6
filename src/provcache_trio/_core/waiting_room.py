"""The waiting room: producers that wait for room in the line, first come, first served."""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Generic

import trio

from provcache_trio._vocabulary.errors import QueueClosedError
from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .batch import Batch, Bell, Receipt
    from .lanes import Lanes
    from .lifetime import Lifetime


class Producer(Generic[E]):
    """A task that waits, and what it brings."""

    __slots__ = ("entry", "error", "gone", "key", "known_as", "receipt", "task")

    def __init__(
        self, key: Hashable, entry: E, receipt: Receipt | None, known_as: Hashable | None
    ) -> None:
        self.task: trio.lowlevel.Task = trio.lowlevel.current_task()
        self.key: Hashable = key
        self.entry: E = entry
        self.receipt: Receipt | None = receipt
        self.known_as: Hashable | None = known_as  # to telemetry
        self.error: BaseException | None = None
        self.gone: bool = False  # cancelled, when it was too late to leave no trace


class WaitingRoom(Generic[E]):
    """Lets producers in as the line gets shorter.

    The step that makes room accepts the entries itself, on behalf of the tasks that brought
    them. Nobody who comes later can slip in before they run, and a producer that is
    cancelled was either accepted or leaves no trace.
    """

    def __init__(self, lanes: Lanes[E], lifetime: Lifetime) -> None:
        self._lanes = lanes
        self._ledger = lifetime.ledger
        self._capacity = lifetime.options.queue_capacity
        # Whether those who wait with the same key are let in together.
        self._together = lifetime.options.coalesce
        self._telemetry = lifetime.telemetry
        self.held: bool = False  # nobody is let in, though there be room
        self._bell: Bell | None = None  # of the recorder, with a journal
        self.producers: dict[Producer[E], None] = {}  # in the order in which they came
        # One who comes now is let in while fewer are in line. (A merge function may call the
        # queue while ``let_in`` runs, when there is room, and others wait for it.)
        self.most: int = self._capacity
        self._by_key: dict[Hashable, dict[Producer[E], None]] = {}
        for line in lanes.lines:
            line.on_room = self.let_in

    def serve(self, bell: Bell, *, always: bool) -> None:
        """Ring ``bell`` when somebody comes or there is room; ``always``: for ``take``."""
        self._bell = bell
        self._together = self._together and not always

    @trio.lowlevel.enable_ki_protection
    async def wait(self, key: Hashable, entry: E, receipt: Receipt | None) -> None:
        """Wait until ``entry`` is accepted.

        Raises:
            QueueClosedError: the intake was closed first.
            Exception: whatever the queue's ``merge`` raised for this entry.
        """
        known_as = None if self._telemetry is None else self._telemetry.producer()
        producer = Producer(key, entry, receipt, known_as)
        if self._together:  # first: comparing keys runs code that may raise
            self._by_key.setdefault(key, {})[producer] = None
        self.producers[producer] = None
        self.most = 0
        self.hurry()
        if self._bell is not None:
            self._bell.ring()

        def abort(_: object) -> trio.lowlevel.Abort:
            producer.gone = producer not in self.producers
            if not producer.gone:
                self._dismiss(producer)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if producer.error is not None:
            raise producer.error

    def hurry(self) -> None:
        """Have the heads of a full queue's lines written: they need not be due to be in the way."""
        if self._ledger.depth >= self._capacity:
            self._lanes.hurry()

    def close(self, name: str) -> None:
        """Send everybody away."""
        why = "before the journal had it" if self.held else "while it was full"
        for producer in tuple(self.producers):
            self._dismiss(producer)
            self.dismiss(producer, QueueClosedError(f"queue {name!r} was closed {why}"))

    def _dismiss(self, producer: Producer[E]) -> None:
        del self.producers[producer]
        self._note_leaving()
        if self._together:
            same_key = self._by_key[producer.key]
            del same_key[producer]
            if not same_key:
                del self._by_key[producer.key]

    def _note_leaving(self) -> None:
        if not self.producers:
            self.most = self._capacity

    def let_in(self) -> None:
        """Accept those who wait, as far as there is room."""
        if self._bell is not None:
            self._bell.ring()
        while self.producers and self._ledger.depth < self._capacity and not self.held:
            first = next(iter(self.producers))
            same_key = tuple(self._by_key.get(first.key, (first,)))
            for producer in same_key:  # the first gets the key its place, the others share it
                self._dismiss(producer)
                self.admit(producer)
        if self.producers:
            self.hurry()

    def take(self, room: int, holder: Callable[[Hashable], Batch[E] | None]) -> list[Producer[E]]:
        """Take the first ones out, as far as there is room, and those who need none."""
        if len(self.producers) <= room:
            taken = list(self.producers)
            self.producers.clear()
            self._note_leaving()
            return taken
        taken = list(islice(self.producers, max(room, 0)))
        taken += [
            producer
            for producer in islice(self.producers, len(taken), None)
            if holder(producer.key) is not None
        ]
        for producer in taken:
            del self.producers[producer]
        self._note_leaving()
        return taken

    def admit(self, producer: Producer[E]) -> Batch[E] | None:
        """Accept what one who was taken out brings; return None if its merging failed."""
        batch = self._accept(producer)
        if not producer.gone:
            trio.lowlevel.reschedule(producer.task)
        return batch

    def dismiss(self, producer: Producer[E], error: BaseException) -> None:
        """Send one who was taken out away."""
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
            raise AssertionError("unreachable")  # there was no limit
        if producer.receipt is not None and not producer.gone:
            line.await_fate(batch, key, producer.receipt)
        batch.note_producer(producer.known_as)
        return batch
