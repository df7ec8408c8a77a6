"""The replay of the entries that a dead process left, page by page."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Source(Protocol):
    """What a replay needs of the journal's file."""

    @property
    def last(self) -> int:
        """The number of the last entry."""
        ...

    @property
    def generation(self) -> int:
        """A number that changes when the file is rewritten."""
        ...

    def live_entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield each live entry's number and document, in order."""
        ...


class Replay:
    """Reads the entries that were live when the file was opened, in order.

    It continues where it stopped. Asked for anything else, after a failure, or if the file was
    rewritten meanwhile, it starts at the beginning; numbers stay, so nothing comes twice.
    """

    def __init__(self, file: Source) -> None:
        self._file = file
        # Later entries are known to the queue that wrote them.
        self._end = file.last
        self._rest: Iterator[tuple[int, bytes]] = iter(())
        # The generation, and the number of the last entry returned.
        self._position: tuple[int, int] | None = None

    def next(self, after: int, most: int) -> list[tuple[int, bytes]]:
        """Return the first entries with numbers above ``after``, at most ``most``.

        Raises:
            OSError: the file can't be read.
        """
        if self._position != (self._file.generation, after):
            self._rest = self._entries(after)
        self._position = None
        page = list(islice(self._rest, most))
        self._position = (self._file.generation, page[-1][0] if page else after)
        return page

    def _entries(self, after: int) -> Iterator[tuple[int, bytes]]:
        for number, document in self._file.live_entries():
            if number > self._end:
                return
            if number > after:
                yield number, document
