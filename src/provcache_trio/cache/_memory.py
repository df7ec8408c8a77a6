"""What a cache remembers: of each key the state that was read last, and all accepted since."""

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

# How many that were used get a second chance at once, so that no step takes long.
_CHANCES: Final = 16


def clock_of_trio() -> Callable[[], float]:
    """Return a clock that runs as trio's does.

    Its own is ``time.perf_counter`` with an offset, and ten times as dear to call.
    """
    clock = trio.lowlevel.current_clock()
    is_plain = type(clock).__name__ == "SystemClock"
    return time.perf_counter if is_plain else clock.current_time


class Slot(Generic[E]):
    """What is known of one key.

    Attributes:
        entry: its state, even if it has expired: later versions merge with it. None: there is none.
        read_at: when the read of the store began that it rests on.
        until: before this, ``entry`` may be returned without another look.
        used: whether it was since it last was among the oldest.
    """

    __slots__ = ("entry", "read_at", "until", "used")

    def __init__(self) -> None:
        self.entry: E | None = None
        self.read_at: float = 0.0
        self.until: float = 0.0
        self.used: bool = False


class Memory(Generic[E]):
    """At most ``max_entries`` slots. Whoever was not used since the hand last passed has to go.

    That is a queue with a second chance, as old as virtual memory. It keeps what an LRU keeps,
    and looking something up does not reorder anything, which would take longer than the look.
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
        """Return what may be returned for ``slot``, whose ``until`` has come."""
        entry = slot.entry
        if entry is None or self._clock() >= slot.read_at + self.seconds:
            return None
        if not self._rules.is_live(entry, self._rules.now()):
            return None
        slot.used = True
        return entry

    def look(self, key: Hashable) -> tuple[bool, E | None]:
        """Return whether an answer for ``key`` is known, and the answer."""
        slot = self.slots.get(key)
        if slot is None:
            return False, None
        now = self._clock()
        if now < slot.until:
            slot.used = True
            return True, slot.entry
        entry = self.live(slot)
        # For what was live a moment ago, too: it has expired since.
        return entry is not None or now < slot.read_at + self._negative_seconds, entry

    def keep(
        self, key: Hashable, entry: E | None, read_at: float, now: datetime, *, as_base: bool
    ) -> None:
        """Remember what a read has found.

        Args:
            key: of the entry.
            entry: its state; None: there is none.
            read_at: when the read began.
            now: the wall clock's time.
            as_base: even if nobody may be given it, since a version is about to be accepted.
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
        """Note that ``version`` was accepted."""
        slot = self.slots.get(key)
        if slot is not None:
            entry = slot.entry
            merged = version if entry is None else self._rules.merge(entry, version)
            self._fill(slot, merged, self._rules.now())

    def _fill(self, slot: Slot[E], entry: E | None, now: datetime) -> None:
        slot.entry = entry
        slot.until = -math.inf
        # Somebody's own clock is asked at every look.
        if entry is not None and self._rules.is_system_time:
            slot.until = slot.read_at + self.seconds
            expires = self._rules.expiry(entry)
            if expires is not None:
                left = (expires - now).total_seconds()
                if left < self.seconds:  # the common case needs no other look at the clock
                    slot.until = min(slot.until, self._clock() + left)

    def forget(self, key: Hashable) -> None:
        """Know nothing of ``key`` any more."""
        self.slots.pop(key, None)

    def _make_room(self) -> None:
        for _ in range(_CHANCES):
            key, slot = self.slots.popitem(last=False)
            if not slot.used:
                return
            slot.used = False
            self.slots[key] = slot
        self.slots.popitem(last=False)
