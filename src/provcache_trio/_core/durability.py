"""Whether accepted entries would survive a crash, and when to retry a failed journal call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic

from provcache_trio._vocabulary.protocols import E

if TYPE_CHECKING:
    from provcache_trio._vocabulary.errors import JournalError

    from .journaled_line import Notes
    from .lifetime import Lifetime

_LONGEST_WRITE_SECONDS: Final = 5.0
# The delay of the recorder that a busy loop may cause.
_LATE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 1.0
_MOST_DOUBLINGS: Final = 20
_UNSAFE: Final = "accepted entries would not survive a crash now"
# With "always", what was accepted is on disk.
_REFUSED: Final = "no entry is accepted now, and what was accepted is safe"


class Durability(Generic[E]):
    """Keeps track of how the journal's calls ended.

    | the journal's calls        | durable                                                   |
    |----------------------------|-----------------------------------------------------------|
    | the last one failed        | no                                                        |
    | one has taken 5 s          | no                                                        |
    | it can't hold an entry     | no, until that entry is settled                           |
    | one is late                | no: something has waited for longer than the interval     |
    | else                       | yes                                                       |

    The first call after a failure is made at once; then the pause doubles, up to a second.
    """

    def __init__(
        self,
        notes: Notes[E],
        lifetime: Lifetime,
        interval_seconds: float,
        *,
        always: bool = False,
    ) -> None:
        self._always = always
        self._notes = notes
        self._lifetime = lifetime
        self._interval_seconds = interval_seconds
        self._failures = 0
        self._began_at: float | None = None
        # The error of the last call, if it failed.
        self.error: JournalError | None = None
        # After a failure, the earliest time of the next call.
        self.retry_at: float = 0.0

    @property
    def failing(self) -> bool:
        """Whether the last call failed."""
        return self.error is not None

    def is_true(self) -> bool:
        """Return whether everything older than the interval is on disk; from any thread."""
        if self.error is not None or self._notes.unwritable:
            return False
        now = self._lifetime.clock()
        began_at, marked_at = self._began_at, self._notes.marked_at
        if began_at is not None and now - began_at > _LONGEST_WRITE_SECONDS:
            return False
        return marked_at is None or now - marked_at <= self._interval_seconds + _LATE_SECONDS

    def begin(self) -> None:
        """Note that a call which writes everything marked has begun."""
        self._began_at = self._lifetime.clock()

    def end(self) -> None:
        """Note that the call has ended."""
        self._began_at = None

    def fail(self, error: JournalError) -> None:
        """Note that a call failed."""
        if self.error is None:
            consequence = _REFUSED if self._always else _UNSAFE
            self._lifetime.log(logging.ERROR, f"{consequence}: %s", error)
        self.error = error
        doublings = min(self._failures, _MOST_DOUBLINGS)
        pause = 0.0 if not doublings else self._interval_seconds * 2.0 ** (doublings - 1)
        # An interval that is longer is the longest pause instead.
        longest = max(_LONGEST_PAUSE_SECONDS, self._interval_seconds)
        self.retry_at = self._lifetime.clock() + min(pause, longest)
        self._failures += 1

    def work(self) -> None:
        """Note that a call succeeded."""
        self._failures = 0
        if self.error is not None:
            self.error = None
            self._lifetime.log(logging.INFO, "journal works again")
