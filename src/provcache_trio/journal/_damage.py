"""Damage that was found in a journal, until it is set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._aside import pack_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._aside import About, AsideFile

_MOST_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024


class FoundDamage:
    """Stays in the journal, or else in memory, for as long as there is no room to set it aside.

    Args:
        aside: where it goes.
        read: reads from the journal: so many bytes, at an offset.

    Attributes:
        in_file: offset and length of what is in the journal.
    """

    def __init__(self, aside: AsideFile, read: Callable[[int, int], bytes]) -> None:
        self.in_file: list[tuple[int, int]] = []
        self._in_memory: list[bytes] = []  # as records: its file had to be emptied
        self._aside = aside
        self._read = read

    def __bool__(self) -> bool:
        return bool(self.in_file or self._in_memory)

    def set_aside(self, about: About) -> None:
        """Set it aside, or raise ``OSError``: then nothing has changed."""
        if self:
            self._aside.add(self._records(about))
            self.in_file, self._in_memory = [], []

    def copied(self, about: About) -> list[bytes]:
        """Set it aside, or return it, unless it is too much: its file is to be emptied."""
        try:
            self.set_aside(about)
        except OSError:
            if sum(length for _, length in self.in_file) > _MOST_IN_MEMORY_BYTES:
                raise
        return list(self._records(about))

    def take_from_memory(self, records: list[bytes]) -> None:
        """Go on with what ``copied`` returned: the file is empty."""
        self.in_file, self._in_memory = [], records

    def _records(self, about: About) -> Iterator[bytes]:
        yield from self._in_memory
        for at, length in self.in_file:
            yield from pack_kept(0, about, self._read(length, at))
