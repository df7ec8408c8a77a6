"""The waiting room: producers that wait for room in the line, first come, first served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

import trio

from ._errors import QueueClosedError
from ._repository import E

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ._lanes import Lanes
    from ._lifetime import Lifetime
    from ._line import Batch, Receipt


class _Producer(Generic[E]):
    """A task that waits, and what it brings."""

    __slots__ = ("entry", "error", "key", "known_as", "receipt", "task")

    def __init__(
        self, key: Hashable, entry: E, receipt: Receipt | None, known_as: Hashable | None
    ) -> None:
        self.task = trio.lowlevel.current_task()
        self.key = key
        self.entry = entry
        self.receipt = receipt
        self.known_as = known_as  # to telemetry
        self.error: BaseException | None = None


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
        self._coalesce = lifetime.options.coalesce
        self._telemetry = lifetime.telemetry
        self.producers: dict[_Producer[E], None] = {}  # in the order in which they came
        self._by_key: dict[Hashable, dict[_Producer[E], None]] = {}
        for line in lanes.lines:
            line.on_room = self._let_in

    @trio.lowlevel.enable_ki_protection
    async def wait(self, key: Hashable, entry: E, receipt: Receipt | None) -> None:
        """Wait until ``entry`` is accepted.

        Raises:
            QueueClosedError: the intake was closed first.
            Exception: whatever the queue's ``merge`` raised for this entry.
        """
        known_as = None if self._telemetry is None else self._telemetry.producer()
        producer = _Producer(key, entry, receipt, known_as)
        self.producers[producer] = None
        if self._coalesce:
            self._by_key.setdefault(key, {})[producer] = None
        self._lanes.hurry()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._dismiss(producer)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if producer.error is not None:
            raise producer.error

    def close(self, name: str) -> None:
        """Send everybody away."""
        for producer in tuple(self.producers):
            self._dismiss(producer)
            producer.error = QueueClosedError(f"queue {name!r} was closed while it was full")
            trio.lowlevel.reschedule(producer.task)

    def _dismiss(self, producer: _Producer[E]) -> None:
        del self.producers[producer]
        if self._coalesce:
            same_key = self._by_key[producer.key]
            del same_key[producer]
            if not same_key:
                del self._by_key[producer.key]

    def _let_in(self) -> None:
        while self.producers and self._ledger.depth < self._capacity:
            first = next(iter(self.producers))
            same_key = tuple(self._by_key.get(first.key, (first,)))
            for producer in same_key:  # the first gets the key its place, the others share it
                self._dismiss(producer)
                self._accept(producer)
                trio.lowlevel.reschedule(producer.task)
        if self.producers:
            self._lanes.hurry()

    def _accept(self, producer: _Producer[E]) -> None:
        key, entry = producer.key, producer.entry
        line = self._lanes.of(key)
        batch: Batch[E] | None
        try:
            batch = line.replace(key, entry)
        except BaseException as error:  # noqa: BLE001, ASYNC103  # merge's: that caller's
            producer.error = error
            return  # noqa: ASYNC104
        if batch is None:
            batch = line.append(key, entry)
        if producer.receipt is not None:
            line.await_fate(batch, key, producer.receipt)
        batch.note_producer(producer.known_as)
