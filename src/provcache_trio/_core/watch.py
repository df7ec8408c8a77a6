"""What is known of the store's health, and the log lines about its changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.failures import Kind
from provcache_trio._vocabulary.metrics import LastError

if TYPE_CHECKING:
    from provcache_trio._vocabulary.failures import Failure

    from .backoff import Backoff
    from .lifetime import Lifetime

_REFUSALS_THAT_BLAME_THE_STORE: Final = 20


class StoreWatch:
    """Tells an outage, and a store that refuses everything, from single bad entries.

    Lanes are known by their backoff. An outage is over once every lane has seen its end, and
    the first that does wakes the others.
    """

    __slots__ = ("_lifetime", "_refused_in_a_row", "_waiting", "last_error")

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self.last_error: LastError | None = None
        self._waiting: dict[Backoff, Kind] = {}  # why lanes wait: MISCONFIGURED or UNAVAILABLE
        self._refused_in_a_row = 0  # entries, across batches, since one was persisted

    @property
    def trouble(self) -> Kind | None:
        """Why the queue waits: MISCONFIGURED, which is for a person, or UNAVAILABLE."""
        kinds = self._waiting.values()
        if Kind.MISCONFIGURED in kinds:
            return Kind.MISCONFIGURED
        return Kind.UNAVAILABLE if kinds else None

    @property
    def refuses_everything(self) -> bool:
        """Whether so many entries in a row were refused that the store is to blame."""
        return self._refused_in_a_row >= _REFUSALS_THAT_BLAME_THE_STORE

    def note(self, failure: Failure) -> None:
        """Remember ``failure`` as the last error."""
        self.last_error = LastError(
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
            at=self._lifetime.now(),
        )

    def lost(self, lane: Backoff, failure: Failure) -> None:
        """The store can't be reached, or needs a person: one line per change."""
        before = self.trouble
        self._waiting[lane] = failure.kind
        if self.trouble == before:
            return
        misconfigured = failure.kind == Kind.MISCONFIGURED
        self._lifetime.log(
            logging.ERROR if misconfigured else logging.WARNING,
            "store %s, entries are kept until it works: %s",
            "misconfigured" if misconfigured else "lost",
            failure.described(),
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
        )

    def refused(self, lane: Backoff, failure: Failure) -> None:
        """One more entry was refused: too many in a row mean a misconfigured store."""
        self._refused_in_a_row += 1
        if self.refuses_everything:
            self.lost(lane, failure._replace(kind=Kind.MISCONFIGURED))

    def answered(self, lane: Backoff) -> None:
        """The store answered, if only to refuse or to roll back."""
        if not self.refuses_everything:
            self._found(lane)

    def persisted(self, lane: Backoff) -> None:
        """The store took something."""
        self._refused_in_a_row = 0
        self._found(lane)

    def _found(self, lane: Backoff) -> None:
        if self._waiting.pop(lane, None) is None:
            return
        for other in self._waiting:
            other.cut()
        if not self._waiting:
            self._lifetime.log(logging.INFO, "store found again")
