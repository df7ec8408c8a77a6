"""Journals on a disk in memory, on the virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import outcome
import trio

from provcache_trio.journal._documents import Documents
from provcache_trio.journal._file import JournalFile
from provcache_trio.journal._journal import FileJournal

from tests.support.disks import PATH, ModelDisk
from tests.support.items import Item

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
DISK_SECONDS: Final = 0.002  # half of what a call of the disk takes
INTERVAL: Final = 0.05


async def in_virtual_thread(work: Callable[[], T], _: Callable[[], None]) -> T:
    """Be ``in_thread`` on the virtual clock: the call can't be cut short."""
    with trio.CancelScope(shield=True):
        await trio.sleep(DISK_SECONDS)
        try:
            result: outcome.Maybe[T] = outcome.Value(work())
        except Exception as error:  # noqa: BLE001  # raised below
            result = outcome.Error(error)
        await trio.sleep(DISK_SECONDS)
    return result.unwrap()


def journal_on(disk: ModelDisk, *, always: bool) -> tuple[JournalFile, FileJournal[Item]]:
    """Open the journal on ``disk``; needs ``in_virtual_thread``."""
    file = JournalFile(PATH, entry_type="Item", disk=disk)
    findings = file.open()
    journal = FileJournal(file, Documents(Item), always=always, sync_interval_seconds=INTERVAL)
    journal.begin(findings)
    return file, journal
