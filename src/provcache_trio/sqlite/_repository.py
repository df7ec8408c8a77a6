"""``open_sqlite_repository``, and the repository that it opens."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, cast, final, overload

from provcache_trio._disk.private_files import absolute
from provcache_trio._disk.sqlite_calls import SQLiteCalls
from provcache_trio._vocabulary.checks import check_int, check_moment, check_type
from provcache_trio._vocabulary.columns import blobs_of
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.table import Table
from provcache_trio._vocabulary.values import checked_keys

from ._file import SQLiteFile

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    # Only type checkers see the default, which Python's own TypeVar has from 3.13 on.
    from typing_extensions import TypeVar

    E = TypeVar("E", default=ProvcacheEntry)
else:
    from typing import TypeVar

    E = TypeVar("E")


@overload
def open_sqlite_repository(
    path: str | os.PathLike[str], *, create: bool = True
) -> AbstractAsyncContextManager[SQLiteRepository]: ...


@overload
def open_sqlite_repository(
    path: str | os.PathLike[str], *, table: Table[E], create: bool = False
) -> AbstractAsyncContextManager[SQLiteRepository[E]]: ...


def open_sqlite_repository(
    path: str | os.PathLike[str],
    *,
    table: Table[Any] | None = None,
    create: bool | None = None,
) -> AbstractAsyncContextManager[SQLiteRepository[Any]]:
    """Open a repository in the SQLite file ``path``, for the length of an ``async with``.

    Opening always succeeds. The first call opens the file, or creates it with mode 0600; call
    ``check`` to find out at once whether that works. A file that was removed or replaced is opened
    or created again.

    Leaving the block interrupts the calls of other tasks that are under way, and closes the file.
    That is shielded from cancellation, and waits for the disk.

    **With a table**, the file may hold anything else, too. The first call reads the table's
    definition from SQLite, as does each later call after a table was changed. str, dates, times,
    UUIDs, decimals and JSON are stored as TEXT; bool, int and timedelta (microseconds) as INTEGER.
    A datetime is stored as TEXT of one width, such as ``2026-11-30T08:00:00.000000+00:00``, or as
    microseconds since 1970 if its column is an INTEGER.

    Args:
        path: the file; a relative path is resolved against the current directory now. For a
            store in memory use ``provcache_trio.testing.MemoryRepository``.
        table: the type of the entries and their table; by default ``ProvcacheEntry``, in a file
            of its own.
        create: create the file and the table if they do not exist; an existing table is never
            changed. By default True without ``table``, and False with it. If False, a missing
            file or table is a ``StoreMisconfiguredError`` of the first call.

    Raises:
        TypeError: ``path`` is neither a str nor a path-like object for one, ``table`` is not a
            ``Table``, or ``create`` is not a bool.
        ValueError: ``path`` is empty, ``":memory:"``, or holds NUL.
    """
    if table is not None:
        check_type("table", table, Table)
    create = table is None if create is None else create
    check_type("create", create, bool)
    return _Opening(SQLiteFile(absolute(path), table, create=create), table)


@final
class _Opening(Opening["SQLiteRepository[E]"], Generic[E]):
    """The context manager that ``open_sqlite_repository`` returns."""

    what = "a repository"
    function = "open_sqlite_repository"

    def __init__(self, file: SQLiteFile[E], table: Table[E] | None) -> None:
        self._file = file
        self._table = table
        self._calls = SQLiteCalls(file, f"the repository of {file.path}")

    async def _open(self) -> SQLiteRepository[E]:
        return SQLiteRepository(self._file, self._calls, self._table)

    async def _close(self, _error: BaseException | None, /) -> None:
        await self._calls.close()


@final
class SQLiteRepository(Generic[E]):
    """Returned by ``open_sqlite_repository``; do not instantiate.

    May be used by several tasks and queues at once; calls run one at a time, in the order in which
    they were made. A call that is cancelled before its turn has no effect. One that is cancelled
    later either has no effect and raises ``trio.Cancelled``, or succeeds and returns.

    Besides the errors in its own section, every method raises:
        StoreUnavailableError: another process has locked the file for more than a tenth of a
            second; the disk is full or fails; or SQLite was interrupted.
        StoreMisconfiguredError: a person is needed: the file can't be created or written; it is
            not a database, or one of another application or of a newer version; or it is damaged.
        trio.ClosedResourceError: the ``async with`` block was left.

    Their ``error_class`` is SQLite's name for the error, such as ``SQLITE_BUSY``, if SQLite
    reported one. After any error, the next call may succeed.

    Attributes:
        table: the table given to ``open_sqlite_repository``; None: entries are ``ProvcacheEntry``.
        label: the path of the file, as the log has it.
    """

    # As the semantic conventions of OpenTelemetry name it.
    db_system_name: Final = "sqlite"

    def __init__(self, file: SQLiteFile[E], calls: SQLiteCalls, table: Table[E] | None) -> None:
        self.table: Table[E] | None = table
        self._file = file
        self._calls = calls
        by_veri_key = cast("Callable[[E], Hashable]", attrgetter("veri_key"))
        self._key_of = by_veri_key if table is None else table.key
        self.label: str = file.path

    @property
    def entry_type(self) -> type:
        """The class of the entries."""
        return ProvcacheEntry if self.table is None else self.table.entry_type

    async def upsert_many(self, entries: Sequence[E], /) -> int:
        """Store every entry, or none; see ``Repository.upsert_many``.

        An entry whose key is stored already is merged with it as ``merge_entries`` does, or
        ``table.merge``.

        Returns:
            How many rows were added or changed.

        Raises:
            EntryRejectedError: an entry is not of the type ``entry_type``; a field has a value that
                the table can't hold unchanged; or a constraint or a trigger refused it. ``index``
                is the entry's position, and ``field`` the name of its field, if known.
        """
        return await self._calls.run(self._file.upsert, tuple(entries))

    async def get_many(self, keys: Iterable[Any]) -> dict[Any, E]:
        """Return the stored entries of ``keys``, expired ones too, by key.

        All are read at one instant.

        Args:
            keys: VeriKeys; with a table, values of its key field, or tuples of them if it has
                several.

        Raises:
            TypeError: ``keys`` is not an iterable of keys.
            ValueError: a key does not have the form of a VeriKey.
        """
        found = await self._calls.run(self._file.get, self._checked(keys))
        return {self._key_of(entry): entry for entry in found}

    async def count(self) -> int:
        """Return how many entries are stored."""
        return await self._calls.run(self._file.count)

    async def delete_many(self, keys: Iterable[Any]) -> int:
        """Delete the entries of ``keys``, or none, and return how many there were.

        Args:
            keys: as for ``get_many``.

        Raises:
            TypeError: ``keys`` is not an iterable of keys.
            ValueError: a key does not have the form of a VeriKey.
            EntryRejectedError: a constraint or a trigger that somebody added refused it.
        """
        return await self._calls.run(self._file.delete, self._checked(keys))

    async def delete_where(self, *, before: object = None, **equals: object) -> int:
        """Delete the entries whose fields have these values, and return how many there were.

        They are deleted in steps, so that others may write in between; if the call is cancelled or
        fails, some may be deleted. ``flush`` the queue first, or the entries that it still holds
        are stored afterwards. If a trigger of yours keeps rows by ``RAISE(IGNORE)``, the call may end
        before it has come to all others.

        Args:
            before: delete only versions whose ``newer`` field (of a ``ProvcacheEntry``
                ``created_at``) has a smaller value, so that what is accepted afterwards stays.
            equals: values by field name; at least one. For a ``ProvcacheEntry`` the fields are
                ``policy_hash``, ``signer_set_hash`` and ``feed_epoch``.

        Raises:
            TypeError: there is no condition; a value does not fit its field, or is stored as JSON;
                or ``before`` is given for a table without ``newer``.
            ValueError: there is no such field, or it can't have such a value.
            EntryRejectedError: a constraint or a trigger refused it.
        """
        if not equals:
            raise TypeError("delete_where needs at least one field=value")
        if self.table is not None and before is not None and self.table.newer_field is None:
            raise TypeError(f"before: table {self.table.name!r} was declared without newer=")
        return await self._calls.run(self._file.delete_where, before, equals)

    async def delete_expired(self, now: datetime, limit: int) -> int:
        """Delete the entries whose ``expires_at`` has come, those that expired first first.

        Other writers wait meanwhile, so clean a large table in several calls. On a full disk it
        deletes in small steps, as far as there is room.

        Args:
            now: aware; an entry that expires at this very instant has expired.
            limit: most entries to delete, 1 to 2**63 - 1.

        Returns:
            How many were deleted.

        Raises:
            TypeError: an argument has the wrong type, or the table was declared without
                ``expires``.
            ValueError: ``now`` is naive, or ``limit`` is out of its range.
            EntryRejectedError: a constraint or a trigger that somebody added refused it.
        """
        check_moment("now", now)
        check_int("limit", limit, at_least=1)
        if self.table is not None and self.table.expires_field is None:
            raise TypeError(
                f"delete_expired: table {self.table.name!r} was declared without expires="
            )
        return await self._calls.run(self._file.delete_expired, now, limit)

    async def check(self) -> None:
        """Raise unless entries could be written now."""
        await self._calls.run(self._file.check)

    def _checked(self, keys: object) -> tuple[Hashable, ...]:
        """Return each of ``keys`` once."""
        if self.table is None:
            return tuple(blobs_of(keys))
        return checked_keys(keys)
