"""The numbers of records: those that are live, and those that should be in the file."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Live:
    """The entries that are neither settled nor replaced.

    Attributes:
        sizes: the bytes of each record, by ascending number.
        bytes: their sum.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.bytes: int = 0

    def add(self, number: int, size: int) -> None:
        """Note a new entry, with the highest number."""
        self.sizes[number] = size
        self.bytes += size

    def settle(self, ranges: Iterable[tuple[int, int]], before: int) -> None:
        """Remove the entries in these ranges whose numbers are below ``before``."""
        for first, last in ranges:
            end = min(last + 1, before)
            some: Iterable[int] = range(first, end)
            if end - first > len(self.sizes):
                some = [number for number in self.sizes if first <= number < end]
            for number in some:
                self.bytes -= self.sizes.pop(number, 0)


class Expected:
    """The numbers that should be in the file: some up to ``last``, and all above it."""

    def __init__(self) -> None:
        self.last: int = 0
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def begin(self, last: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Expect these ascending ranges in addition to earlier ones."""
        self.last = max(self.last, last)
        for first, end in ranges:
            self._firsts.append(first)
            self._lasts.append(end)

    def between(self, low: int, high: int) -> list[tuple[int, int]]:
        """Return the ranges of expected numbers above ``low`` and below ``high``."""
        found: list[tuple[int, int]] = []
        for at in range(bisect_left(self._lasts, low + 1), len(self._firsts)):
            if self._firsts[at] >= high:
                break
            found.append((max(self._firsts[at], low + 1), min(self._lasts[at], high - 1)))
        if high - 1 > max(self.last, low):
            found.append((max(self.last, low) + 1, high - 1))
        return found
