"""``open_journal``: its arguments, the file's lock, and the log of what was found in the file."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final, overload

import trio

from provcache_trio._disk.documents import check_evolution
from provcache_trio._disk.owner_lock import OwnerLock, owned
from provcache_trio._disk.private_files import absolute, make_directory
from provcache_trio._disk.threads import end_in_thread
from provcache_trio._vocabulary.checks import check_seconds
from provcache_trio._vocabulary.errors import JournalError, StoreUnavailableError
from provcache_trio._vocabulary.log import log
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.plurals import counted, counted_entries
from provcache_trio._vocabulary.type_names import class_of

from ._disk import Disk
from ._documents import Documents
from ._file import JournalFile
from ._journal import FileJournal, on_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from provcache_trio._vocabulary.entries import ProvcacheEntry
    from provcache_trio._vocabulary.table import Table

    from ._journal import Durability
    from ._scan import Findings

E = TypeVar("E")

# The longest time for which a process that looks for the owner holds the lock.
_MOMENT_SECONDS: Final = 0.2


@overload
def open_journal(
    path: str | os.PathLike[str],
    *,
    durability: Durability = ...,
    sync_interval_seconds: float = ...,
    lock_timeout_seconds: float = ...,
    upgrade: Callable[[Any], Any] | None = ...,
    aliases: Iterable[str] = ...,
) -> AbstractAsyncContextManager[FileJournal[ProvcacheEntry]]: ...


@overload
def open_journal(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | Table[E],
    durability: Durability = ...,
    sync_interval_seconds: float = ...,
    lock_timeout_seconds: float = ...,
    upgrade: Callable[[Any], Any] | None = ...,
    aliases: Iterable[str] = ...,
) -> AbstractAsyncContextManager[FileJournal[E]]: ...


def open_journal(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | Table[E] | None = None,
    durability: Durability = "interval",
    sync_interval_seconds: float = 0.05,
    lock_timeout_seconds: float = 0,
    upgrade: Callable[[Any], Any] | None = None,
    aliases: Iterable[str] = (),
) -> AbstractAsyncContextManager[FileJournal[E]]:
    """Open a journal for the length of an ``async with``, which must surround that of the queue.

    Entering fails at once if the journal can't be used. A missing file is created with mode 0600,
    and a missing directory with mode 0700; an empty file is an empty journal. These files are
    beside it: ``PATH.lock``, which the owner locks and never removes; ``PATH.last``, with the
    number of the last record; ``PATH.set-aside``, which keeps, once, damaged bytes and entries that
    can't be read (see ``count_set_aside`` and ``restore_set_aside``); and ``PATH.new`` while the
    journal is rewritten. Symbolic links are refused. A file that is not a journal is not changed,
    and nothing is created beside it.

    After opening, a failing journal does not stop the queue. With ``"interval"``, an error is
    logged and ``metrics().durable`` is False until the journal works again; it is retried less and
    less often, but at least once a second. With ``"always"``, ``enqueue`` raises ``JournalError``
    meanwhile. While the entries of a dead process can't be read, nothing new is accepted.

    **A full disk** is such a failure, and no more: the file keeps its contents, an attempt that
    does not fit is undone, and the journal continues as soon as there is room. Once all its entries
    are settled, it is emptied, which needs no room. To shrink while some are open it needs room for
    a second file, so give the volume twice the size of all entries that may wait; a warning is
    logged before room gets short.

    Args:
        path: the file; a relative path is resolved against the current directory now.
        entry_type: the type of the entries: any type that msgspec writes as JSON and reads back
            equal, or their ``Table``. Fields annotated ``Any`` come back as JSON has them. By
            default ``ProvcacheEntry``.
        durability: see the top of this module.
        sync_interval_seconds: see there; above 0. With ``"always"``, how long settled entries may
            stay in the file.
        lock_timeout_seconds: how long to wait for another process that has the file open, as in a
            rolling restart.
        upgrade: called with the decoded JSON of an entry that can't be read as ``entry_type``, such
            as one that an older program wrote; returns JSON that can be.
        aliases: former names of ``entry_type``, as ``package.module.Class``.

    Raises:
        TypeError: an argument has the wrong type, or msgspec does not support ``entry_type``.
        ValueError: an argument is out of its range, or ``path`` names no file.
        JournalError: at entry: the journal has another owner, holds entries of another type, is of
            another version, or can't be opened; the message names the file and what to do.
    """
    if durability not in {"interval", "always"}:
        raise ValueError('durability must be "interval" or "always"')
    check_seconds("sync_interval_seconds", sync_interval_seconds, positive=True)
    check_seconds("lock_timeout_seconds", lock_timeout_seconds)
    former = check_evolution(upgrade, aliases)
    documents = Documents(class_of(entry_type), upgrade=upgrade)
    file = JournalFile(absolute(path), entry_type=documents.type_name, aliases=former, disk=Disk())
    journal = FileJournal(
        file, documents, always=durability == "always", sync_interval_seconds=sync_interval_seconds
    )
    return JournalOpening(file, journal, lock_timeout_seconds)


@final
class JournalOpening(Opening["FileJournal[E]"], Generic[E]):
    """The context manager that ``open_journal`` returns."""

    what = "a journal"
    function = "open_journal"

    def __init__(
        self, file: JournalFile, journal: FileJournal[E], lock_timeout_seconds: float
    ) -> None:
        self._path = file.path
        self._file = file
        self._journal = journal
        self._lock = OwnerLock(f"{file.path}.lock")
        self._lock_timeout_seconds = lock_timeout_seconds

    async def _open(self) -> FileJournal[E]:
        await self._own()
        try:
            findings = await on_disk(self._path, self._file.open)
        except BaseException:
            self._end()
            raise
        self._journal.begin(findings)
        _report(self._path, findings)
        return self._journal

    async def _own(self) -> None:
        try:
            await owned(
                self._try_to_own,
                f"journal {self._path}",
                self._lock_timeout_seconds,
                moment=_MOMENT_SECONDS,
            )
        except StoreUnavailableError as error:
            raise JournalError(f"journal {self._path} can't be opened: {error}") from None

    async def _try_to_own(self) -> None:
        refusal = await on_disk(self._path, self._refusal)
        if refusal is not None:
            raise refusal

    def _refusal(self) -> StoreUnavailableError | None:
        """Own the file, or return the error if another process does."""
        # First, so that nothing is created beside a file of another application.
        self._file.raise_if_foreign()
        try:
            make_directory(os.path.dirname(self._path))  # noqa: PTH120
            self._lock.take()
        except StoreUnavailableError as error:
            return error
        return None

    async def _close(self, _error: BaseException | None, /) -> None:
        # Without a deadline: as long as the disk takes.
        with trio.CancelScope(shield=True):
            await end_in_thread(self._end)

    def _end(self) -> None:
        self._file.close()
        self._lock.release()


def _report(path: str, findings: Findings) -> None:
    if findings.entries:
        log(
            logging.INFO,
            "journal %s holds %s to be replayed",
            path,
            counted_entries(findings.entries),
        )
    for first, last in findings.missing:
        log(
            logging.ERROR,
            "journal %s: records %d to %d are missing: lost, or cut off by a power cut before "
            "they were reported as safe; look at the disk",
            path,
            first,
            last,
        )
    if findings.damaged_bytes:
        log(
            logging.WARNING if findings.only_unfinished else logging.ERROR,
            "journal %s: no record in %s, %d of them at its end, where a crash leaves "
            "what it cut off; they are kept, once, in %s.set-aside as soon as there is room",
            path,
            counted(findings.damaged_bytes, "byte"),
            findings.unfinished_bytes,
            path,
        )
