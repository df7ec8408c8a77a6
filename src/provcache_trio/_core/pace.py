"""The pace of one lane: how many entries it sends at once after calls that were too slow.

====== =================================== ====== ==============================================
state  event                               next   action
====== =================================== ====== ==============================================
full   too slow, first or second in a row  full   wait, as in an outage
full   third in a row, several entries     slowed halve the part
slowed too slow, several entries           slowed halve the part
any    too slow, one entry                 same   wait, as in an outage
any    a call failed for another reason    same   the row is broken
slowed as many stored as may be sent       slowed twice as many may be sent, up to batch_size
slowed as many stored as were once too     full   all that fits may be sent
       slow
====== =================================== ====== ==============================================
"""

from __future__ import annotations

from typing import Final, NamedTuple

# The number of slow calls in a row after which fewer entries are sent.
_ROW: Final = 3


class Sizes(NamedTuple):
    """The sizes to report after the first success with fewer entries."""

    works: int
    too_slow: int


class Pace:
    """Decides how many entries are sent at once.

    Attributes:
        most: the number of entries that may be sent at once.
    """

    __slots__ = ("_batch_size", "_in_a_row", "_largest", "_reported", "_smallest", "most")

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.most: int = batch_size
        self._in_a_row = 0
        # The largest number of entries that was too slow since the pace was full.
        self._largest = 0
        # The last such number.
        self._smallest = 0
        # Whether the sizes of this slow period were reported.
        self._reported = False

    def was_too_slow(self, entries: int) -> bool:
        """Return whether to halve what was sent, after a call that was too slow."""
        self._in_a_row += 1
        if entries == 1 or (not self._largest and self._in_a_row < _ROW):
            return False
        self._largest = max(self._largest, entries)
        self._smallest = entries
        self.most = (entries + 1) // 2
        return True

    def failed_otherwise(self) -> None:
        """Note a call that failed for another reason than being too slow."""
        self._in_a_row = 0

    def stored(self, entries: int) -> Sizes | None:
        """Note a call that succeeded; return sizes to report, once in a slow period."""
        self._in_a_row = 0
        if not self._largest:
            return None
        if entries >= self.most:
            self.most = min(2 * self.most, self._batch_size)
        if entries >= self._largest:
            self._largest = 0
            self.most = self._batch_size
            self._reported = False
            return None
        if self._reported:
            return None
        self._reported = True
        return Sizes(works=entries, too_slow=self._smallest)
