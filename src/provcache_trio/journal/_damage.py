"""Damage found in a journal, until it is set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._aside import pack_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._aside import About, AsideFile

_MOST_IN_MEMORY_BYTES: Final = 16 * 1024 * 1024


class FoundDamage:
    """Keeps damage in the journal, or in memory, while there is no room to set it aside.

    Args:
        aside: the file that it goes to.
        read: reads a number of bytes from the journal at an offset.

    Attributes:
        in_file: offset and length of the damage in the journal.
    """

    def __init__(self, aside: AsideFile, read: Callable[[int, int], bytes]) -> None:
        self.in_file: list[tuple[int, int]] = []
        # As records, after the file had to be emptied.
        self._in_memory: list[bytes] = []
        self._aside = aside
        self._read = read

    def __bool__(self) -> bool:
        return bool(self.in_file or self._in_memory)

    def set_aside(self, about: About) -> None:
        """Set the damage aside; if this raises ``OSError``, nothing has changed."""
        if self:
            self._aside.add(self._records(about))
            self.in_file, self._in_memory = [], []

    def copied(self, about: About) -> list[bytes]:
        """Set the damage aside, or return it, since its file is going to be emptied.

        Raises:
            OSError: there is no room, and it is too much to keep in memory.
        """
        try:
            self.set_aside(about)
        except OSError:
            if sum(length for _, length in self.in_file) > _MOST_IN_MEMORY_BYTES:
                raise
        return list(self._records(about))

    def take_from_memory(self, records: list[bytes]) -> None:
        """Keep what ``copied`` returned, since the file is empty now."""
        self.in_file, self._in_memory = [], records

    def _records(self, about: About) -> Iterator[bytes]:
        yield from self._in_memory
        for at, length in self.in_file:
            yield from pack_kept(0, about, self._read(length, at))
