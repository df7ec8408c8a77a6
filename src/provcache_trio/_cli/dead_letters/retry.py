"""``provcache dead-letters retry``: the job itself."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from provcache_trio import DrainTimeoutError, WriteBehindOptions
from provcache_trio._cli.running import Status
from provcache_trio._cli.sending import AT_ONCE, Kept, Resending
from provcache_trio._cli.text import counted, printable
from provcache_trio.dead_letters import StoredLetter, open_dead_letters

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from pathlib import Path

    from provcache_trio._cli.progress import Progress
    from provcache_trio._cli.stores import Target
    from provcache_trio.dead_letters import DeadLetters

    from .letters import Only

_OTHER_TYPE: Final = "for the program that has their type, --table or --alias"

_UNFIT: Final = "they do not fit the type; a program can read them, by upgrade="


class Retry(Resending):
    """Sends letters through a queue again, and removes those that were stored.

    A letter that is refused again stays unchanged, with the reason of its first refusal.

    Args:
        path: the file of dead letters.
        target: the store.
        only: selects the letters.
        as_json: whether the summary is a line of JSON.
        give_up_after: see ``Job``.
        options: the queues' options.

    Attributes:
        matched: the number of selected letters.
        removed: the number of letters removed from the file.
        unreadable: the number of letters without an entry of the target's type.
    """

    name = "retry"

    def __init__(
        self,
        path: Path,
        target: Target,
        only: Only,
        *,
        as_json: bool = False,
        give_up_after: float = 600,
        options: WriteBehindOptions = WriteBehindOptions(batch_size=AT_ONCE, coalesce=False),  # noqa: B008  # it is immutable
    ) -> None:
        super().__init__(path, target, options, give_up_after)
        self.only = only
        self.matched = 0
        self.removed = 0
        self.unreadable = 0
        # Those among them that are of the target's type, but do not fit it.
        self._unfit = 0
        self._as_json = as_json

    async def run(self, progress: Progress) -> None:
        """Do the whole job; ``progress`` gets the number of each letter that stays, and why.

        If cancelled, it writes what was enqueued, and removes what was stored.

        Raises:
            StoreError: the letters or the store can't be used, or the store was given up.
            DrainTimeoutError: something was not written in time.
            WriteBehindCrashedError: the queue gave up.
        """
        with self.outage.scope:
            try:
                entries = self.target.entries
                async with open_dead_letters(
                    self.path,
                    entry_type=entries.entry_type,
                    aliases=entries.aliases,
                    create=False,
                ) as letters:
                    await self._send_all(letters, progress)
            except DrainTimeoutError:
                if not self.outage.why:
                    raise
        self.outage.check()

    async def _send_all(self, letters: DeadLetters[Any], progress: Progress) -> None:
        key, since = self.only.key, self.only.since
        name = self.target.entries.name
        self.matched = await letters.count(key=key, since=since)
        after = 0
        async with self.open_store(progress) as store:
            while True:
                self.place = str(self.path)
                page = await letters.letters(after=after, limit=AT_ONCE, key=key, since=since)
                if not page:
                    return
                after = page[-1].id
                readable: list[Kept] = []
                for each in page:
                    if isinstance(each, StoredLetter):
                        readable.append(Kept(each.id, f"letter {each.id}", each.letter.entry))
                    else:
                        self.unreadable += 1
                        reason = each.reason and f"it was refused, {each.reason}"
                        reason = reason or each.misfit
                        self._unfit += reason is not None
                        why = f": {reason}" if reason else ""
                        progress.add_line(f"letter {each.id} is no {name}, and stays{why}")
                await self.send(store, readable, partial(self._remove, letters), progress)

    async def _remove(self, letters: DeadLetters[Any], numbers: Sequence[int]) -> None:
        self.removed += await letters.remove(numbers)

    # What the user sees

    def where(self) -> str:
        """Return where the job is."""
        metrics = self.outage.metrics
        state = "" if metrics is None else f", {metrics.state}"
        persisted = f"{self.stored:,} of {counted(self.matched, 'letter')} persisted"
        return f"{persisted}, {self.refused:,} refused again{state}"

    def summary(self, stopped_by: signal.Signals | None) -> list[str]:
        """Describe what happened to the letters; as text, nothing if the job never began."""
        if self._as_json:
            facts = {
                "matched": self.matched,
                "persisted": self.stored,
                "removed": self.removed,
                "refused": self.refused,
                "unreadable": self.unreadable,
            }
            return [json.dumps(facts)]
        if not self.started:
            return []
        rest = self.matched - self.stored - self.refused - self.unreadable
        name = self.target.entries.name
        counts = [
            (self.stored - self.removed, "persisted, not yet removed: will be sent again"),
            (self.unreadable - self._unfit, f"no {name}, kept: {_OTHER_TYPE}"),
            (self._unfit, f"no {name}, kept: {_UNFIT}"),
            (rest, "not tried or not known to be persisted, kept"),
        ]
        where = f"from {printable(str(self.path))} into {printable(self.target.label)}"
        return [
            f"{counted(self.matched, 'letter')}, {where}",
            f"  {self.removed:>9,} persisted and removed",
            f"  {self.refused:>9,} refused again, kept",
            *(f"  {count:>9,} {words}" for count, words in counts if count),
            *([] if stopped_by is None else [f"Stopped by {stopped_by.name}"]),
        ]

    @property
    def status(self) -> Status:
        """DONE if no selected letter is left."""
        return Status.DONE if self.matched == self.removed else Status.NOT_ALL
