"""The memory of a cache: for each key, the state last read, merged with what was accepted since."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic

import trio

from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from datetime import datetime

    from ._rules import Rules

# At most so many used slots get a second chance in one step, so that no step takes long.
_CHANCES: Final = 16


def clock_of_trio() -> Callable[[], float]:
    """Return a clock that advances like trio's.

    Trio's system clock is ``time.perf_counter`` with an offset, and ten times as slow to call.
    """
    clock = trio.lowlevel.current_clock()
    is_plain = type(clock).__name__ == "SystemClock"
    return time.perf_counter if is_plain else clock.current_time


class Slot(Generic[E]):
    """What is known about one key.

    Attributes:
        entry: its state, or None if the store has none. Kept even if it has expired, because
            later versions are merged with it.
        read_at: when the read of the store that it rests on began.
        until: before this time ``entry`` may be returned without any other check.
        used: whether it was returned since it was last considered for eviction.
    """

    __slots__ = ("entry", "read_at", "until", "used")

    def __init__(self) -> None:
        self.entry: E | None = None
        self.read_at: float = 0.0
        self.until: float = 0.0
        self.used: bool = False


class Memory(Generic[E]):
    """At most ``max_entries`` slots; evicts the oldest that was not used lately.

    This is the second-chance algorithm of virtual memory. It keeps nearly what an LRU keeps, but
    a look-up reorders nothing, which would take longer than the look-up itself.
    """

    def __init__(
        self,
        rules: Rules[E],
        clock: Callable[[], float],
        *,
        max_entries: int,
        memory_seconds: float,
        negative_seconds: float,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._max_entries = max_entries
        self.seconds: float = memory_seconds
        self._negative_seconds = negative_seconds
        self.slots: OrderedDict[Hashable, Slot[E]] = OrderedDict()

    def live(self, slot: Slot[E]) -> E | None:
        """Return the entry of ``slot`` if it is still an answer, although ``until`` has passed."""
        entry = slot.entry
        if entry is None or self._clock() >= slot.read_at + self.seconds:
            return None
        if not self._rules.is_live(entry, self._rules.now()):
            return None
        slot.used = True
        return entry

    def look(self, key: Hashable) -> tuple[bool, E | None]:
        """Return whether memory has an answer for ``key``, and the answer."""
        slot = self.slots.get(key)
        if slot is None:
            return False, None
        now = self._clock()
        if now < slot.until:
            slot.used = True
            return True, slot.entry
        entry = self.live(slot)
        # An entry that has expired is an answer like that of a key without one.
        return entry is not None or now < slot.read_at + self._negative_seconds, entry

    def keep(
        self, key: Hashable, entry: E | None, read_at: float, now: datetime, *, as_base: bool
    ) -> None:
        """Remember what a read found.

        Args:
            key: of the entry.
            entry: its state, or None if there is none.
            read_at: when the read began.
            now: the wall clock's time.
            as_base: remember it even if it must not be returned, because a version that will be
                merged with it is about to be accepted.
        """
        remaining = read_at + self.seconds - self._clock()
        if remaining <= 0:
            self.forget(key)
            return
        is_answer = entry is not None and self._rules.is_live(entry, now)
        if not (is_answer or as_base or self._negative_seconds):
            self.forget(key)
            return
        slot = self.slots.get(key)
        if slot is None:
            if len(self.slots) >= self._max_entries:
                self._make_room()
            slot = self.slots[key] = Slot()
        slot.read_at = read_at
        self._fill(slot, entry, now)

    def fold(self, key: Hashable, version: E) -> None:
        """Merge a version that was accepted into what is remembered."""
        slot = self.slots.get(key)
        if slot is not None:
            entry = slot.entry
            merged = version if entry is None else self._rules.merge(entry, version)
            self._fill(slot, merged, self._rules.now())

    def _fill(self, slot: Slot[E], entry: E | None, now: datetime) -> None:
        slot.entry = entry
        slot.until = -math.inf
        # A clock of the user's is asked at every look-up instead.
        if entry is not None and self._rules.is_system_time:
            slot.until = slot.read_at + self.seconds
            expires = self._rules.expiry(entry)
            if expires is not None:
                left = (expires - now).total_seconds()
                # Most entries outlive ``self.seconds``, and need no second call of the clock.
                if left < self.seconds:
                    slot.until = min(slot.until, self._clock() + left)

    def forget(self, key: Hashable) -> None:
        """Forget ``key``."""
        self.slots.pop(key, None)

    def _make_room(self) -> None:
        for _ in range(_CHANCES):
            key, slot = self.slots.popitem(last=False)
            if not slot.used:
                return
            slot.used = False
            self.slots[key] = slot
        self.slots.popitem(last=False)
