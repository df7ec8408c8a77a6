"""``open_sqlite_repository``, and what may be done with what it opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from provcache_trio._disk.private_files import absolute
from provcache_trio._disk.sqlite_calls import SQLiteCalls
from provcache_trio._vocabulary.checks import check_int, check_moment, check_type
from provcache_trio._vocabulary.columns import blobs_of, microseconds_of
from provcache_trio._vocabulary.opening import Opening

from ._file import SQLiteFile

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from provcache_trio._vocabulary.entries import ProvcacheEntry


def open_sqlite_repository(
    path: str | os.PathLike[str], *, create: bool = True
) -> AbstractAsyncContextManager[SQLiteRepository]:
    """Open a repository in the SQLite file ``path``, for the length of an ``async with``.

    Opening always succeeds. The first call opens the file, or makes it, with mode 0600; call
    ``check`` to learn at once whether that works. A file that was removed or replaced is
    opened, or made, anew.

    Leaving the block interrupts the calls that other tasks have under way, and closes the
    file. That is shielded from cancellation, and waits for the disk.

    Args:
        path: the file; a relative path is taken from the directory that is current now. A
            database in memory would live only as long as the block; there is
            ``provcache_trio.testing.MemoryRepository`` for that.
        create: make the file if it is not there, and fill an empty one; if not, either is a
            ``StoreMisconfiguredError`` of the first call.

    Raises:
        TypeError: ``path`` is neither str nor a path-like object that stands for one, or
            ``create`` is no bool.
        ValueError: ``path`` is empty, ``":memory:"``, or holds NUL.
    """
    check_type("create", create, bool)
    return _Opening(SQLiteFile(absolute(path), create=create))


@final
class _Opening(Opening["SQLiteRepository"]):
    """What ``open_sqlite_repository`` returns."""

    what = "a repository"
    function = "open_sqlite_repository"

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file
        self._calls = SQLiteCalls(file, "the repository")

    async def _open(self) -> SQLiteRepository:
        return SQLiteRepository(self._file, self._calls)

    async def _close(self, _error: BaseException | None, /) -> None:
        await self._calls.close()


@final
class SQLiteRepository:
    """Returned by ``open_sqlite_repository``; do not instantiate.

    May be used by several tasks and queues at once; calls take their turns in the order in
    which they were made. A call that is cancelled before its turn has no effect. One that is
    cancelled later either has none and raises ``trio.Cancelled``, or is done and returns.

    Besides what its own section tells, every method raises:
        StoreUnavailableError: the file is locked by another process, and stays so for a
            tenth of a second; the disk is full or fails; or SQLite was interrupted.
        StoreMisconfiguredError: a person is needed: there can be no such file, it can't be
            written, it is no database, one of another application, or one of a newer
            version; or it is damaged.
        trio.ClosedResourceError: the ``async with`` block was left.

    Their ``error_class`` is SQLite's name for the error, such as ``SQLITE_BUSY``, if SQLite
    reported one. After any error, the next call may succeed.
    """

    db_system_name: Final = "sqlite"  # in the semantic conventions of OpenTelemetry

    def __init__(self, file: SQLiteFile, calls: SQLiteCalls) -> None:
        self._file = file
        self._calls = calls

    async def upsert_many(self, entries: Sequence[ProvcacheEntry], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``.

        An entry whose key is stored already is merged with it as ``merge_entries`` does.

        Returns:
            How many rows were added or changed.

        Raises:
            EntryRejectedError: an entry is no ``ProvcacheEntry``, or a constraint or a
                trigger that somebody added refused it; ``index`` tells which.
        """
        return await self._calls.run(self._file.upsert, tuple(entries))

    async def get_many(self, keys: Iterable[str]) -> dict[str, ProvcacheEntry]:
        """Return the stored entries of ``keys``, expired ones too, by key.

        All are read at one instant.

        Raises:
            TypeError: ``keys`` is not an iterable of str.
            ValueError: a key does not have the form of a VeriKey.
        """
        return await self._calls.run(self._file.get, blobs_of(keys))

    async def count(self) -> int:
        """Return how many entries are stored."""
        return await self._calls.run(self._file.count)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete the entries of ``keys``, or none, and return how many there were.

        Raises:
            TypeError: ``keys`` is not an iterable of str.
            ValueError: a key does not have the form of a VeriKey.
            EntryRejectedError: a trigger that somebody added refused it.
        """
        return await self._calls.run(self._file.delete, tuple(blobs_of(keys).values()))

    async def delete_expired(self, now: datetime, limit: int) -> int:
        """Delete the entries whose ``expires_at`` has come, those that expired first first.

        Other writers wait meanwhile, so a large table is better cleaned in several calls. On a
        full disk it deletes in small steps, as far as there is any room.

        Args:
            now: aware; an entry that expires at this very instant has expired.
            limit: most entries to delete, 1 to 2**63 - 1.

        Returns:
            How many were deleted.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: ``now`` is naive, or ``limit`` is out of its range.
            EntryRejectedError: a trigger that somebody added refused it.
        """
        check_moment("now", now)
        check_int("limit", limit, at_least=1)
        return await self._calls.run(self._file.delete_expired, microseconds_of(now), limit)

    async def check(self) -> None:
        """Return if entries could be written now."""
        await self._calls.run(self._file.check)
