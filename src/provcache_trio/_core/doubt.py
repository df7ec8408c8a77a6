"""Doubt about one entry, which failed alone for an unknown reason: it or the store is bad.

======================================================= =========================================
evidence at a failure alone, not under suspicion        verdict
======================================================= =========================================
its lane stored something since its failure before,     a dead letter
and the store does not flap
the same, the store flaps, ``max_retries`` are used up  a dead letter
draining                                                none: it will be undelivered
it is the only one in doubt in any lane, and            a dead letter
``max_retries`` are used up
several are, and for ten minutes theirs have been       a dead letter
else                                                    none: it is tried again
======================================================= =========================================

Another lane's success is no evidence: one lane's broken connection would condemn all of its
entries. Nor is a success before the entry's last failure: an outage that came back would.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_LONGER_SECONDS: Final = 600


class Case(NamedTuple):
    """What is known when an entry failed alone."""

    call: int  # the number of that call
    last_stored: int  # the number of the last call of its lane that changed something; 0: none
    flaps: bool  # what had failed for an unknown reason went through as it was a moment ago
    draining: bool
    alone: bool  # no other entry is in doubt, and none of its batch is yet to be tried
    now: float
    max_retries: int | None


class Doubt:
    """What speaks against one entry.

    Attributes:
        first_call: the number of the call that failed first.
    """

    __slots__ = ("_call", "_failures", "_used_up_at", "first_call")

    def __init__(self, first_call: int) -> None:
        self.first_call: int = first_call
        self._call = 0  # the number of the call that failed last
        self._failures = 0
        self._used_up_at: float | None = None  # when max_retries were used up

    def condemned(self, case: Case) -> bool:
        """Note a failure alone; return whether there is evidence against the entry."""
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
