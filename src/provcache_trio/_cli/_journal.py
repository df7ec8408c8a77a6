"""``provcache journal``: looking at a journal and replaying it, which know no terminal."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from provcache_trio import (
    JournalError,
    ProvcacheEntry,
    ProvcacheError,
    QueueState,
    StoreMisconfiguredError,
    StoreUnavailableError,
    WriteBehindOptions,
    open_write_behind_queue,
)
from provcache_trio._journal_disk import Disk
from provcache_trio._journal_file import JournalFile
from provcache_trio._owner_lock import OwnerLock
from provcache_trio.journal import open_journal

from ._stores import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from provcache_trio import DeadLetter, Journal, WriteBehindMetrics, WriteBehindQueue

    from ._stores import ReadableTarget, Store


_PAUSE: Final = 0.02


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


class _Keeps:
    """A sink that takes nothing, so that what is refused stays in the journal."""

    async def put_many(self, letters: Sequence[DeadLetter[ProvcacheEntry]], /) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreUnavailableError(f"{len(letters)} stay in the journal")


class Replay:
    """Writes what a dead process left in a journal.

    What the store refuses, or could not take in time, stays in the journal.

    Args:
        path: the journal, which this owns meanwhile.
        target: where entries go. It has to be there.
        give_up_after: seconds without the store after which it ends.

    Attributes:
        place: what is in use, to tell where an error is from.
        left: how many stay in the journal.
    """

    def __init__(self, path: Path, target: ReadableTarget, *, give_up_after: float) -> None:
        self.path = path
        self.target = target
        self.give_up_after = give_up_after
        self.place = str(path)
        self.left = 0
        self._queue: WriteBehindQueue[ProvcacheEntry] | None = None
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
                    await self._write(store, journal)
        finally:
            with suppress(ProvcacheError, OSError):
                self.left = facts_of(self.path).entries

    async def _write(self, store: Store, journal: Journal[ProvcacheEntry]) -> None:
        # What is cut off at the end is still in the journal.
        options = WriteBehindOptions(drain_timeout_seconds=0)
        async with open_write_behind_queue(
            store, options, journal=journal, dead_letters=_Keeps()
        ) as self._queue:
            await self._wait(self._queue)
        if self._gave_up:
            raise StoreUnavailableError(
                f"given up after {self.give_up_after:g} s without the store"
            )

    @property
    def metrics(self) -> WriteBehindMetrics | None:
        """What was done, once there is a queue."""
        return None if self._queue is None else self._queue.metrics()

    async def _wait(self, queue: WriteBehindQueue[ProvcacheEntry]) -> None:
        """Return when all that can be settled is, or the store was given up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up_when_due, queue, nursery.cancel_scope)
            while queue.metrics().recovering:  # noqa: ASYNC110  # it has no event
                await trio.sleep(_PAUSE)
            await queue.flush()
            nursery.cancel_scope.cancel()

    async def _give_up_when_due(
        self, queue: WriteBehindQueue[ProvcacheEntry], scope: trio.CancelScope
    ) -> None:
        last_well = trio.current_time()
        while trio.current_time() - last_well < self.give_up_after:
            await trio.sleep(min(1, self.give_up_after / 10))
            if queue.metrics().state is QueueState.RUNNING:
                last_well = trio.current_time()
        self._gave_up = True
        scope.cancel()
