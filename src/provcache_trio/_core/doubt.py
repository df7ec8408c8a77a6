"""Doubt about an entry that failed alone for an unknown reason: is it bad, or the store?

======================================================= =========================================
evidence when it fails alone, without suspicion         verdict
======================================================= =========================================
its lane stored something since its last failure,       a dead letter
and the store does not flap
the same, the store flaps, ``max_retries`` are used up  a dead letter
draining                                                none: it will be undelivered
it is the only one in doubt in any lane, and            a dead letter
``max_retries`` are used up
several are, and their retries have been used up for    a dead letter
ten minutes
else                                                    none: it is tried again
======================================================= =========================================

Another lane's success is no evidence, or one lane's broken connection would condemn all of its
entries. Nor is a success before the entry's last failure, or a second outage would do the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_LONGER_SECONDS: Final = 600


class Case(NamedTuple):
    """The facts when an entry failed alone."""

    # The number of the call that failed.
    call: int
    # The number of the last call of its lane that changed something; 0: none.
    last_stored: int
    # Something that had failed for an unknown reason was stored unchanged a moment ago.
    flaps: bool
    draining: bool
    # No other entry is in doubt, and no other of its batch is still to be tried.
    alone: bool
    now: float
    max_retries: int | None


class Doubt:
    """The evidence against one entry.

    Attributes:
        first_call: the number of the call that failed first.
    """

    __slots__ = ("_call", "_failures", "_used_up_at", "first_call")

    def __init__(self, first_call: int) -> None:
        self.first_call: int = first_call
        # The number of the call that failed last.
        self._call = 0
        self._failures = 0
        # When ``max_retries`` were used up.
        self._used_up_at: float | None = None

    def condemned(self, case: Case) -> bool:
        """Note that the entry failed alone; return whether there is evidence against it."""
        stored_since = 0 < self._call < case.last_stored
        self._call = case.call
        self._failures += 1
        most = case.max_retries
        if self._used_up_at is None and most is not None and self._failures > most:
            self._used_up_at = case.now
        if stored_since and not case.flaps:
            return True
        if self._used_up_at is None:
            return False
        if stored_since:
            return True
        if case.draining:
            return False
        return case.alone or case.now - self._used_up_at >= _LONGER_SECONDS
