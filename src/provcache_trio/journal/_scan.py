"""The contents of a journal's file, found by reading all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ._numbers import Expected, Live
from ._records import Damage, Record, RecordKind, ranges_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._records import Piece

# In numbers; a record beyond it is not of this file.
_LONGEST_GAP: Final = 2**32
_KNOWN: Final = frozenset({RecordKind.ENTRY, RecordKind.NEWER, RecordKind.SETTLED})


class Findings(NamedTuple):
    """What was found in a file when it was opened."""

    # The number of entries to replay.
    entries: int
    # The missing records, as ranges of first and last number.
    missing: list[tuple[int, int]]
    damaged_bytes: int
    # Damaged bytes at the end, where a crash cuts a record off.
    unfinished_bytes: int

    @property
    def only_unfinished(self) -> bool:
        """Whether nothing is wrong except a last record that a crash cut off."""
        return not self.missing and self.damaged_bytes == self.unfinished_bytes

    @property
    def flawless(self) -> bool:
        """Whether nothing is wrong."""
        return not self.missing and not self.damaged_bytes


class Scan:
    """Reads the records of a file, once.

    Attributes:
        live: the entries to replay.
        last: the highest number that was ever given.
        good_until: offset of the end of the last good record.
        damage: offset and length of bytes that are not a record, or can't be where they are.
        unfinished_bytes: the damaged bytes at the end.
        missing: the missing records, as ranges of first and last number.
    """

    def __init__(self, at: int) -> None:
        self.live = Live()
        self.last: int = 0
        self.good_until: int = at
        self.damage: list[tuple[int, int]] = []
        self.unfinished_bytes: int = 0
        self.missing: list[tuple[int, int]] = []
        self._expected = Expected()

    def run(self, found: Iterable[Piece], noted: int) -> Findings:
        """Read everything, and return what was found.

        Args:
            found: the pieces of the file from its first record on.
            noted: the number of the last record known to be on disk.
        """
        for piece in found:
            if isinstance(piece, Damage) or not self._take(piece):
                self.damage.append((piece.at, len(piece.raw)))
                at_end = isinstance(piece, Damage) and piece.at_end
                self.unfinished_bytes = len(piece.raw) if at_end else 0
        last = max(self.last, noted, self._expected.last)
        self.missing += self._expected.between(self.last, last + 1)
        self.last = last
        damaged = sum(length for _, length in self.damage)
        return Findings(len(self.live.sizes), self.missing, damaged, self.unfinished_bytes)

    def _take(self, record: Record) -> bool:
        """Apply ``record``; return whether it can be at this place."""
        try:
            ranges = ranges_in(record)
        except (ValueError, msgspec.MsgspecError):
            return False
        if record.kind == RecordKind.HELD:
            if self.last:
                return False
            self._expected.begin(record.number, ranges)
        elif not self._take_numbered(record, ranges):
            return False
        self.good_until = record.at + len(record.raw)
        return True

    def _take_numbered(self, record: Record, ranges: list[tuple[int, int]]) -> bool:
        number = record.number
        highest = max(self.last, self._expected.last) + _LONGEST_GAP
        if not self.last < number < highest or record.kind not in _KNOWN:
            return False
        if number > self.last + 1:
            self.missing += self._expected.between(self.last, number)
        self.live.settle(ranges, number)
        if record.kind != RecordKind.SETTLED:
            self.live.add(number, len(record.raw))
        self.last = number
        return True
