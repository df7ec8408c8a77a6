"""One SQLite file, as worker threads use it: transactions, and what SQLite's errors mean."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from ._errors import EntryRejectedError, StoreMisconfiguredError, StoreUnavailableError
from ._sqlite_rows import (
    APPLICATION_ID,
    COUNT,
    DELETE,
    DELETE_EXPIRED,
    PROBE,
    SCHEMA,
    SCHEMA_VERSION,
    SELECT,
    UPSERT,
    entry_of,
    row_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from ._entries import ProvcacheEntry
    from ._sqlite_rows import Row

_BUSY_TIMEOUT_SECONDS: Final = 0.1  # a thread that waits for a lock can't be interrupted
_INSTRUCTIONS_BETWEEN_LOOKS: Final = 1_000_000  # some ten milliseconds

Translated: TypeAlias = type[StoreUnavailableError] | type[EntryRejectedError]

# By primary result code: what to raise, and whether the connection is as good as before.
_VERDICTS: Final[dict[int, tuple[Translated, bool]]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailableError, True),
    sqlite3.SQLITE_LOCKED: (StoreUnavailableError, True),
    sqlite3.SQLITE_INTERRUPT: (StoreUnavailableError, True),
    sqlite3.SQLITE_IOERR: (StoreUnavailableError, False),
    sqlite3.SQLITE_FULL: (StoreUnavailableError, False),
    sqlite3.SQLITE_PROTOCOL: (StoreUnavailableError, False),
    sqlite3.SQLITE_CONSTRAINT: (EntryRejectedError, True),  # a trigger's RAISE included
    sqlite3.SQLITE_MISMATCH: (EntryRejectedError, True),
    sqlite3.SQLITE_TOOBIG: (EntryRejectedError, True),
}
# CANTOPEN (no directory, no permission), READONLY, NOTADB, CORRUPT, ERROR (no such table)
# and whatever else there is need a person.
_OTHERWISE: Final = (StoreMisconfiguredError, False)

_creating: Final = threading.Lock()


class SQLiteFile:
    """A file that is opened, and made if ``create``, when it is first needed.

    Every method blocks and is called by one thread at a time, but for ``interrupt``.
    ``stopped`` is reset by whoever makes the next call.

    Every method but ``close`` and ``interrupt`` raises:
        StoreUnavailableError: locked, disk full, I/O error, or interrupted.
        StoreMisconfiguredError: can't be opened or written, or is no database of ours.
        EntryRejectedError: a constraint, or somebody's trigger, refused a change.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        self.stopped = False
        self._path = path
        self._create = create
        self._connection: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int] | None = None

    def upsert(self, entries: Sequence[ProvcacheEntry]) -> int:
        """Store every entry, or none; return how many rows were added or changed."""
        index: int | None = None

        def rows() -> Iterator[Row]:
            nonlocal index
            for index, entry in enumerate(entries):  # noqa: B007  # used when a row is refused
                self._raise_if_stopped()
                yield row_of(entry)

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
                    found[key] = entry_of(row)
        return found

    def count(self) -> int:
        """Return how many entries are stored."""
        with self._transaction("BEGIN") as connection:
            return _number(connection, COUNT)

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

    def close(self) -> None:
        """Close the connection, if there is one, which rolls back what was not committed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(sqlite3.Error):
            # An interrupt is in force until the next statement starts, and would keep SQLite
            # from moving what is in the -wal file into the file itself.
            connection.execute("SELECT 1")
        connection.close()

    def interrupt(self) -> None:
        """Make the call that is under way raise soon, unless it is as good as done.

        May be called from another thread.
        """
        self.stopped = True
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.ProgrammingError):  # closed a moment ago
                connection.interrupt()

    def _raise_if_stopped(self) -> None:
        if self.stopped:  # SQLite forgets an interrupt between two statements
            raise StoreUnavailableError("the call was interrupted")

    @contextmanager
    def _transaction(self, begin: str) -> Generator[sqlite3.Connection]:
        try:
            connection = self._connected()
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            translated, clean = _VERDICTS.get(code & 0xFF, _OTHERWISE)
            self._roll_back(keep=clean)
            name: str = getattr(error, "sqlite_errorname", type(error).__name__)
            # SQLite's own message may quote a row: a trigger writes what it likes.
            raise translated(f"SQLite reported {name}", error_class=name) from None
        except BaseException:
            self._roll_back(keep=True)
            raise

    def _roll_back(self, *, keep: bool) -> None:
        connection = self._connection
        if keep and connection is not None:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return
        self.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self._path) != self._opened_as:
            # Removed or replaced: what we write would go into a file that has no name.
            self.close()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if self._create:
            with suppress(OSError):  # SQLite says in a moment what is wrong
                _create(self._path)
        # Before connecting: a file that is put there in between is then noticed.
        self._opened_as = _identity(self._path)
        if not self._create and not os.path.isfile(self._path):  # noqa: PTH113
            raise StoreMisconfiguredError("there is no such file")
        connection = sqlite3.connect(
            f"{Path(self._path).as_uri()}?mode=rw",  # never makes it; ``_create`` did, or failed
            uri=True,
            timeout=_BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            # An interrupt that comes just before a statement starts is forgotten; this is not.
            connection.set_progress_handler(lambda: self.stopped, _INSTRUCTIONS_BETWEEN_LOOKS)
            _set_up(connection, create=self._create)
        except BaseException:
            connection.close()
            raise
        return connection


def _create(path: str) -> None:
    """Make an empty file that nobody else may read, unless there is one."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    # To close any descriptor of a file takes away the locks that other connections of this
    # process hold on it; so nobody may open the file before ours is closed.
    with _creating:
        descriptor = os.open(os.path.realpath(path), flags, 0o600)
        try:
            os.chmod(path, 0o600)  # noqa: PTH101  # whatever the umask is
        finally:
            os.close(descriptor)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _set_up(connection: sqlite3.Connection, *, create: bool) -> None:
    """Make sure that the file is ours, and fill it if it is empty and we may."""
    connection.execute("BEGIN")
    is_ours = _is_ours(connection)
    connection.execute("COMMIT")
    if not is_ours and not create:
        raise StoreMisconfiguredError("the file is empty")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if not is_ours:
        connection.execute("BEGIN IMMEDIATE")
        if not _is_ours(connection):  # nobody was faster
            for statement in SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")


def _is_ours(connection: sqlite3.Connection) -> bool:
    """Return whether the file is a provcache database; if not, it is empty.

    Raises:
        StoreMisconfiguredError: it is neither.
    """
    application = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    if application == APPLICATION_ID:
        if version == SCHEMA_VERSION:
            return True
        raise StoreMisconfiguredError(
            f"the file has schema version {version}, and this program knows {SCHEMA_VERSION} only"
        )
    if application or version or _number(connection, "SELECT count(*) FROM sqlite_master"):
        raise StoreMisconfiguredError("the file is a database of another application")
    return False


def _number(connection: sqlite3.Connection, query: str) -> int:
    number: int = connection.execute(query).fetchone()[0]
    return number
