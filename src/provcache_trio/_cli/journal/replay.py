"""``provcache journal replay``: the job itself."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from provcache_trio import (
    DrainTimeoutError,
    ProvcacheError,
    WriteBehindOptions,
)
from provcache_trio._cli.running import Status
from provcache_trio._cli.sending import AT_ONCE, Kept, Resending
from provcache_trio._cli.text import counted, printable
from provcache_trio.journal import open_journal

from .inspection import check_type, inspect_journal

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from provcache_trio import Journal
    from provcache_trio._cli.progress import Progress
    from provcache_trio._cli.stores import Target

    from .inspection import Inspection

_PAGE: Final = 500
_OPTIONS: Final = WriteBehindOptions(
    batch_size=AT_ONCE, coalesce=False, drain_timeout_seconds=0, flush_interval_seconds=0
)


class Replay(Resending):
    """Writes the entries that a dead process left in a journal.

    Args:
        path: the journal.
        target: the store.
        give_up_after: see ``Job``.

    Attributes:
        replayed: the number of entries that were tried.
        left: the number of entries that stay in the journal.
        found: the journal as it was, or None as long as that is not known.
        set_aside: the number of entries that are set aside beside it, by this job or before.
    """

    name = "replay"

    def __init__(self, path: Path, target: Target, *, give_up_after: float) -> None:
        super().__init__(path, target, _OPTIONS, give_up_after)
        self.replayed = 0
        self.left = 0
        self.found: Inspection | None = None
        self.set_aside = 0

    async def run(self, progress: Progress) -> None:
        """Do the whole job; if cancelled, the rest stays in the journal.

        Raises:
            JournalError: the journal can't be used.
            StoreError: the store can't be used, or was given up.
        """
        # A missing journal must not be created.
        self.found = found = inspect_journal(self.path)
        entries = self.target.entries
        check_type(self.path, found, entries)
        # Until the journal was read again, nothing counts as written.
        self.left, self.set_aside = found.entries, found.set_aside.entries
        try:
            with self.outage.scope, suppress(DrainTimeoutError):
                async with open_journal(
                    self.path, entry_type=entries.entry_type, aliases=entries.aliases
                ) as journal:
                    await self._write_all(journal, progress)
        finally:
            with suppress(ProvcacheError, OSError):
                at_end = inspect_journal(self.path)
                self.left, self.set_aside = at_end.entries, at_end.set_aside.entries
        self.outage.check()

    async def _write_all(self, journal: Journal[Any], progress: Progress) -> None:
        remove = partial(journal.append, ())
        label_of = self.target.entries.label_of
        after = 0
        async with self.open_store(progress) as store:
            while page := await journal.replay(after, _PAGE):
                after = page[-1][0]
                self.replayed += len(page)
                try:
                    await store.upsert_many([entry for _, entry in page])
                except ProvcacheError:
                    # Some entries are refused, or the store is away.
                    kept = [Kept(number, label_of(entry), entry) for number, entry in page]
                    for start in range(0, len(kept), AT_ONCE):
                        await self.send(store, kept[start : start + AT_ONCE], remove, progress)
                else:
                    await self.settle([number for number, _ in page], remove)
            if self.stored == self.replayed:
                await journal.rewrite(())

    # What the user sees

    def where(self) -> str:
        """Return where the job is."""
        return f"{counted(self.replayed, 'entry', 'entries')} replayed, {self.stored:,} written"

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:  # noqa: ARG002  # a job's
        """Describe what happened to the entries; nothing if the job never began."""
        if not self.started:
            return []
        tried = f"replayed {counted(self.replayed, 'entry', 'entries')}"
        aside = f"; {self.set_aside:,} set aside in {printable(f'{self.path}.set-aside')}"
        lost = "" if self._was_intact else "; some of its records were damaged or missing"
        counts = f"{self.stored:,} written; {self.left:,} stay in the journal"
        return [f"{tried}: {counts}{aside if self.set_aside else ''}{lost}"]

    @property
    def status(self) -> Status:
        """DONE if every entry that was ever in the journal was written."""
        is_whole = self._was_intact and not (self.left or self.set_aside)
        return Status.DONE if is_whole else Status.NOT_ALL

    @property
    def _was_intact(self) -> bool:
        return self.found is None or self.found.intact
