"""The recorder: the task that replays the journal of a dead process, and then writes it.

Accepting an entry only marks it. Everything here changes state in one synchronous step, before
or after a call of the journal, and the journal gets one call at a time.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, cast

import trio

from provcache_trio._vocabulary.errors import JournalError, QueueClosedError
from provcache_trio._vocabulary.keys import shown_key
from provcache_trio._vocabulary.log import escaped
from provcache_trio._vocabulary.protocols import E

from .batch import Place
from .durability import Durability
from .replay import Replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence

    from provcache_trio._vocabulary.protocols import Journal

    from .batch import Batch
    from .journaled_line import JournaledLine, Notes
    from .lanes import Lanes
    from .lifetime import Lifetime
    from .outbox import Outbox
    from .waiting_room import Producer, WaitingRoom

_MOST_IN_A_GROUP: Final = 250
# The most entries that one step collects or notes.
_MOST_AT_ONCE: Final = 250
_NOT_EMPTIED: Final = (
    "the journal could not be emptied, so the queue that opens it next stores it once more: %s"
)


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
        self._outbox = outbox
        self._room = room
        self._notes = notes
        self._lifetime = lifetime
        self.always: bool = journal.always
        self._durability = Durability(
            notes, lifetime, journal.sync_interval_seconds, always=self.always
        )
        # At the end, whether the journal holds everything that is left.
        self.kept: bool = False
        self.replay: Replay[E] = Replay(
            journal, lanes, lines, room, notes, lifetime, key=key, durability=self._durability
        )
        # True from the beginning of a call until its end was handled.
        self._calling = False
        self._in_call: list[_Item[E]] = []
        # What could not be written, and is tried again.
        self._again: list[_Item[E]] = []
        # True if the journal has to be rewritten from memory.
        self._anew = False
        # The producers whose entries are being written.
        self._group: list[Producer[E]] = []
        # True if the file is not empty, or holds damage that a rewrite removes.
        self._written = lifetime.recovering or journal.overgrown
        self._finished = False
        if lifetime.recovering or self.always:
            room.close_door()

    @property
    def durable(self) -> bool:
        """Whether accepted entries would survive a crash; see ``Durability``. From any thread."""
        return self._durability.is_true()

    async def run(self) -> None:
        """Keep the journal for as long as the queue lives."""
        if self._calling:
            # This task crashed during a call.
            self._note_cut_off()
        for producer in self._group:
            self._room.dismiss(
                producer, JournalError("the queue's journal task crashed; try again")
            )
        self._group = []
        while self._lifetime.recovering:
            if self._notes.settled and self._lifetime.clock() >= self._durability.retry_at:
                await self._write_what_is_left()
            await self.replay.go_on()
        while True:
            await (self._commit() if self.always else self._sync_after_interval())

    # "interval"

    async def _sync_after_interval(self) -> None:
        notes, clock = self._notes, self._lifetime.clock
        while not (notes.marked or self._has_work()):
            # An idle queue wakes nobody, unless its journal waits for room to shrink.
            with trio.move_on_at(self._tidy_at()):
                await notes.bell.wait()
        since = clock() if notes.marked_at is None else notes.marked_at
        at = since + self._journal.sync_interval_seconds
        await trio.sleep_until(max(at, self._durability.retry_at))
        await self._write_what_is_left()

    def _has_work(self) -> bool:
        left = self._notes.settled or self._again or self._durability.failing
        return bool(left) or self._journal.overgrown

    def _tidy_at(self) -> float:
        at: float = getattr(self._journal, "tidy_at", math.inf)
        return at

    # "always"

    async def _commit(self) -> None:
        """Write the entries of a group of producers, then accept them."""
        self._group = group = await self._next_group()
        brought = [_Item(producer.key, producer.entry, Place()) for producer in group]
        error = self._durability.error
        # While the disk fails, producers are refused at once instead of waiting for it.
        if not group or error is None or self._lifetime.clock() >= self._durability.retry_at:
            error = await self._write_what_is_left(brought)
        self._group = []
        for producer, item in zip(group, brought, strict=True):
            # This entry is on disk, even if a later one could not be written.
            if item.place.numbers:
                self._accept(producer, item)
            elif error is not None:
                self._room.dismiss(producer, JournalError(str(error)))
            else:
                key = escaped(shown_key(producer.key))
                fault = self._fault_of(item)
                self._room.dismiss(
                    producer,
                    JournalError(f"entry {key} can't be written as JSON and read back: {fault}"),
                )

    def _fault_of(self, item: _Item[E]) -> str:
        """Return why the journal can't hold an entry."""
        ask: Callable[[E], str] | None = getattr(self._journal, "fault_of", None)
        return "see entry_type of the journal" if ask is None else ask(item.entry)

    async def _next_group(self) -> list[Producer[E]]:
        lifetime, deadline = self._lifetime, math.inf
        while True:
            room = lifetime.options.queue_capacity - lifetime.ledger.depth
            group = self._room.take(room, _MOST_IN_A_GROUP)
            if group or lifetime.clock() >= deadline:
                return group
            if self._room.producers:
                # A line may be full without being due.
                self._room.hurry()
            if self._has_work():
                soon = lifetime.clock() + self._journal.sync_interval_seconds
                deadline = min(deadline, max(soon, self._durability.retry_at))
            with trio.move_on_at(self._tidy_at() if deadline == math.inf else deadline):
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
        else:
            place = batch.journaled.places.setdefault(item.key, item.place)
            if place is not item.place:
                place.numbers += item.place.numbers
                self._notes.held.pop(item.place, None)
            self._notes.hold(place, batch.entries[item.key])

    # Both

    async def _write_what_is_left(self, brought: Sequence[_Item[E]] = ()) -> JournalError | None:
        """Write everything marked, and ``brought``; return the error if that failed.

        Each call takes few enough entries that no step before or after it takes long.
        """
        if self._lifetime.forked:
            # The parent keeps the journal.
            await trio.sleep_forever()
        notes = self._notes
        batches, notes.marked_at = len(notes.marked), None
        self._durability.begin()
        error = await self._rewrite() if self._must_rewrite() else None
        if brought and error is None:
            error = await self._append(brought, is_new=True)
        # After a failure, call even with nothing to write, to see whether the journal works again.
        is_due = self._durability.failing
        while error is None:
            items, batches = self._next_items(batches)
            if not (items or notes.settled or is_due):
                break
            is_due = False
            error = await self._append(items)
        if notes.marked:
            notes.note_time()
        self._durability.end()
        if error is None and self._journal.overgrown and not self._lifetime.recovering:
            error = await self._tidy()
        return error

    def _must_rewrite(self) -> bool:
        heals: bool = getattr(self._journal, "heals", False)
        # With nothing held, emptying the journal makes room before anything is written.
        helps = not (heals and self._notes.held)
        self._anew = self._anew or (self._durability.failing and helps)
        return self._anew and not self._lifetime.recovering

    def _next_items(self, batches: int) -> tuple[list[_Item[E]], int]:
        """Take the next items to write; return them, and how many batches are left."""
        again, self._again = self._again[:_MOST_AT_ONCE], self._again[_MOST_AT_ONCE:]
        items = [item for item in again if not item.place.gone]
        batches += self._notes.displaced
        marked = self._in_order()
        while batches and marked and len(items) < _MOST_AT_ONCE:
            batch = marked[0]
            self._take_from(batch, items)
            if not batch.journaled.unsafe:
                marked.popleft()
                batches -= 1
        if len(items) < _MOST_AT_ONCE:
            items += self._letters()
        return items, batches

    def _in_order(self) -> deque[Batch[E]]:
        notes = self._notes
        if notes.displaced:
            notes.displaced = 0
            notes.marked = deque(sorted(notes.marked, key=_number))
        return notes.marked

    @staticmethod
    def _take_from(batch: Batch[E], items: list[_Item[E]]) -> None:
        unsafe, places = batch.journaled.unsafe, batch.journaled.places
        for key in list(islice(unsafe, _MOST_AT_ONCE - len(items))):
            del unsafe[key]
            refusal = batch.refused.get(key)
            entry = batch.entries[key] if refusal is None else refusal.entry
            items.append(_Item(key, entry, places.setdefault(key, Place())))

    def _letters(self) -> Iterator[_Item[E]]:
        for letter, place in self._outbox.journaled():
            if place.unsafe:
                place.unsafe = False
                yield _Item(letter.key, letter.entry, place)

    async def _append(
        self, items: Sequence[_Item[E]], *, is_new: bool = False
    ) -> JournalError | None:
        """Write ``items``, and what is settled; return the error if that failed.

        Args:
            items: what to write.
            is_new: whether the items are not accepted yet, so none is tried again after a failure.
        """
        notes = self._notes
        settled, notes.settled = notes.settled, []
        self._in_call = [] if is_new else list(items)
        self._calling = self._written = True
        try:
            numbers = await self._journal.append(
                [(item.entry, tuple(item.place.numbers)) for item in items], settled
            )
        except JournalError as error:
            self._calling = False
            notes.settled = settled + notes.settled
            self._again = self._in_call + self._again
            self._durability.fail(error)
            return error
        self._calling = False
        self._note_all(items, numbers, is_new=is_new)
        self._note_success()
        return None

    def _note_all(
        self, items: Sequence[_Item[E]], numbers: Sequence[int | None], *, is_new: bool
    ) -> None:
        unwritable: list[_Item[E]] = []
        for item, number in zip(items, numbers, strict=True):
            if number is None:
                unwritable.append(item)
            else:
                self._note(item.place, item.entry, number)
        if unwritable and not is_new:
            self._report_unwritable(unwritable)

    def _note(self, place: Place, entry: E, number: int) -> None:
        notes = self._notes
        # One record replaces the others.
        place.numbers = [number]
        notes.unwritable.pop(place, None)
        if place.gone:
            notes.settle([place])
        else:
            notes.hold(place, entry)

    def _report_unwritable(self, unwritable: Sequence[_Item[E]]) -> None:
        """Log the first item; with a wrong ``entry_type`` there may be one in each interval."""
        self._notes.unwritable.update(
            (item.place, None) for item in unwritable if not item.place.gone
        )
        key, more = unwritable[0].key, len(unwritable) - 1
        self._lifetime.log(
            logging.ERROR,
            "entry can't be written to the journal as JSON and read back, and would not survive a "
            "crash: %s%s: %s",
            shown_key(key),
            f" (and {more:,} more)" if more else "",
            self._fault_of(unwritable[0]),
            key=key,
        )

    async def _rewrite(self) -> JournalError | None:
        """Write a new file from memory, with everything that the journal should hold."""
        places: list[Place] = list(self._notes.held)
        entries: list[E] = []
        for at in range(0, len(places), _MOST_AT_ONCE):
            entries += [cast("E", place.entry) for place in places[at : at + _MOST_AT_ONCE]]
            await trio.lowlevel.checkpoint()
        self._calling = self._written = self._anew = True
        self._in_call = []
        self._notes.settled = []
        try:
            numbers = await self._journal.rewrite(entries)
        except JournalError as error:
            self._calling = False
            self._durability.fail(error)
            return error
        for at in range(0, len(places), _MOST_AT_ONCE):
            some = zip(places[at:], numbers[at : at + _MOST_AT_ONCE], strict=False)
            for place, number in some:
                self._note_anew(place, number)
            await trio.lowlevel.checkpoint()
        self._calling = self._anew = False
        return None

    def _note_anew(self, place: Place, number: int | None) -> None:
        if number is not None:
            self._note(place, cast("E", place.entry), number)
        else:
            # It was written before, and somebody has changed it since.
            place.numbers = []
            self._notes.unwritable[place] = None

    async def _tidy(self) -> JournalError | None:
        """Make the journal smaller by its own means, if it has any."""
        tidy: Callable[[], Awaitable[None]] | None = getattr(self._journal, "tidy", None)
        if tidy is None:
            return await self._rewrite()
        await tidy()
        return None

    def _note_success(self) -> None:
        if not (self._anew or self._lifetime.recovering):
            self._durability.work()

    def _note_cut_off(self) -> None:
        """Note that the outcome of a call is unknown, so record numbers are lost."""
        self._calling = False
        self._again = self._in_call + self._again
        self._anew = True
        self._durability.fail(JournalError("a call of the journal was cut off; it is tried again"))

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
            self._note_cut_off()
        # Without a deadline: as long as the disk takes.
        with trio.CancelScope(shield=True):
            self.kept = await self._write_last()

    async def _write_last(self) -> bool:
        ledger = self._lifetime.ledger
        if self._lifetime.recovering or ledger.depth or ledger.in_flight:
            # The first call may fail because of the file, which the second one replaces.
            written = (
                await self._write_what_is_left() is None or await self._write_what_is_left() is None
            )
            return written and not self._notes.unwritable
        if self._written:
            try:
                await self._journal.rewrite([])
            except JournalError as error:
                # What is settled will be written to the store once more.
                self._lifetime.log(logging.WARNING, _NOT_EMPTIED, error)
            else:
                self._anew = False
                self._notes.marked_at = None
                self._durability.work()
        return True


def _number(batch: Batch[E]) -> int:
    return batch.journaled.number


class _Item(NamedTuple, Generic[E]):
    """One entry to write to the journal."""

    key: Hashable
    entry: E
    place: Place
