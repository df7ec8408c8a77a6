"""A connection to a SQLite file, for worker threads, and the meaning of its errors."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import struct
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from provcache_trio._vocabulary.errors import (
    EntryRejectedError,
    StoreError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._vocabulary.failures import described_defect

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

# Short, as a thread that waits for a lock can't be interrupted.
_BUSY_TIMEOUT_SECONDS: Final = 0.1
# They take some ten milliseconds.
_INSTRUCTIONS_BETWEEN_LOOKS: Final = 1_000_000

Translated: TypeAlias = type[StoreUnavailableError] | type[EntryRejectedError]

# By primary result code: what to raise, and whether the connection is as good as before.
_BY_RESULT_CODE: Final[dict[int, tuple[Translated, bool]]] = {
    sqlite3.SQLITE_BUSY: (StoreUnavailableError, True),
    sqlite3.SQLITE_LOCKED: (StoreUnavailableError, True),
    sqlite3.SQLITE_INTERRUPT: (StoreUnavailableError, True),
    sqlite3.SQLITE_IOERR: (StoreUnavailableError, False),
    sqlite3.SQLITE_FULL: (StoreUnavailableError, False),
    sqlite3.SQLITE_PROTOCOL: (StoreUnavailableError, False),
    # Includes RAISE in a trigger.
    sqlite3.SQLITE_CONSTRAINT: (EntryRejectedError, True),
    sqlite3.SQLITE_MISMATCH: (EntryRejectedError, True),
    sqlite3.SQLITE_TOOBIG: (EntryRejectedError, True),
}
# CANTOPEN (no directory, no permission), READONLY, NOTADB, CORRUPT, ERROR (no such table) and all
# others need a person.
_OTHERWISE: Final = (StoreMisconfiguredError, False)

# The words for a person, by the beginning of the name of SQLite's code.
_WORDS: Final = {
    "SQLITE_BUSY": "another process, or another connection of this one, holds a lock on the file",
    "SQLITE_LOCKED": "another connection of this process holds a lock on the table",
    "SQLITE_CANTOPEN": "give the file and its directory to the user that runs this program",
    "SQLITE_READONLY": "the file can't be written; give it and its directory to the user that runs "
    "this program, or put it on a volume that can be written",
    "SQLITE_NOTADB": "the file is no SQLite database; name another one",
    "SQLITE_CORRUPT": "the file is damaged; restore it from a backup",
    "SQLITE_FULL": "the disk is full; make room",
    "SQLITE_IOERR_SHMSIZE": "the disk is full; make room",
    "SQLITE_IOERR": "the disk fails, or the file is on a network file system",
    "SQLITE_INTERRUPT": "the call was interrupted",
    "SQLITE_TOOBIG": "a value is larger than SQLite takes",
    "SQLITE_CONSTRAINT_TRIGGER": "a trigger refuses the row",
}
# For these, SQLite's own message names table and column, or the constraint, and no values.
_OWN_WORDS: Final = frozenset(
    {
        "SQLITE_CONSTRAINT_CHECK",
        "SQLITE_CONSTRAINT_DATATYPE",
        "SQLITE_CONSTRAINT_FOREIGNKEY",
        "SQLITE_CONSTRAINT_NOTNULL",
        "SQLITE_CONSTRAINT_PRIMARYKEY",
        "SQLITE_CONSTRAINT_UNIQUE",
    }
)
_is_about_names: Final = re.compile(
    r"no such (table|column|function|collation sequence): \S+"
).fullmatch

_CANNOT_WRITE: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
# No room: for the file or the -wal file, or for the -shm file.
FULL: Final = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
# Reads a file without a -wal file where no file can be created beside it.
WITHOUT_FILES_BESIDE_IT: Final = "mode=ro&immutable=1"
# The size to which SQLite truncates a -wal file.
_MOST_LOG_BYTES: Final = 4 * 1024 * 1024
_FOREIGN: Final = "the file is a database of another application"

# As in "WAL-mode File Format" of SQLite's documentation.
# Page size and salt.
_LOG_HEAD: Final = struct.Struct(">8xI4x8s8x")
# Page number and salt.
_FRAME_HEAD: Final = struct.Struct(">I4x8s8x")
# Position in the first page.
_APPLICATION_AT: Final = slice(68, 72)

_creating: Final = threading.Lock()


class Application(NamedTuple):
    """A kind of file: how to recognize it, and the statements that fill an empty one."""

    application_id: int
    version: int
    schema: tuple[str, ...]
    # Statements to run before the transaction that creates the schema.
    before: tuple[str, ...] = ()
    # What to do about an older file, by the version of its schema.
    former: Mapping[int, str] = MappingProxyType({})


class SQLiteConnection:
    """A file that is opened, and with ``create`` created, when it is first needed.

    Without an ``application`` it may be any database, and a subclass sets it up.

    Every method except ``interrupt`` blocks, and is called by one thread at a time. The next caller
    resets ``stopped``.

    A transaction raises:
        StoreUnavailableError: the file is locked, the disk is full or fails, or the call was
            interrupted.
        StoreMisconfiguredError: the file can't be opened or written, or is not a database of ours.
        EntryRejectedError: a constraint or a trigger refused a change.
    """

    def __init__(self, path: str, application: Application | None, *, create: bool) -> None:
        self.stopped: bool = False
        self._path = path
        self._application = application
        self._create = create
        self._connection: sqlite3.Connection | None = None
        self._real_path = path
        self._opened_as: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        """Return the name of the file, for messages."""
        return self._path

    def close(self) -> None:
        """Close the connection, if there is one; uncommitted changes are rolled back."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(sqlite3.Error):
            # An interrupt stays in force until the next statement starts, and would keep SQLite from
            # moving the contents of the -wal file into the file.
            connection.execute("SELECT 1")
            connection.rollback()
            # It fails while a reader blocks it, which has the file open, too.
            with suppress(StoreUnavailableError):
                self._take_away_log(connection)
        connection.close()

    def end(self) -> None:
        """Close the connection for good, and release whatever else a subclass holds."""
        self.close()

    def interrupt(self) -> None:
        """Make the call that is under way raise soon, unless it is almost done.

        May be called from another thread.
        """
        self.stopped = True
        connection = self._connection
        if connection is not None:
            # It fails if the connection was closed a moment ago.
            with suppress(sqlite3.ProgrammingError):
                connection.interrupt()

    def _raise_if_stopped(self) -> None:
        if self.stopped:
            # SQLite forgets an interrupt that comes between two statements.
            raise StoreUnavailableError("the call was interrupted")

    @contextmanager
    def _transaction(self, begin: str) -> Generator[sqlite3.Connection]:
        try:
            connection = self._connected()
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if (code := getattr(error, "sqlite_errorcode", None)) is None:
                # Of the module, not of SQLite: it was called wrongly.
                self._roll_back(keep=False)
                name = type(error).__name__
                raise StoreError(described_defect(error), error_class=name) from None
            translated, clean = _BY_RESULT_CODE.get(code & 0xFF, _OTHERWISE)
            self._roll_back(keep=clean)
            name = error.sqlite_errorname
            what = ": ".join(filter(None, (f"SQLite reported {name}", self._reason(error, name))))
            raise translated(what, error_class=name) from None
        except BaseException:
            self._roll_back(keep=True)
            raise

    def _reason(self, error: sqlite3.Error, name: str) -> str:
        """Return what an error of SQLite means and what to do about it, or "" if that is unknown."""
        directory = os.path.dirname(self._path)  # noqa: PTH120
        if name.startswith("SQLITE_CANTOPEN"):
            # Without permission it is unknown whether the directory exists.
            with suppress(PermissionError):
                if not stat.S_ISDIR(_mode_of(directory)):
                    return f"there is no directory {directory}"
        # SQLite's own message may quote a row, as a trigger can raise any text.
        if name in _OWN_WORDS or _is_about_names(str(error)):
            return str(error)
        known = (words for beginning, words in _WORDS.items() if name.startswith(beginning))
        return next(known, "")

    def _roll_back(self, *, keep: bool) -> None:
        connection = self._connection
        if keep and connection is not None:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return
        self.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and identity_of(self._path) != self._opened_as:
            # The file was removed or replaced, so we would write to a file without a name.
            self._take_away_log(self._connection)
            self.close()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _take_away_log(self, connection: sqlite3.Connection) -> None:
        """Remove the -wal file that a removed or replaced file has left behind.

        SQLite does not do that. It would apply the -wal file to the file that has the name now, and
        so destroy it.
        """
        if identity_of(self._real_path) == self._opened_as:
            return
        # Moves its contents into the old file, which may have another name now.
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreUnavailableError("somebody reads from the file that was replaced")
        # Locks out others that have the old file open, so the next one finds the log of the new file.
        connection.execute("BEGIN IMMEDIATE")
        if identity_of(f"{self._real_path}-wal") == self._log:
            for suffix in ("-wal", "-shm"):
                with suppress(OSError):
                    os.unlink(f"{self._real_path}{suffix}")  # noqa: PTH108
        connection.execute("ROLLBACK")

    def _open(self) -> sqlite3.Connection:
        # First, so that a file of another application is not changed, and nothing is created beside it.
        if self._application is not None:
            raise_if_foreign(self._path, self._application)
        self._prepare()
        try:
            # This never creates the file: ``_prepare`` did, or failed.
            return self._connect("mode=rw")
        except sqlite3.OperationalError as error:
            if not self._reads_only(error):
                raise
        return self._connect(WITHOUT_FILES_BESIDE_IT)

    def _reads_only(self, error: sqlite3.OperationalError) -> bool:
        """Whether the file can be read although SQLite can't create the files that it needs beside it.

        Raises:
            StoreMisconfiguredError: only a part of it could be read.
        """
        code: int = error.sqlite_errorcode & 0xFF
        directory = os.path.dirname(self._real_path)  # noqa: PTH120
        if code not in _CANNOT_WRITE or os.access(directory, os.W_OK):
            return False
        if self._has_log():
            raise StoreMisconfiguredError(
                f"nothing can be written to {directory}, and the last changes of the file are "
                "still in its -wal file; copy both to where you may write",
                error_class=error.sqlite_errorname,
            )
        return True

    def _has_log(self) -> bool:
        """Whether some changes may be in the -wal file only."""
        with suppress(OSError):
            return os.stat(f"{self._real_path}-wal").st_size > 0  # noqa: PTH116
        return False

    def _connect(self, how: str, *, alone: bool = False) -> sqlite3.Connection:
        """Connect, and set the file up; ``alone``: nobody else can use the file meanwhile."""
        connection = sqlite3.connect(
            f"{Path(self._path).as_uri()}?{how}",
            uri=True,
            timeout=_BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            # SQLite forgets an interrupt just before a statement starts; the handler does not.
            connection.set_progress_handler(lambda: self.stopped, _INSTRUCTIONS_BETWEEN_LOOKS)
            connection.execute(f"PRAGMA journal_size_limit = {_MOST_LOG_BYTES}")
            if alone:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        log = identity_of(f"{self._real_path}-wal")
        # Checked last, or it may be the log of another file that was put there in between.
        self._log = log if identity_of(self._real_path) == self._opened_as else None
        return connection

    def _prepare(self) -> None:
        """Create the file if it is missing and may be created, and remember its identity."""
        self._real_path = os.path.realpath(self._path)
        if self._create:
            # If it fails, SQLite reports in a moment what is wrong.
            with suppress(OSError):
                create_file(self._real_path)
        # Before connecting, so that a file put there in between is noticed.
        self._opened_as = identity_of(self._path)
        if not self._create and not os.path.isfile(self._path):  # noqa: PTH113
            if os.path.lexists(self._path):
                raise StoreMisconfiguredError("it is no regular file, or a link to nothing")
            raise StoreMisconfiguredError("there is no such file; with create=True it is made")

    def _set_up(self, connection: sqlite3.Connection) -> None:
        """Make sure that the file is ours, and fill it if it is empty and may be created."""
        # Called only with an application.
        application = cast("Application", self._application)
        connection.execute("BEGIN")
        ours = is_ours(connection, application)
        connection.execute("COMMIT")
        if not ours and not self._create:
            raise StoreMisconfiguredError("the file is empty")
        if not ours:
            # Before there is a -wal file, so that from now on the file itself names its application.
            for statement in application.before:
                connection.execute(statement)
            connection.execute("BEGIN IMMEDIATE")
            if not is_ours(connection, application):
                # Nobody else has filled it meanwhile.
                for statement in application.schema:
                    connection.execute(statement)
            connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        # Makes SQLite create the -wal file.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _mode_of(path: str) -> int:
    """Return the mode of the file at ``path``, or 0 if there is none."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return 0


def create_file(path: str) -> None:
    """Create an empty file that only its owner may read.

    Raises:
        OSError: the file exists, or can't be created.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    # Closing any descriptor of a file releases the locks that other connections of this process
    # hold on it, so nobody may open the file before ours is closed.
    with _creating:
        descriptor = os.open(path, flags, 0o600)
        try:
            os.chmod(path, 0o600)  # noqa: PTH101  # whatever the umask is
        finally:
            os.close(descriptor)


def identity_of(path: str) -> tuple[int, int] | None:
    """Return the identity of the file at ``path``, or None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_ours(connection: sqlite3.Connection, ours: Application) -> bool:
    """Return True if the file is one of ``ours``, and False if it is empty.

    Raises:
        StoreMisconfiguredError: it is a file of another kind.
    """
    application = number_of(connection, "PRAGMA application_id")
    version = number_of(connection, "PRAGMA user_version")
    if application == ours.application_id:
        if version == ours.version:
            return True
        if version in ours.former:
            raise StoreMisconfiguredError(ours.former[version])
        raise StoreMisconfiguredError(
            f"the file has schema version {version}, and this program knows {ours.version} only"
        )
    if application or version or number_of(connection, "SELECT count(*) FROM sqlite_master"):
        raise StoreMisconfiguredError(_FOREIGN)
    return False


def raise_if_foreign(path: str, ours: Application) -> None:
    """Raise if the file at ``path`` is another application's; nothing is changed or created.

    A file that is missing or empty is accepted.

    Raises:
        StoreMisconfiguredError: it is a database of another application, or not a database.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return
    # By SQLite, since closing a descriptor of our own would release the locks that other
    # connections of this process hold on the file.
    how = f"{Path(path).as_uri()}?{WITHOUT_FILES_BESIDE_IT}"
    with closing(sqlite3.connect(how, uri=True, isolation_level=None)) as connection:
        # A part of the schema may still be in the -wal file.
        connection.execute("PRAGMA writable_schema = ON")
        application = number_of(connection, "PRAGMA application_id")
        version = number_of(connection, "PRAGMA user_version")
        pages = number_of(connection, "PRAGMA page_count")
    if application == ours.application_id:
        return
    is_blank = not (application or version) and pages <= 1
    if not is_blank or _application_in_log(f"{path}-wal") not in {None, ours.application_id}:
        raise StoreMisconfiguredError(_FOREIGN)


def _application_in_log(path: str) -> int | None:
    """Return the application that a -wal file names, or None.

    In a new database only that file may name it, until its contents are moved.
    """
    found: int | None = None
    with suppress(OSError), open(path, "rb") as log:  # noqa: PTH123
        head = log.read(_LOG_HEAD.size)
        if len(head) < _LOG_HEAD.size:
            return None
        page_bytes, salt = _LOG_HEAD.unpack(head)
        while len(frame := log.read(_FRAME_HEAD.size)) == _FRAME_HEAD.size:
            page, of = _FRAME_HEAD.unpack(frame)
            content = log.read(page_bytes)
            if of != salt:
                # The frame is left over from before.
                break
            if page == 1:
                found = int.from_bytes(content[_APPLICATION_AT], "big")
    return found


def number_of(connection: sqlite3.Connection, query: str) -> int:
    """Return the number that ``query`` asks for."""
    number: int = connection.execute(query).fetchone()[0]
    return number
