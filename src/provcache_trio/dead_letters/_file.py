"""One SQLite file of dead letters, as worker threads read and write it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

from provcache_trio._disk.owner_lock import OwnerLock
from provcache_trio._disk.private_files import make_directory, regular_file, translated
from provcache_trio._disk.sqlite_connection import Application, SQLiteConnection, create_file
from provcache_trio._vocabulary.errors import StoreUnavailableError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")

# A letter is one JSON document, so that reading it back is one strict decoding. What letters
# are found by stands beside it. ``identity`` is a hash of the document: the same letter
# again is no second row. AUTOINCREMENT: the number of a letter that was removed is never
# given to another one.
_TABLE: Final = """
CREATE TABLE provcache_dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    identity BLOB NOT NULL UNIQUE,
    key TEXT NOT NULL,
    failed_at INTEGER NOT NULL,  -- microseconds
    size INTEGER NOT NULL,  -- of the document, in bytes
    letter BLOB NOT NULL  -- JSON
)
"""
# So that adding up the sizes does not read the documents.
_INDEX: Final = "CREATE INDEX provcache_dead_letters_by_size ON provcache_dead_letters (size)"

APPLICATION_ID: Final = 0x7076646C  # "pvdl"
SCHEMA_VERSION: Final = 1
_APPLICATION: Final = Application(
    APPLICATION_ID,
    SCHEMA_VERSION,
    (
        _TABLE,
        _INDEX,
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {SCHEMA_VERSION}",
    ),
)

_INSERT: Final = """
INSERT INTO provcache_dead_letters (identity, key, failed_at, size, letter)
VALUES (?, ?, ?, ?, ?) ON CONFLICT (identity) DO NOTHING
"""
_TOTALS: Final = "SELECT count(*), total(size) FROM provcache_dead_letters"
_MATCHING: Final = """
FROM provcache_dead_letters WHERE id > :after
AND (:key IS NULL OR key = :key) AND (:since IS NULL OR failed_at >= :since)
"""
_COUNT: Final = f"SELECT count(*) {_MATCHING}"  # made of constants
_SELECT: Final = f"SELECT id, key, letter {_MATCHING} ORDER BY id LIMIT :limit"  # likewise
_GET: Final = "SELECT id, key, letter FROM provcache_dead_letters WHERE id = ?"
_DELETE: Final = "DELETE FROM provcache_dead_letters WHERE id = ?"


class DeadLettersFullError(StoreUnavailableError):
    """There is no room for these letters: none of them was stored, and none was dropped.

    Somebody has to retry or purge what is there, or to raise the limits.
    """


class Packed(NamedTuple):
    """A letter as it is stored."""

    identity: bytes
    key: str
    failed_at: int
    size: int
    letter: bytes


# Number, key, and document; the latter two are whatever somebody else made of them.
Row: TypeAlias = tuple[int, object, object]


class Filter(NamedTuple):
    """Which letters are meant: those with this key, and those that failed since then."""

    key: str | None = None
    since: int | None = None  # microseconds


class DeadLettersFile(SQLiteConnection):
    """A file of dead letters; see ``SQLiteConnection``.

    Every method but ``close``, ``end`` and ``interrupt`` raises what a transaction raises,
    and:
        StoreUnavailableError: it has another owner.
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
        """Own the file, and return if letters could be read or written now."""
        begin = "BEGIN" if self._read_only else "BEGIN IMMEDIATE"
        try:
            with self._transaction(begin) as connection:
                connection.execute(_GET, (0,))
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Close the file, then let somebody else own it."""
        self.close()
        if self._lock is not None:
            self._lock.release()

    def _connected(self) -> sqlite3.Connection:
        if self._lock is not None:
            if self._create:
                make_directory(os.path.dirname(self._path))  # noqa: PTH120
            else:
                regular_file(self._path)  # first: no lock is left beside nothing
            self._lock.take()
        return super()._connected()

    def _prepare(self) -> None:
        """Make the file if there is none and we may, and see that it is ours alone."""
        try:
            if self._create:
                with suppress(FileExistsError):
                    create_file(self._path)  # follows no link
            self._opened_as = regular_file(self._path)
            if not self._read_only:
                _keep_private(self._path)
        except OSError as error:
            raise translated("the file can't be made or kept private", error) from None

    def _set_up(self, connection: sqlite3.Connection) -> None:
        if regular_file(self._path) != self._opened_as:  # SQLite itself follows links
            raise StoreUnavailableError("the file was replaced while it was opened")
        # Somebody's edit may have left what is no UTF-8; that is no reason to fail.
        connection.text_factory = _legible
        if self._read_only:
            connection.execute("PRAGMA query_only = 1")
        super()._set_up(connection)

    def put(self, pack: Callable[[], Iterable[Packed]]) -> None:
        """Store every letter that is not there yet, or none.

        Raises:
            DeadLettersFullError: there is no room for them.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            before = connection.total_changes
            connection.executemany(_INSERT, self._stoppable(pack()))
            if connection.total_changes == before:
                return  # all of them come again, and found room before
            letters, size = connection.execute(_TOTALS).fetchone()
            if letters > self._max_letters or size > self._max_bytes:
                raise DeadLettersFullError(
                    f"no room: at most {self._max_letters:,} letters and {self._max_bytes:,} bytes"
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

    def select(self, after: int, limit: int, only: Filter) -> Sequence[Row]:
        """Return the first letters above number ``after`` that match, in order."""
        with self._transaction("BEGIN") as connection:
            parameters = {"after": after, "limit": limit, **only._asdict()}
            return connection.execute(_SELECT, parameters).fetchall()

    def get(self, number: int) -> Row | None:
        """Return one letter, or None: there is none with that number."""
        with self._transaction("BEGIN") as connection:
            row: Row | None = connection.execute(_GET, (number,)).fetchone()
        return row

    def remove(self, numbers: Iterable[int]) -> int:
        """Remove these letters, or none; return how many there were."""
        rows = ((number,) for number in numbers)
        with self._transaction("BEGIN IMMEDIATE") as connection:
            return connection.executemany(_DELETE, self._stoppable(rows)).rowcount

    def _stoppable(self, rows: Iterable[T]) -> Iterator[T]:
        for row in rows:
            self._raise_if_stopped()
            yield row


def _legible(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _keep_private(path: str) -> None:
    """Take the file, and what a crash left of its log, away from everybody else."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            if os.lstat(path + suffix).st_mode & 0o077:
                os.chmod(path + suffix, 0o600)  # noqa: PTH101
