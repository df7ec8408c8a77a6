"""``provcache journal``: looking at a journal and replaying it, which know no terminal."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from provcache_trio import (
    DrainTimeoutError,
    JournalError,
    ProvcacheEntry,
    ProvcacheError,
    QueueState,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._cli.sending import AT_ONCE, Refused, reason_of, without_dead_letter_lines
from provcache_trio._cli.stores import wait_until_ready
from provcache_trio._journal_disk import Disk
from provcache_trio._journal_file import JournalFile
from provcache_trio._owner_lock import OwnerLock
from provcache_trio.journal import open_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provcache_trio import Journal, WriteBehindQueue
    from provcache_trio._cli.stores import ReadableTarget, Store


_PAGE: Final = 500
_SETTLE_SECONDS: Final = 10


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a journal.

    Attributes:
        entries: how many would be replayed.
        bytes: size of the file.
        entry_type: what they are.
        in_use: whether a process has it open.
        missing: numbers, first and last, of records that are gone.
        damaged_bytes: bytes that are no record.
        unfinished_bytes: those of them at the end, where a crash cuts a record off.
    """

    entries: int
    bytes: int
    entry_type: str
    in_use: bool
    missing: list[tuple[int, int]]
    damaged_bytes: int
    unfinished_bytes: int

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong but what a crash does to the last record."""
        return not self.missing and self.damaged_bytes == self.unfinished_bytes


def facts_of(path: Path) -> Facts:
    """Look at a journal, which somebody else may own meanwhile; change nothing.

    Raises:
        JournalError: it can't be read.
        OSError: likewise.
    """
    where = str(path.absolute())
    file = JournalFile(where, entry_type=None, disk=Disk(), read_only=True)
    try:
        findings = file.open()
    finally:
        file.close()
    return Facts(
        entries=findings.entries,
        bytes=path.stat().st_size,
        entry_type=file.entry_type,
        in_use=_is_in_use(path.with_name(f"{path.name}.lock")),
        missing=findings.missing,
        damaged_bytes=findings.damaged_bytes,
        unfinished_bytes=findings.unfinished_bytes,
    )


def _is_in_use(lock: Path) -> bool:
    if not lock.exists():
        return False
    owner = OwnerLock(str(lock))
    try:
        owner.take()
    except StoreMisconfiguredError as error:
        raise JournalError(f"whether it is in use can't be told: {error}") from None
    except StoreUnavailableError:
        return True
    owner.release()
    return False


class Replay:
    """Writes what a dead process left in a journal.

    What the store refuses, or could not take in time, stays in the journal.

    Args:
        path: the journal, which this owns meanwhile.
        target: where entries go. It has to be there.
        give_up_after: seconds without the store after which it ends.

    Attributes:
        place: what is in use, to tell where an error is from.
        started: whether both the journal and the store could be used.
        replayed: how many entries were tried.
        written: how many of them the store has.
        left: how many stay in the journal.
    """

    def __init__(self, path: Path, target: ReadableTarget, *, give_up_after: float) -> None:
        self.path = path
        self.target = target
        self.give_up_after = give_up_after
        self.place = str(path)
        self.started = False
        self.replayed = 0
        self.written = 0
        self.left = 0
        self._queue: WriteBehindQueue[ProvcacheEntry] | None = None
        self._scope = trio.CancelScope()
        self._gave_up = False

    async def run(self, tell: Callable[[str], None]) -> None:
        """Do the whole job; cancelled, what is not written stays in the journal.

        Raises:
            JournalError: the journal can't be used.
            StoreError: the store can't be, or was given up.
        """
        facts_of(self.path)  # a journal that is not there is not to be made
        try:
            async with open_journal(self.path) as journal:
                self.place = self.target.label
                async with self.target.open_existing() as store:
                    await wait_until_ready(store, tell)
                    self.started = True
                    with self._scope, without_dead_letter_lines("replay"):
                        await self._write_all(store, journal, tell)
        finally:
            with suppress(ProvcacheError, OSError):
                self.left = facts_of(self.path).entries
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

    async def _write_all(
        self, store: Store, journal: Journal[ProvcacheEntry], tell: Callable[[str], None]
    ) -> None:
        after = 0
        while page := await journal.replay(after, _PAGE):
            after = page[-1][0]
            self.replayed += len(page)
            try:
                await store.upsert_many([entry for _, entry in page])
            except ProvcacheError:  # some of it is refused, or the store is away
                for start in range(0, len(page), AT_ONCE):
                    await self._write(store, journal, page[start : start + AT_ONCE], tell)
            else:
                await self._settle(journal, [number for number, _ in page])
        if self.written == self.replayed:
            await journal.rewrite(())

    async def _write(
        self,
        store: Store,
        journal: Journal[ProvcacheEntry],
        some: Sequence[tuple[int, ProvcacheEntry]],
        tell: Callable[[str], None],
    ) -> None:
        """Write some entries behind: a queue waits for the store, and finds what it refuses."""
        sink = Refused()
        sent: list[tuple[int, ProvcacheEntry]] = []
        options = WriteBehindOptions(
            batch_size=AT_ONCE, coalesce=False, drain_timeout_seconds=0, flush_interval_seconds=0
        )
        try:
            with suppress(DrainTimeoutError):  # cancelled: what is left stays where it is
                async with open_write_behind_queue(
                    store, options, name="replay", dead_letters=sink
                ) as self._queue:
                    for number, entry in some:
                        self._queue.enqueue_nowait(entry)  # there is room for all
                        sent.append((number, entry))
                    await self._queue.flush()
        finally:
            open_fates = () if self._queue is None else self._queue.undelivered
            # By identity: two versions of a key may be equal.
            refused = {id(letter.entry): letter for letter in sink.letters}
            kept = {*refused, *map(id, open_fates)}
            for _, entry in sent:
                if letter := refused.get(id(entry)):
                    tell(f"{entry.veri_key} was refused, and stays: {reason_of(letter)}")
            # Only of what was sent: it may have been cut off before that.
            settled = [number for number, entry in sent if id(entry) not in kept]
            with trio.move_on_after(_SETTLE_SECONDS, shield=True):
                await self._settle(journal, settled)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _settle(self, journal: Journal[ProvcacheEntry], numbers: Sequence[int]) -> None:
        self.written += len(numbers)
        await journal.append((), numbers)
