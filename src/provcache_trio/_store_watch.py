"""What is known of the store's health, and the log lines about its changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ._metrics import LastError
from ._verdict import Kind

if TYPE_CHECKING:
    from ._lifetime import Lifetime
    from ._verdict import Failure

_REFUSALS_THAT_BLAME_THE_STORE: Final = 20


class StoreWatch:
    """Tells an outage, and a store that refuses everything, from single bad entries."""

    __slots__ = ("_lifetime", "_refused_in_a_row", "last_error", "trouble")

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self.last_error: LastError | None = None
        self.trouble: Kind | None = None  # MISCONFIGURED or UNAVAILABLE: the queue waits
        self._refused_in_a_row = 0  # entries, across batches, since one was persisted

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

    def lost(self, failure: Failure) -> None:
        """The store can't be reached, or needs a person: one line per change."""
        if self.trouble == failure.kind:
            return
        self.trouble = failure.kind
        misconfigured = failure.kind == Kind.MISCONFIGURED
        self._lifetime.log(
            logging.ERROR if misconfigured else logging.WARNING,
            "store %s, entries are kept until it works: %s",
            "misconfigured" if misconfigured else "lost",
            failure.described(),
            error_class=failure.error_class,
            sqlstate=failure.sqlstate,
        )

    def refused(self, failure: Failure) -> None:
        """One more entry was refused: too many in a row mean a misconfigured store."""
        self._refused_in_a_row += 1
        if self.refuses_everything:
            self.lost(failure._replace(kind=Kind.MISCONFIGURED))

    def answered(self) -> None:
        """The store answered, if only to refuse or to roll back."""
        if not self.refuses_everything:
            self._found()

    def persisted(self) -> None:
        """The store took something."""
        self._refused_in_a_row = 0
        self._found()

    def _found(self) -> None:
        if self.trouble is not None:
            self.trouble = None
            self._lifetime.log(logging.INFO, "store found again")
