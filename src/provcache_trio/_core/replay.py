"""The replay of entries that a dead process left in the journal, page by page."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol

import trio

from provcache_trio._vocabulary.errors import JournalError
from provcache_trio._vocabulary.keys import shown_key
from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.plurals import counted, counted_entries
from provcache_trio._vocabulary.protocols import E, E_co

from .batch import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from .batch import Batch, Fate
    from .durability import Durability
    from .journaled_line import JournaledLine, Notes
    from .lanes import Lanes
    from .lifetime import Lifetime
    from .waiting_room import WaitingRoom


class Pages(Protocol[E_co]):
    """What a replay asks of a journal; see ``Journal``."""

    @property
    def always(self) -> bool:
        """Whether every entry waits for the disk."""
        ...

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E_co]]:
        """Return the first entries with numbers above ``after``."""
        ...

    async def set_aside(self, number: int, /) -> None:
        """Set an entry aside for a person to look at."""
        ...


class Replay(Generic[E]):
    """Takes over the entries of the journal, as far as there is room, before new ones are accepted.

    Each row is one step of ``go_on``; the first that applies is taken.

    | state                                       | action                                  |
    |---------------------------------------------|-----------------------------------------|
    | an entry came that has no key               | set it aside                            |
    | an entry can't merge with that in line      | wait until that is with the writer      |
    | no room                                     | wait for room                           |
    | some of a page is left                      | take it over, seal what it is in        |
    | else                                        | read the next page; if there is none,   |
    |                                             | seal, admit who waits: the replay is over |

    An entry leaves the page only once it is taken over, so a crash of the task loses none. It is
    due at once, being older than any flush interval.
    """

    def __init__(
        self,
        journal: Pages[E],
        lanes: Lanes[E],
        lines: Sequence[JournaledLine[E]],
        room: WaitingRoom[E],
        notes: Notes[E],
        lifetime: Lifetime,
        *,
        key: Callable[[E], Hashable],
        durability: Durability[E],
        record: str = "record %d of the journal",
    ) -> None:
        self._journal = journal
        self._lanes = lanes
        # The same lines, typed as those of a journal.
        self._lines = lines
        self._room = room
        self._notes = notes
        self._lifetime = lifetime
        self._key = key
        self._durability = durability
        self._record = record
        # The number of the last entry that was read.
        self._last = 0
        # Entries that were read and not taken over yet.
        self._page: deque[tuple[int, E]] = deque()
        # The numbers of entries to set aside.
        self._keyless: deque[int] = deque()
        # The key of the page's first entry, if that can't merge.
        self._unmerged: Hashable = None
        # True while that entry holds the replay up.
        self._is_held_up = False
        self._taken = 0
        # The last entry that could not be put in line, though nothing was there to merge with.
        self._unplaced = 0
        # Set when the replay is over or was given up.
        self._over = trio.Event()
        # The last fates of the replayed entries, once it is over.
        self._last_fates: list[Fate] = []

    async def go_on(self) -> None:
        """Do the next step."""
        lifetime = self._lifetime
        if self._keyless:
            await self._set_aside(self._keyless[0])
        elif self._waits_for_the_writer() or lifetime.ledger.depth >= self._capacity:
            # Everything that it waits for is due already.
            await self._notes.bell.wait()
        elif self._page:
            self._take_over()
        elif await self._read():
            self._end()

    @property
    def _capacity(self) -> int:
        return self._lifetime.options.queue_capacity

    def _waits_for_the_writer(self) -> bool:
        if self._is_held_up and self._holder_of_unmerged() is None:
            self._is_held_up = False
        return self._is_held_up

    def _holder_of_unmerged(self) -> object:
        return self._line_of(self._unmerged).holder(self._unmerged)

    def _line_of(self, key: Hashable) -> JournaledLine[E]:
        return self._lines[self._lanes.number_of(key)]

    async def _read(self) -> bool:
        """Read a page; return whether nothing was left."""
        lifetime = self._lifetime
        room = self._capacity - lifetime.ledger.depth
        try:
            page = await self._journal.replay(self._last, min(room, lifetime.options.batch_size))
        except JournalError as error:
            await self._pause_after(error)
            return False
        # The journal finishes even a cancelled call. Then the queue has ended, and the page stays in
        # the journal.
        await trio.lowlevel.checkpoint_if_cancelled()
        if page:
            self._page.extend(page)
            self._last = page[-1][0]
        return not page

    def _take_over(self) -> None:
        """Take over the page, up to an entry that can't merge with the one in line."""
        page, key_of, line_of = self._page, self._key, self._line_of
        while page and not self._is_held_up:
            number, entry = page[0]
            try:
                key = key_of(entry)
                line = line_of(key)
                # Hashes and compares the key.
                holder = line.holder(key)
            except Exception:  # noqa: BLE001  # whatever the user's key raised
                self._keyless.append(number)
            else:
                if not self._recover(line, key, holder, number, entry):
                    break
            # Only now, so an entry that crashes this task is taken over again.
            page.popleft()
        self._lanes.seal(FlushReason.DRAIN if self._lifetime.closing.is_set() else FlushReason.DUE)

    def _recover(
        self,
        line: JournaledLine[E],
        key: Hashable,
        holder: Batch[E] | None,
        number: int,
        entry: E,
    ) -> bool:
        try:
            batch = line.recover(key, entry, holder)
        except Exception as error:  # noqa: BLE001  # whatever the user's merge raised
            if holder is None:
                # There was nothing to merge with: comparing its key has failed.
                return not self._try_again(number)
            # Both were accepted, so neither is lost. As without the crash, the older one is
            # written first, then the newer one, and the store judges each.
            self._unmerged, self._is_held_up = key, True
            self._lifetime.log(
                logging.ERROR,
                f"{self._record} does not merge with the version before (%s), and is "
                "written behind it; mend merge: %s",
                number,
                type(error).__qualname__,
                shown_key(key),
                key=key,
                error_class=type(error).__qualname__,
            )
            return False
        places = batch.journaled.places
        place = places.get(key)
        if place is None:
            place = places[key] = Place()
        place.numbers.append(number)
        self._notes.hold(place, batch.entries[key])
        self._taken += 1
        return True

    def _try_again(self, number: int) -> bool:
        """Return True the first time, and after that set aside an entry whose key can't be compared."""
        if self._unplaced != number:
            self._unplaced = number
            return True
        self._keyless.append(number)
        return False

    async def _set_aside(self, number: int) -> None:
        try:
            await self._journal.set_aside(number)
        except JournalError as error:
            await self._pause_after(error)
            return
        self._keyless.popleft()
        self._taken += 1
        self._lifetime.log(
            logging.ERROR,
            "record %d of the journal has no key, and is set aside: mend key=, then restore it",
            number,
        )

    async def _pause_after(self, error: JournalError) -> None:
        self._durability.fail(error)
        await trio.sleep_until(self._durability.retry_at)

    def _end(self) -> None:
        lifetime = self._lifetime
        lifetime.recovering = False
        # All batches are sealed, so these fates include no later entries.
        self._last_fates = self._lanes.tails()
        self._over.set()
        if self._taken:
            lifetime.log(
                logging.INFO, "journal replayed: %s taken over", counted_entries(self._taken)
            )
        if not self._journal.always:
            self._room.open_door()
        lifetime.note_settled()

    def give_up(self) -> None:
        """Wake those who wait for the end, since the queue has ended."""
        self._over.set()

    async def fates(self) -> list[Fate]:
        """Wait for the end, then return the last fate of each lane."""
        await self._over.wait()
        return self._last_fates

    def log_rest(self) -> None:
        """Log how many entries stay in the journal unread."""
        held: int | None = getattr(self._journal, "entries_to_replay", None)
        if held is None:
            self._lifetime.log(
                logging.WARNING,
                "older entries stay in the journal: the queue that opens it next replays them",
            )
            return
        left = held - self._taken
        self._lifetime.log(
            logging.WARNING,
            "%s left in the journal: the queue that opens it next replays them",
            counted(left, "older entry", "older entries"),
            count=left,
        )
