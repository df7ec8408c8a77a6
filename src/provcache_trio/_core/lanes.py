"""The lanes of a queue: lines of batches that are written independently of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from provcache_trio._vocabulary.metrics import FlushReason
from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from provcache_trio._vocabulary.errors import ProvcacheError

    from .batch import Fate
    from .line import Line

# 2**64 divided by the golden ratio; spreads hashes that follow a pattern, as those of ints do.
_SPREAD: Final = 0x9E3779B97F4A7C15


class Lanes(Generic[E]):
    """All lines of a queue. A key is always in the same one, so its versions keep their order."""

    __slots__ = ("lines",)

    def __init__(self, lines: Sequence[Line[E]]) -> None:
        self.lines: Sequence[Line[E]] = lines

    def of(self, key: Hashable) -> Line[E]:
        """Return the line that ``key`` belongs to.

        Raises:
            TypeError: ``key`` can't be hashed.
        """
        return self.lines[self.number_of(key)]

    def number_of(self, key: Hashable) -> int:
        """Return the index of the line that ``key`` belongs to."""
        return (hash(key) * _SPREAD >> 32) % len(self.lines)

    def seal(self, reason: FlushReason) -> None:
        """Close every open batch to new keys."""
        for line in self.lines:
            line.seal(reason)

    def hurry(self) -> None:
        """Make the head of each line due: it may take room without being due."""
        for line in self.lines:
            if line.batches:
                line.hurry(line.batches[0], FlushReason.FULL)

    def tails(self) -> list[Fate]:
        """Return the last fate of each line that is not settled."""
        tails = (line.tail() for line in self.lines)
        return [tail for tail in tails if tail is not None]

    def oldest(self) -> float | None:
        """Return when the oldest batch with an open fate was opened; from any thread."""
        each = (line.oldest() for line in self.lines)
        return min((opened_at for opened_at in each if opened_at is not None), default=None)

    def abandon(
        self, error: Callable[[], ProvcacheError], *, kept: bool
    ) -> list[tuple[float, list[E]]]:
        """Abandon everything; see ``Line.abandon``."""
        return [batch for line in self.lines for batch in line.abandon(error, kept=kept)]
