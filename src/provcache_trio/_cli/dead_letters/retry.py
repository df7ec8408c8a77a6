"""``provcache dead-letters retry``: the job itself, which knows no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from provcache_trio import (
    DrainTimeoutError,
    ProvcacheEntry,
    QueueState,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._cli.sending import AT_ONCE, Refused, reason_of, without_dead_letter_lines
from provcache_trio._cli.stores import wait_until_ready
from provcache_trio._cli.text import counted, printable
from provcache_trio.dead_letters import StoredLetter, open_dead_letters

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provcache_trio import WriteBehindQueue
    from provcache_trio._cli.stores import ReadableTarget, Store
    from provcache_trio.dead_letters import DeadLetters

    from .letters import Only

_REMOVAL_SECONDS: float = 10


class Retry:
    """Sends letters through a queue again, and removes those that were persisted.

    A letter that is refused again stays as it is: it tells why it was refused first. In
    between, a letter is in both places, never in none; one that is sent twice, because a
    crash came before its removal, changes nothing in the store the second time.

    Args:
        path: the file of dead letters, which this owns meanwhile.
        target: where entries go. It has to be there: letters are not to vanish into a store
            that a misspelt name made.
        only: which letters are meant.
        give_up_after: seconds without the store after which it ends.
        options: the queues' options.

    Attributes:
        started: whether both the file and the store could be used.
        place: what is in use, to tell where an error is from.
        matched: how many letters are meant.
        persisted: how many of them the store has.
        removed: how many of those are gone from the file.
        refused: how many were refused again.
        unreadable: how many are no ``ProvcacheEntry``.
    """

    def __init__(
        self,
        path: Path,
        target: ReadableTarget,
        only: Only,
        *,
        give_up_after: float = 600,
        options: WriteBehindOptions = WriteBehindOptions(batch_size=AT_ONCE, coalesce=False),  # noqa: B008  # it is immutable
    ) -> None:
        self.path = path
        self.target = target
        self.only = only
        self.give_up_after = give_up_after
        self.options = options
        self.place = str(path)
        self.started = False
        self.matched = 0
        self.persisted = 0
        self.removed = 0
        self.refused = 0
        self.unreadable = 0
        self._queue: WriteBehindQueue[ProvcacheEntry] | None = None
        self._scope = trio.CancelScope()
        self._gave_up = False

    @property
    def all_went_in(self) -> bool:
        """Whether no letter that was meant is left."""
        return self.matched == self.removed

    async def run(self, report: Callable[[str], None], tell: Callable[[str], None]) -> None:
        """Do the whole job.

        Cancelled, it writes what was enqueued, within the queue's ``drain_timeout_seconds``,
        and removes what was persisted.

        Args:
            report: called with the number of a letter that stays, and why.
            tell: called with what may be of interest meanwhile.

        Raises:
            StoreError: the letters or the store can't be used, or the store was given up;
                ``place`` tells which.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
        """
        with self._scope:
            try:
                await self._run(report, tell)
            except DrainTimeoutError:
                if not self._gave_up:
                    raise
        if self._gave_up:
            raise StoreUnavailableError(
                f"given up after {self.give_up_after:g} s without the store"
            )

    async def give_up_when_due(self) -> None:
        """End ``run`` once the store has been away for ``give_up_after``; runs beside it."""
        last_well = trio.current_time()
        while trio.current_time() - last_well < self.give_up_after:
            await trio.sleep(min(1, self.give_up_after / 10))
            if self._queue is None or self._queue.metrics().state is not QueueState.WAITING:
                last_well = trio.current_time()
        self._gave_up = True
        self._scope.cancel()

    async def _run(self, report: Callable[[str], None], tell: Callable[[str], None]) -> None:
        async with open_dead_letters(self.path, create=False) as letters:
            self.matched = await letters.count(key=self.only.key, since=self.only.since)
            self.place = self.target.label
            async with self.target.open_existing() as store:
                await wait_until_ready(store, tell)
                self.started = True
                with without_dead_letter_lines("retry"):
                    await self._send_all(letters, store, report)

    async def _send_all(
        self, letters: DeadLetters[ProvcacheEntry], store: Store, report: Callable[[str], None]
    ) -> None:
        after = 0
        while True:
            self.place = str(self.path)
            page = await letters.letters(
                after=after, limit=AT_ONCE, key=self.only.key, since=self.only.since
            )
            if not page:
                return
            after = page[-1].id
            readable: list[StoredLetter[ProvcacheEntry]] = []
            for each in page:
                if isinstance(each, StoredLetter):
                    readable.append(each)
                else:
                    self.unreadable += 1
                    report(f"letter {each.id} is no ProvcacheEntry, and stays")
            if readable:
                await self._send(readable, letters, store, report)

    async def _send(
        self,
        page: Sequence[StoredLetter[ProvcacheEntry]],
        letters: DeadLetters[ProvcacheEntry],
        store: Store,
        report: Callable[[str], None],
    ) -> None:
        self.place = self.target.label
        sink = Refused()
        sent: list[StoredLetter[ProvcacheEntry]] = []
        opening = open_write_behind_queue(store, self.options, name="retry", dead_letters=sink)
        try:
            async with opening as self._queue:
                for each in page:
                    self._queue.enqueue_nowait(each.letter.entry)  # there is room for all
                    sent.append(each)
                await self._queue.flush()
        finally:
            # Every entry that was sent is now in one of three places; by identity, as one
            # key may have several letters, and equal ones.
            open_fates = () if self._queue is None else self._queue.undelivered
            refusals = {id(one.entry): one for one in sink.letters}
            kept = {*refusals, *map(id, open_fates)}
            persisted = [each.id for each in sent if id(each.letter.entry) not in kept]
            self.persisted += len(persisted)
            for each in sent:
                if refusal := refusals.get(id(each.letter.entry)):
                    self.refused += 1
                    report(f"letter {each.id} was refused again, and stays: {reason_of(refusal)}")
            if persisted:
                with trio.move_on_after(_REMOVAL_SECONDS, shield=True):
                    await self._remove(persisted, letters)

    async def _remove(self, numbers: Sequence[int], letters: DeadLetters[ProvcacheEntry]) -> None:
        place, self.place = self.place, str(self.path)
        self.removed += await letters.remove(numbers)
        self.place = place

    def in_one_line(self) -> str:
        """Return where the job is."""
        words = [
            f"{self.persisted:,} of {counted(self.matched, 'letter')} persisted",
            f"{self.refused:,} refused again",
        ]
        if self._queue is not None:
            words.append(self._queue.metrics().state)
        return ", ".join(words)

    def facts(self) -> dict[str, int]:
        """Return what became of the letters, by name."""
        return {
            "matched": self.matched,
            "persisted": self.persisted,
            "removed": self.removed,
            "refused": self.refused,
            "unreadable": self.unreadable,
        }

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Return what a finished or stopped job has to tell."""
        where = f"from {printable(str(self.path))} into {printable(self.target.label)}"
        lines = [
            f"{counted(self.matched, 'letter')}, {where}",
            f"  {self.removed:>9,} persisted and removed",
            f"  {self.refused:>9,} refused again, kept",
        ]
        if left := self.persisted - self.removed:
            lines.append(f"  {left:>9,} persisted, not yet removed: will be sent again")
        if self.unreadable:
            lines.append(f"  {self.unreadable:>9,} no ProvcacheEntry, kept")
        if left := self.matched - self.persisted - self.refused - self.unreadable:
            lines.append(f"  {left:>9,} not tried or not known to be persisted, kept")
        if stopped_by is not None:
            lines.append(f"Stopped by {stopped_by.name}")
        return lines
