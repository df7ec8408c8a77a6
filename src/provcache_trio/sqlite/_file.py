"""The entries in one SQLite file, as worker threads read and write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provcache_trio._disk.sqlite_connection import Application, SQLiteConnection, number_of
from provcache_trio._vocabulary.columns import entry_of, moment_of
from provcache_trio._vocabulary.errors import EntryRejectedError

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
        """Delete at most ``limit`` entries that had expired then; return how many."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            return connection.execute(DELETE_EXPIRED, (microseconds, limit)).rowcount

    def check(self) -> None:
        """Return if entries could be written now."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute(PROBE)
