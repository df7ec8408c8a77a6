"""``provcache journal status``: what a journal holds, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from provcache_trio import JournalError, StoreMisconfiguredError, StoreUnavailableError
from provcache_trio._disk.owner_lock import OwnerLock
from provcache_trio.journal._disk import Disk
from provcache_trio.journal._file import JournalFile

if TYPE_CHECKING:
    from pathlib import Path


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
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


def inspect_journal(path: Path) -> Inspection:
    """Look at a journal, which another process may own meanwhile; change nothing.

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
    return Inspection(
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
