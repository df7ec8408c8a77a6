"""The recorder: the task that keeps the journal, once it has replayed what a dead process left.

Accepting an entry only marks it. Everything here that changes something does so in one
synchronous step, before or after a call of the journal, whose calls come one at a time.
"""

from __future__ import annotations

import logging
import math
from itertools import chain
from typing import TYPE_CHECKING, Final, Generic, NamedTuple

import trio

from provcache_trio._vocabulary.errors import JournalError, QueueClosedError
from provcache_trio._vocabulary.protocols import E

from .batch import Place
from .replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from provcache_trio._vocabulary.protocols import Journal

    from .batch import Batch
    from .journaled_line import JournaledLine, Notes
    from .lanes import Lanes
    from .lifetime import Lifetime
    from .outbox import Outbox
    from .waiting_room import Producer, WaitingRoom

_MOST_IN_A_GROUP: Final = 1000


class Recorder(Generic[E]):
    """Keeps one journal for one queue."""

    def __init__(
        self,
        journal: Journal[E],
        lanes: Lanes[E],
        lines: Sequence[JournaledLine[E]],
        outbox: Outbox[E],
        room: WaitingRoom[E],
        notes: Notes[E],
        lifetime: Lifetime,
        *,
        key: Callable[[E], Hashable],
    ) -> None:
        self._journal = journal
        self._lines = lines
        self._outbox = outbox
        self._room = room
        self._notes = notes
        self._lifetime = lifetime
        self.always: bool = journal.always
        self.durable: bool = True
        self.kept: bool = False  # at the end: the journal holds everything that is left
        self.replay: Replay[E] = Replay(
            journal, lanes, lines, room, notes, lifetime, key=key, fail=self._fail
        )
        self._calling = False  # the end of a call was not seen yet
        self._group: list[Producer[E]] = []  # whose entries are being written
        # Something since it was empty, or damage that is to go away.
        self._written = lifetime.recovering or journal.overgrown
        self._finished = False
        if lifetime.recovering or self.always:
            room.close_door()

    async def run(self) -> None:
        """Keep the journal for as long as the queue lives."""
        if self._calling:  # we crashed in a call
            self._calling = False
            self._fail(JournalError("a call was cut off"))
        for producer in self._group:
            self._room.dismiss(producer, JournalError("the queue's journal task crashed"))
        self._group = []
        while self._lifetime.recovering:
            if self._notes.settled and self.durable:
                await self._write([])
            await self.replay.go_on()
        while True:
            await (self._commit() if self.always else self._sync_after_interval())

    # "interval"

    async def _sync_after_interval(self) -> None:
        ledger = self._lifetime.ledger
        while not (ledger.depth or ledger.in_flight or self._notes.settled or not self.durable):
            await self._notes.bell.wait()  # without a deadline: an idle queue wakes nobody
        await trio.sleep(self._journal.sync_interval_seconds)
        await self._write([])

    # "always"

    async def _commit(self) -> None:
        """Write what a group of producers brings, then accept it."""
        self._group = group = await self._next_group()
        brought = [_Item(producer.key, producer.entry, Place()) for producer in group]
        error = await self._write(brought)
        self._group = []
        for producer, item in zip(group, brought, strict=True):
            if error is not None:
                self._room.dismiss(producer, JournalError(str(error)))
            elif not item.place.numbers:
                self._room.dismiss(
                    producer, JournalError("the entry can't be written as JSON and read back")
                )
            else:
                self._accept(producer, item)

    async def _next_group(self) -> list[Producer[E]]:
        lifetime, deadline = self._lifetime, math.inf
        while True:
            room = lifetime.options.queue_capacity - lifetime.ledger.depth
            group = self._room.take(min(room, _MOST_IN_A_GROUP))
            if group or lifetime.clock() >= deadline:
                return group
            if self._room.producers:
                self._room.hurry()  # a full line need not be due to be in the way
            if self._notes.settled or not self.durable:
                deadline = min(deadline, lifetime.clock() + self._journal.sync_interval_seconds)
            with trio.move_on_at(deadline):
                await self._notes.bell.wait()

    def _accept(self, producer: Producer[E], item: _Item[E]) -> None:
        if self._lifetime.closing.is_set():
            name = self._lifetime.name
            self._room.dismiss(producer, QueueClosedError(f"queue {name!r} was closed"))
            batch = None
        else:
            batch = self._room.admit(producer)
        if batch is None:
            self._notes.settle([item.place])
        elif (place := batch.journaled.places.setdefault(item.key, item.place)) is not item.place:
            place.numbers += item.place.numbers

    # Both

    def _collect(self, *, everything: bool) -> list[_Item[E]]:
        """Return what is not settled, oldest first in each lane; or only that which has to be written."""
        items: list[_Item[E]] = []
        for letter, place in zip(self._outbox.letters, self._outbox.places, strict=True):
            if everything or place.unsafe:
                place.unsafe = False
                items.append(_Item(letter.key, letter.entry, place))
        marked, self._notes.marked = self._notes.marked, []
        batches: Iterable[Batch[E]] = sorted(marked, key=_number)
        if everything:
            batches = chain.from_iterable(line.unsettled() for line in self._lines)
        for batch in batches:
            unsafe, places = batch.journaled.unsafe, batch.journaled.places
            for key in (*batch.refused, *batch.entries) if everything else tuple(unsafe):
                refusal = batch.refused.get(key)
                entry = batch.entries[key] if refusal is None else refusal.entry
                items.append(_Item(key, entry, places.setdefault(key, Place())))
            unsafe.clear()
        return items

    def _places(self) -> Iterator[Place]:
        """Yield where the journal holds what is not settled."""
        yield from self._outbox.places
        for line in self._lines:
            for batch in line.unsettled():
                yield from batch.journaled.places.values()

    async def _write(self, brought: Sequence[_Item[E]]) -> JournalError | None:
        """Write what has to be written, and ``brought``; return why it could not be."""
        if self._lifetime.forked:
            await trio.sleep_forever()  # the parent keeps the journal
        anew = not self._lifetime.recovering and (not self.durable or self._journal.overgrown)
        items = [*self._collect(everything=anew), *brought]
        settled, self._notes.settled = self._notes.settled, []
        if not (items or settled or anew):
            return None
        self._calling = self._written = True
        try:
            if anew:
                numbers = await self._journal.rewrite([item.entry for item in items])
            else:
                numbers = await self._journal.append(
                    [(item.entry, tuple(item.place.numbers)) for item in items], settled
                )
        except JournalError as error:
            self._calling = False
            self._fail(error)
            return error
        self._calling = False
        for item, number in zip(items, numbers, strict=True):
            self._note(item, number, anew=anew)
        self._works()
        return None

    def _note(self, item: _Item[E], number: int | None, *, anew: bool) -> None:
        place = item.place
        place.refused = number is None
        if number is not None:
            place.numbers = [number]  # it takes the place of the others
            if place.gone:
                self._notes.settle([place])
            return
        if anew:
            place.numbers = []
        self._lifetime.log(
            logging.ERROR,
            "entry can't be written to the journal as JSON and read back: %s",
            item.key,
            key=item.key,
        )

    def _fail(self, error: JournalError) -> None:
        if self.durable:
            self.durable = False
            self._lifetime.log(
                logging.ERROR, "what is accepted would not survive a crash now: %s", error
            )

    def _works(self) -> None:
        if not self.durable and not self._lifetime.recovering:
            self.durable = True
            self._lifetime.log(logging.INFO, "journal works again")

    async def finish(self) -> None:
        """Leave the journal as the next queue should find it; shielded, and once."""
        if self._finished:
            return
        self._finished = True
        name = self._lifetime.name
        for producer in self._group:
            self._room.dismiss(producer, QueueClosedError(f"queue {name!r} was closed"))
        self._group = []
        if self._calling:
            self._calling = False
            self._fail(JournalError("a call was cut off"))
        with trio.CancelScope(shield=True):  # for as long as the disk takes
            self.kept = await self._write_last()

    async def _write_last(self) -> bool:
        ledger = self._lifetime.ledger
        if self._lifetime.recovering or ledger.depth or ledger.in_flight:
            # The first failure may be of the file, which the second one writes anew.
            written = await self._write([]) is None or await self._write([]) is None
            return written and not any(place.refused for place in self._places())
        if self._written:
            try:
                await self._journal.rewrite([])
            except JournalError as error:  # what is settled will be written once more
                self._lifetime.log(logging.WARNING, "the journal could not be emptied: %s", error)
            else:
                self._works()
        return True


def _number(batch: Batch[E]) -> int:
    return batch.journaled.number


class _Item(NamedTuple, Generic[E]):
    """Something to be written."""

    key: Hashable
    entry: E
    place: Place
