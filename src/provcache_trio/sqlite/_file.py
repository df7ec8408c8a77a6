"""The entries in one SQLite file, as worker threads read and write them."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provcache_trio._disk.sqlite_connection import (
    FULL,
    Application,
    SQLiteConnection,
    number_of,
)
from provcache_trio._vocabulary.columns import entry_of, moment_of
from provcache_trio._vocabulary.errors import EntryRejectedError, StoreUnavailableError

from ._rows import (
    APPLICATION_ID,
    COUNT,
    DELETE,
    DELETE_EXPIRED,
    PROBE,
    SCHEMA,
    SCHEMA_VERSION,
    SELECT,
    UPSERT,
    cells_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from provcache_trio._vocabulary.entries import ProvcacheEntry

    from ._rows import Cells


_SMALL_STEP: Final = 64  # entries that are deleted at once on a full disk
_ROOM: Final = "about 1 MiB"  # that so many take in the -wal file at most, and its index


class SQLiteFile(SQLiteConnection):
    """A file of entries; see ``SQLiteConnection``.

    Every method but ``close`` and ``interrupt`` raises:
        StoreUnavailableError: locked, disk full, I/O error, or interrupted.
        StoreMisconfiguredError: can't be opened or written, or is no database of ours.
        EntryRejectedError: a constraint, or somebody's trigger, refused a change.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        application = Application(APPLICATION_ID, SCHEMA_VERSION, SCHEMA)
        super().__init__(path, application, create=create)

    def upsert(self, entries: Sequence[ProvcacheEntry]) -> int:
        """Store every entry, or none; return how many rows were added or changed."""
        index: int | None = None

        def rows() -> Iterator[Cells]:
            nonlocal index
            for index, entry in enumerate(entries):  # noqa: B007  # used when a row is refused
                self._raise_if_stopped()
                yield cells_of(entry)

        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                changed = connection.executemany(UPSERT, rows()).rowcount
                index = None  # each was taken; COMMIT names none
        except EntryRejectedError as error:
            error.index = index
            raise
        return changed

    def get(self, blobs: Mapping[str, bytes]) -> dict[str, ProvcacheEntry]:
        """Return the entries that are stored, of one instant."""
        found: dict[str, ProvcacheEntry] = {}
        with self._transaction("BEGIN") as connection:
            for key, blob in blobs.items():
                self._raise_if_stopped()
                row = connection.execute(SELECT, (blob,)).fetchone()
                if row is not None:
                    found[key] = entry_of(row, moment_of)
        return found

    def count(self) -> int:
        """Return how many entries are stored."""
        with self._transaction("BEGIN") as connection:
            return number_of(connection, COUNT)

    def delete(self, blobs: Iterable[bytes]) -> int:
        """Delete the entries of these keys; return how many there were."""

        def rows() -> Iterator[tuple[bytes]]:
            for blob in blobs:
                self._raise_if_stopped()
                yield (blob,)

        with self._transaction("BEGIN IMMEDIATE") as connection:
            return connection.executemany(DELETE, rows()).rowcount

    def delete_expired(self, microseconds: int, limit: int) -> int:
        """Delete at most ``limit`` entries that had expired then; return how many.

        On a full disk they go in small steps, for which the -wal file may have room.
        """
        try:
            return self._delete_expired(microseconds, limit)
        except StoreUnavailableError as error:
            if error.error_class not in FULL:
                raise
        step, deleted = _SMALL_STEP, 0
        while deleted < limit:
            try:
                some = self._delete_expired(microseconds, min(step, limit - deleted))
            except StoreUnavailableError as error:
                if error.error_class not in FULL:
                    raise
                if step == 1:
                    return self._raise_unless(deleted)
                step = max(1, step // 4)
                continue
            deleted += some
            if not some:
                break
            self._start_log_over()
        return deleted

    def _delete_expired(self, microseconds: int, limit: int) -> int:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            return connection.execute(DELETE_EXPIRED, (microseconds, limit)).rowcount

    def _start_log_over(self) -> None:
        """Move what is in the -wal file to its place, so that its room can be used again."""
        with suppress(sqlite3.Error):  # somebody reads
            self._connected().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    @staticmethod
    def _raise_unless(deleted: int) -> int:
        if deleted:
            return deleted
        raise StoreUnavailableError(
            f"the disk is full: to delete expired entries takes {_ROOM} of room there",
            error_class="SQLITE_FULL",
        )

    def check(self) -> None:
        """Return if entries could be written now."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute(PROBE)
