"""The SQLite file of dead letters, as worker threads read and write it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from provcache_trio._disk.owner_lock import OwnerLock
from provcache_trio._disk.private_files import make_directory, regular_file, translated
from provcache_trio._disk.sqlite_connection import (
    FULL,
    WITHOUT_FILES_BESIDE_IT,
    Application,
    SQLiteConnection,
    create_file,
    number_of,
    raise_if_foreign,
)
from provcache_trio._vocabulary.errors import EntryRejectedError, StoreUnavailableError
from provcache_trio._vocabulary.plurals import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

T = TypeVar("T")

# A letter is one JSON document, so that reading it back is one strict decoding. The columns beside
# it are for finding letters. ``identity`` is a hash of the document, so the same letter again makes
# no second row. With AUTOINCREMENT the number of a removed letter is never used again.
# ``entry_type`` and ``entry_version`` describe the entry: the name of a class, or of a declared
# table with the version of its declaration.
_TABLE: Final = """
CREATE TABLE provcache_dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    identity BLOB NOT NULL UNIQUE,
    entry_type TEXT NOT NULL,
    entry_version INTEGER NOT NULL DEFAULT 0,
    key TEXT NOT NULL,
    failed_at INTEGER NOT NULL,  -- microseconds
    size INTEGER NOT NULL,  -- of the document, in bytes
    letter BLOB NOT NULL  -- JSON
)
"""
# Adding up the sizes then does not read the documents.
_INDEX: Final = "CREATE INDEX provcache_dead_letters_by_size ON provcache_dead_letters (size)"

APPLICATION_ID: Final = 0x7076646C  # "pvdl"
SCHEMA_VERSION: Final = 2
_APPLICATION: Final = Application(
    APPLICATION_ID,
    SCHEMA_VERSION,
    (
        _TABLE,
        _INDEX,
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {SCHEMA_VERSION}",
    ),
    before=("PRAGMA auto_vacuum = INCREMENTAL",),
    former={
        1: "the file was written by version 0.1, whose letters this version does not read. Let "
        "version 0.1 send them again, or throw them away, or move the file away"
    },
)

_INSERT: Final = """
INSERT INTO provcache_dead_letters (identity, entry_type, key, failed_at, size, letter)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (identity) DO NOTHING
"""
_TOTALS: Final = "SELECT count(*), total(size) FROM provcache_dead_letters"
_MATCHING: Final = """
FROM provcache_dead_letters WHERE id > :after
AND (:key IS NULL OR key = :key) AND (:since IS NULL OR failed_at >= :since)
"""
_COUNT: Final = f"SELECT count(*) {_MATCHING}"  # made of constants
_SELECT: Final = (
    f"SELECT id, key, letter, entry_type {_MATCHING} ORDER BY id LIMIT :limit"  # likewise
)
_GET: Final = "SELECT id, key, letter, entry_type FROM provcache_dead_letters WHERE id = ?"
_DELETE: Final = "DELETE FROM provcache_dead_letters WHERE id = ?"
_DELETE_SOME: Final = f"""
DELETE FROM provcache_dead_letters WHERE id IN (SELECT id {_MATCHING} ORDER BY id LIMIT :limit)
"""  # noqa: S608  # likewise
_LAST_NUMBER: Final = "SELECT total(seq) FROM sqlite_sequence"
_GO_ON_FROM: Final = "INSERT INTO sqlite_sequence (name, seq) VALUES ('provcache_dead_letters', ?)"

# The letters that are removed in one transaction.
_AT_ONCE: Final = 100
# In pages; about a megabyte.
_WORTH_VACUUMING: Final = 256
# The room that removing ``_AT_ONCE`` letters takes at most in the -wal file.
_ROOM: Final = "about 2 MiB"


class DeadLettersFullError(StoreUnavailableError):
    """There is no room for these letters; none of them was stored, and none was dropped.

    Retry or purge the stored letters, or raise the limits.
    """


class NewRow(NamedTuple):
    """The row to store for a letter."""

    identity: bytes
    entry_type: str
    key: str
    failed_at: int
    size: int
    letter: bytes


# Number, key, document and type; all but the first may have been edited to anything.
FoundRow: TypeAlias = tuple[int, object, object, object]


class Filter(NamedTuple):
    """Selects the letters with this key, and those that failed since then."""

    key: str | None = None
    # In microseconds.
    since: int | None = None


class DeadLettersFile(SQLiteConnection):
    """A file of dead letters; see ``SQLiteConnection``.

    Every method except ``close``, ``end`` and ``interrupt`` raises what a transaction raises, and:
        StoreUnavailableError: the file has another owner.
    """

    def __init__(
        self, path: str, *, create: bool, read_only: bool, max_letters: int, max_bytes: int
    ) -> None:
        super().__init__(path, _APPLICATION, create=create and not read_only)
        self._read_only = read_only
        self._lock = None if read_only else OwnerLock(f"{path}.lock")
        self._max_letters = max_letters
        self._max_bytes = max_bytes

    def open(self) -> None:
        """Own the file, and raise unless letters can be read or written now."""
        begin = "BEGIN" if self._read_only else "BEGIN IMMEDIATE"
        try:
            with self._transaction(begin) as connection:
                connection.execute(_GET, (0,))
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Close the file, then release its lock."""
        self.close()
        if self._lock is not None:
            self._lock.release()

    def _connected(self) -> sqlite3.Connection:
        if self._lock is not None:
            if self._connection is None:
                self._raise_unless_usable()
            if self._create:
                make_directory(os.path.dirname(self._path))  # noqa: PTH120
            else:
                regular_file(self._path)
            self._lock.take()
        return super()._connected()

    def _raise_unless_usable(self) -> None:
        """Check the file before a lock file is created beside it."""
        if not self._create or os.path.lexists(self._path):
            regular_file(self._path)
            raise_if_foreign(self._path, _APPLICATION)

    def _prepare(self) -> None:
        """Create the file if it is missing and may be created, and make it private."""
        try:
            if self._create:
                with suppress(FileExistsError):
                    # This follows no link.
                    create_file(self._path)
            self._opened_as = regular_file(self._path)
        except OSError as error:
            raise translated("the file can't be made", error) from None

    def _open(self) -> sqlite3.Connection:
        try:
            return super()._open()
        except sqlite3.OperationalError as error:
            # On a full disk there is no room for the -shm file, which a sole user does not need.
            if error.sqlite_errorname not in FULL or (self._read_only and self._has_log()):
                raise
        if self._read_only:
            return self._connect(WITHOUT_FILES_BESIDE_IT)
        return self._connect("mode=rw", alone=True)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        # Checked, as SQLite itself follows links.
        if regular_file(self._path) != self._opened_as:
            raise StoreUnavailableError("the file was replaced while it was opened")
        if not self._read_only:
            try:
                _keep_private(self._path)
            except OSError as error:
                raise translated("the file can't be kept private", error) from None
        # An edited row may hold text that is not UTF-8, which must not fail the call.
        connection.text_factory = _legible
        if self._read_only:
            connection.execute("PRAGMA query_only = 1")
        super()._set_up(connection)

    def put(self, make_rows: Callable[[], Iterable[NewRow]]) -> None:
        """Store every letter that is not stored yet, or none.

        Raises:
            DeadLettersFullError: there is no room for them.
            EntryRejectedError: one alone is larger than ``max_bytes``.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            before = connection.total_changes
            connection.executemany(_INSERT, self._stoppable(self._that_can_fit(make_rows())))
            if connection.total_changes == before:
                # All of them were stored by an earlier call.
                return
            letters, size = connection.execute(_TOTALS).fetchone()
            if letters > self._max_letters or size > self._max_bytes:
                most = counted(self._max_letters, "letter")
                raise DeadLettersFullError(
                    f"no room: at most {most} and {self._max_bytes:,} bytes; "
                    "send some again, purge some, or raise max_letters or max_bytes"
                )

    def totals(self) -> tuple[int, int]:
        """Return how many letters there are, and how many bytes they take."""
        with self._transaction("BEGIN") as connection:
            letters, size = connection.execute(_TOTALS).fetchone()
        return letters, int(size)

    def count(self, only: Filter) -> int:
        """Return how many letters match."""
        with self._transaction("BEGIN") as connection:
            parameters = {"after": 0, **only._asdict()}
            found: int = connection.execute(_COUNT, parameters).fetchone()[0]
        return found

    def select(self, after: int, limit: int, only: Filter) -> Sequence[FoundRow]:
        """Return the first letters above number ``after`` that match, in order."""
        with self._transaction("BEGIN") as connection:
            parameters = {"after": after, "limit": limit, **only._asdict()}
            return connection.execute(_SELECT, parameters).fetchall()

    def get(self, number: int) -> FoundRow | None:
        """Return the letter with that number, or None if there is none."""
        with self._transaction("BEGIN") as connection:
            row: FoundRow | None = connection.execute(_GET, (number,)).fetchone()
        return row

    def _that_can_fit(self, letters: Iterable[NewRow]) -> Iterator[NewRow]:
        for index, letter in enumerate(letters):
            if letter.size > self._max_bytes:
                raise EntryRejectedError(
                    f"a letter of {letter.size:,} bytes never fits into {self._max_bytes:,} "
                    "(max_bytes)",
                    index=index,
                )
            yield letter

    def remove(self, numbers: Iterable[int]) -> int:
        """Remove all these letters, or none; return how many there were."""
        rows = ((number,) for number in numbers)
        with _room_needed(), self._transaction("BEGIN IMMEDIATE") as connection:
            removed = connection.executemany(_DELETE, self._stoppable(rows)).rowcount
        self._give_back()
        return removed

    def purge(self, only: Filter) -> int:
        """Remove all letters that match, and free their room; return how many there were.

        Removing all letters works even on a full disk; removing some needs room.
        """
        try:
            with _room_needed():
                return self._purge_some(only)
        except StoreUnavailableError as error:
            if only != Filter() or error.error_class not in FULL:
                raise
        return self._start_over()

    def _purge_some(self, only: Filter) -> int:
        removed = 0
        parameters = {"after": 0, "limit": _AT_ONCE, **only._asdict()}
        while True:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                some = connection.execute(_DELETE_SOME, parameters).rowcount
            if not some:
                self._give_back()
                return removed
            self._raise_if_stopped()
            removed += some

    def _give_back(self) -> None:
        """Shrink the file by its free pages, if that is possible and worth it."""
        with self._transaction("BEGIN") as connection:
            free = number_of(connection, "PRAGMA freelist_count")
            letters, _ = connection.execute(_TOTALS).fetchone()
            pages = number_of(connection, "PRAGMA page_count") - free
            page_bytes = number_of(connection, "PRAGMA page_size")
        # A part of what an earlier call freed may be in the -wal file only.
        too_large = os.stat(self._path).st_size // page_bytes - pages  # noqa: PTH116
        if too_large >= _WORTH_VACUUMING or (too_large > 0 and not letters):
            # It fails without room, or while somebody reads; then the next call does it.
            with suppress(sqlite3.Error):
                # As a script, as ``execute`` ends after the first of many steps.
                connection.executescript("PRAGMA incremental_vacuum")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _start_over(self) -> int:
        """Replace the file and all its letters by an empty one that continues the numbers."""
        with self._transaction("BEGIN") as connection:
            letters, _ = connection.execute(_TOTALS).fetchone()
            last = int(connection.execute(_LAST_NUMBER).fetchone()[0])
        self.close()
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}{suffix}")  # noqa: PTH108
        create, self._create = self._create, True
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                connection.execute(_GO_ON_FROM, (last,))
        finally:
            self._create = create
        return int(letters)

    def _stoppable(self, rows: Iterable[T]) -> Iterator[T]:
        for row in rows:
            self._raise_if_stopped()
            yield row


@contextmanager
def _room_needed() -> Generator[None]:
    """Add to an error of a full disk how much room is needed."""
    try:
        yield
    except StoreUnavailableError as error:
        if error.error_class not in FULL:
            raise
        raise StoreUnavailableError(
            f"the disk is full: to remove some of the letters takes {_ROOM} of room there; to "
            "remove all of them takes none",
            error_class=error.error_class,
        ) from None


def _legible(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _keep_private(path: str) -> None:
    """Make the file, and a log that a crash left, readable for the owner only."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            if os.lstat(path + suffix).st_mode & 0o077:
                os.chmod(path + suffix, 0o600)  # noqa: PTH101
