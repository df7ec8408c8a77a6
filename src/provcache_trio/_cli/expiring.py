"""``provcache expire``: the job itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio import WriteBehindOptions

from .misuse import MisuseError
from .running import Job, Status
from .stores import patiently
from .text import counted, printable

if TYPE_CHECKING:
    import signal
    from datetime import datetime

    from .entries import Entries
    from .progress import Progress
    from .stores import Store, Target

_NO_QUEUE: Final = WriteBehindOptions(
    drain_timeout_seconds=0
    # A signal then announces no drain.
)
_MOST: Final = 2**63 - 1


def check_expires(entries: Entries, limit: int) -> None:
    """Raise MisuseError unless such entries can expire, and ``limit`` is a valid number."""
    if not 1 <= limit <= _MOST:
        raise MisuseError("--limit is a number of entries, 1 or more")
    if entries.table is not None and entries.table.expires_field is None:
        name = entries.table.name
        raise MisuseError(
            f"--table: {name!r} was declared without expires=, so nothing in it expires"
        )


class Expire(Job):
    """Deletes expired entries, slice by slice.

    Args:
        target: the store.
        now: the moment by which entries have expired.
        limit: the most entries in one slice.

    Attributes:
        deleted: the number of deleted entries.
    """

    def __init__(self, target: Target, now: datetime, limit: int) -> None:
        super().__init__(target, _NO_QUEUE)
        self.deleted = 0
        self._now = now
        self._limit = limit
        self._started = False

    async def run(self, progress: Progress) -> None:
        """Do the whole job; if cancelled, end after the current slice.

        Raises:
            StoreError: the store can't be used.
        """
        async with self.target.open_existing() as store:
            # Without a check, which would need the right to write entries.
            some = True
            while some:
                some = await patiently(partial(self._delete_some, store), progress.notice)

    async def _delete_some(self, store: Store) -> bool:
        before = self.deleted
        # Not cut off, so that the number is right. A repository bounds its calls, and the limit bounds
        # SQLite's.
        with trio.CancelScope(shield=True):
            self.deleted += await store.delete_expired(self._now, self._limit)
            self._started = True
        await trio.lowlevel.checkpoint()
        return self.deleted > before

    def where(self) -> str:
        """Return where the job is."""
        return f"{counted(self.deleted, 'entry', 'entries')} deleted"

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Report the number of deleted entries; nothing if the store could not be used at all."""
        if not self._started:
            return []
        deleted = counted(self.deleted, "expired entry", "expired entries")
        lines = [f"{deleted} deleted from {printable(self.target.label)}"]
        return lines if stopped_by is None else [*lines, f"Stopped by {stopped_by.name}"]

    @property
    def status(self) -> Status:
        """Always DONE, unless a failure or a signal decides."""
        return Status.DONE
