"""``open_dead_letters``, and the calls that store, read and remove letters."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final, overload

import msgspec

from provcache_trio._disk.documents import check_evolution
from provcache_trio._disk.owner_lock import owned
from provcache_trio._disk.private_files import absolute
from provcache_trio._disk.sqlite_calls import SQLiteCalls
from provcache_trio._vocabulary.checks import (
    check_int,
    check_moment,
    check_seconds,
    check_type,
)
from provcache_trio._vocabulary.columns import microseconds_of
from provcache_trio._vocabulary.log import log
from provcache_trio._vocabulary.opening import Opening
from provcache_trio._vocabulary.protocols import DeadLetter
from provcache_trio._vocabulary.type_names import class_of

from ._file import DeadLettersFile, DeadLettersFullError, Filter
from ._rows import LetterRows, UnreadableLetterError, text_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from provcache_trio._vocabulary.entries import ProvcacheEntry
    from provcache_trio._vocabulary.table import Table

    from ._file import FoundRow

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)


class StoredLetter(msgspec.Struct, Generic[E_co], frozen=True, kw_only=True):
    """A letter and its number.

    Attributes:
        id: its number, 1 or more; later letters have higher numbers, and none is ever used again.
        entry_type: the name of its entry's type, as ``package.module.Class``.
        letter: the letter. Its ``key`` is text: a key that is not a str is JSON, or what JSON
            writes as a str, or else its ``repr``. Entry and times are as they were.
    """

    id: int
    entry_type: str
    letter: DeadLetter[E_co]


class UnreadableLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is damaged, or is not a letter with an entry of the given type.

    Attributes:
        id: its number.
        key: its key, as far as it can be read.
        reason: why its entry was refused, if it is of the given type and may not fit for that
            very reason; or None.
        misfit: in which field its entry does not fit the given type, as far as that can be said
            without a value, such as "missing required field `source`"; or None.
    """

    id: int
    key: str
    reason: str | None = None
    misfit: str | None = None


@overload
def open_dead_letters(
    path: str | os.PathLike[str],
    *,
    max_letters: int = ...,
    max_bytes: int = ...,
    create: bool = ...,
    read_only: bool = ...,
    lock_timeout_seconds: float = ...,
    upgrade: Callable[[Any], Any] | None = ...,
    aliases: Iterable[str] = ...,
) -> AbstractAsyncContextManager[DeadLetters[ProvcacheEntry]]: ...


@overload
def open_dead_letters(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | Table[E],
    max_letters: int = ...,
    max_bytes: int = ...,
    create: bool = ...,
    read_only: bool = ...,
    lock_timeout_seconds: float = ...,
    upgrade: Callable[[Any], Any] | None = ...,
    aliases: Iterable[str] = ...,
) -> AbstractAsyncContextManager[DeadLetters[E]]: ...


def open_dead_letters(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | Table[E] | None = None,
    max_letters: int = 100_000,
    max_bytes: int = 256 * 1024 * 1024,
    create: bool = True,
    read_only: bool = False,
    lock_timeout_seconds: float = 0,
    upgrade: Callable[[Any], Any] | None = None,
    aliases: Iterable[str] = (),
) -> AbstractAsyncContextManager[DeadLetters[E]]:
    """Open a file of dead letters, for the length of an ``async with``.

    Entering fails at once if the file can't be used, unlike entering a repository, so that a
    program without a place for its dead letters knows that before it accepts anything. A missing
    file is created with mode 0600, and a missing directory with mode 0700. An existing file of
    letters gets mode 0600, too. ``PATH.lock`` beside it is locked by the owner, and is not removed.
    Symbolic links are not followed, and files of other applications are not changed. A file that
    was removed meanwhile is created again.

    **When it is full, nothing is dropped**: ``put_many`` raises ``DeadLettersFullError``, so the
    queue keeps its letters, then waits (its state is ``paused``), and at exit the rest is in
    ``undelivered``. One error is logged when that begins, not one per try. Only a letter that alone
    is larger than ``max_bytes`` is refused, as it can never fit.

    Leaving the block interrupts the calls of other tasks that are under way, and closes the file.
    That is shielded from cancellation, and waits for the disk.

    Args:
        path: the file; a relative path is resolved against the current directory now.
        entry_type: the type of the entries: any type that msgspec writes as JSON and reads back, or
            their ``Table``. By default ``ProvcacheEntry``.
        max_letters: most letters that it holds. Give at least the queue's ``batch_size``, as one
            call may have that many letters, and has to fit.
        max_bytes: most bytes of letters, as JSON; the file is somewhat larger.
        create: create the file if it is missing, and set up an empty one.
        read_only: read the file, which may have another owner. Nothing is created or changed. It
            can be read even where no file can be created beside it, unless a crash left its last
            changes beside it.
        lock_timeout_seconds: how long to wait for another process that has the file open, as in a
            rolling restart; not with ``read_only``.
        upgrade: called with the decoded JSON of an entry that can't be read as ``entry_type``, such
            as one that an older program wrote; returns JSON that can be.
        aliases: former names of ``entry_type``, as ``package.module.Class``. Letters with
            entries of other types are ``UnreadableLetter``; with ``msgspec.Raw`` and ``dict``,
            all are read.

    Raises:
        TypeError: an argument has the wrong type, or msgspec does not support ``entry_type``.
        ValueError: ``path`` names no file, or a limit is below 1 or above 2**63 - 1.
        StoreUnavailableError: at entry: the file still has another owner, in this or another process.
            Trying again later may help.
        StoreMisconfiguredError: at entry: a person is needed: no permission, a symbolic link,
            a file of another application or of a newer version, or not a database.
    """
    check_int("max_letters", max_letters, at_least=1)
    check_int("max_bytes", max_bytes, at_least=1)
    check_type("create", create, bool)
    check_type("read_only", read_only, bool)
    check_seconds("lock_timeout_seconds", lock_timeout_seconds)
    rows = LetterRows(
        class_of(entry_type),
        upgrade=upgrade,
        aliases=check_evolution(upgrade, aliases),
    )
    file = DeadLettersFile(
        absolute(path),
        create=create,
        read_only=read_only,
        max_letters=max_letters,
        max_bytes=max_bytes,
    )
    return _Opening(file, rows, lock_timeout_seconds)


@final
class _Opening(Opening["DeadLetters[E]"], Generic[E]):
    """The context manager that ``open_dead_letters`` returns."""

    what = "a file of dead letters"
    function = "open_dead_letters"

    def __init__(
        self, file: DeadLettersFile, rows: LetterRows[E], lock_timeout_seconds: float
    ) -> None:
        self._lock_timeout_seconds = lock_timeout_seconds
        self._file = file
        self._rows = rows
        self._calls = SQLiteCalls(file, f"the file of dead letters {file.path}")

    async def _open(self) -> DeadLetters[E]:
        await owned(
            partial(self._calls.run, self._file.open), "dead letters", self._lock_timeout_seconds
        )
        return DeadLetters(self._file, self._calls, self._rows)

    async def _close(self, _error: BaseException | None, /) -> None:
        await self._calls.close()


@final
class DeadLetters(Generic[E]):
    """Returned by ``open_dead_letters``; do not instantiate.

    A ``DeadLetterSink`` for ``open_write_behind_queue(dead_letters=)``. May be used by several
    tasks and queues at once; calls run one at a time. A cancelled call either has no effect and
    raises ``trio.Cancelled``, or succeeds and returns.

    Besides the errors in its own section, every method raises:
        StoreUnavailableError: the file has another owner now, or is locked; the disk is full
            or fails; or SQLite was interrupted.
        StoreMisconfiguredError: a person is needed: the file is damaged, or can't be created or
            written; or it was opened with ``read_only``.
        trio.ClosedResourceError: the ``async with`` block was left.
    """

    def __init__(self, file: DeadLettersFile, calls: SQLiteCalls, rows: LetterRows[E]) -> None:
        self._file = file
        self._calls = calls
        self._rows = rows
        self._full = False

    @property
    def entry_type(self) -> object:
        """The type of the entries."""
        return self._rows.entry_type

    async def put_many(self, letters: Sequence[DeadLetter[E]], /) -> None:
        """Store every letter, or none; see ``DeadLetterSink.put_many``.

        A letter that comes again, equal in everything including entry, key and times, is stored
        once. Several letters with one key are all kept.

        Raises:
            DeadLettersFullError: there is no room for all of them.
            EntryRejectedError: a letter is larger than ``max_bytes``, or its key has no text;
                ``index`` is its position. An entry that does not fit its type is still kept, as
                its JSON or else its repr.
        """
        taken = tuple(letters)
        try:
            await self._calls.run(self._file.put, lambda: self._rows.rows_of(taken))
        except DeadLettersFullError as error:
            if not self._full:
                self._full = True
                # Not a crash: the queue waits.
                log(logging.ERROR, "dead letters are full, new ones wait: %s", error)
            raise
        if self._full:
            self._full = False
            log(logging.INFO, "dead letters have room again")

    async def count(self, *, key: str | None = None, since: datetime | None = None) -> int:
        """Return how many letters there are; see ``letters`` for the filters."""
        return await self._calls.run(self._file.count, _filter(key, since))

    async def size(self) -> int:
        """Return how many bytes the letters take, which ``max_bytes`` bounds."""
        _, size = await self._calls.run(self._file.totals)
        return size

    async def letters(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        key: str | None = None,
        since: datetime | None = None,
    ) -> list[StoredLetter[E] | UnreadableLetter]:
        """Return letters, oldest first; one that can't be read is an ``UnreadableLetter``.

        Args:
            after: only letters with higher numbers; pass the last number of a page to get the next.
            limit: most letters to return, 1 to 2**63 - 1.
            key: only letters with this key, as ``StoredLetter`` shows it.
            since: only letters that failed then or later; aware.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: ``limit`` is out of its range, or ``since`` is naive.
        """
        check_int("after", after, at_least=0)
        check_int("limit", limit, at_least=1)
        rows = await self._calls.run(self._file.select, after, limit, _filter(key, since))
        return [self._stored(row) for row in rows]

    async def get(self, number: int, /) -> StoredLetter[E] | UnreadableLetter | None:
        """Return the letter with this number, or None if there is none.

        Raises:
            TypeError: ``number`` is not an int.
            ValueError: it is below 0 or above 2**63 - 1.
        """
        check_int("number", number, at_least=0)
        row = await self._calls.run(self._file.get, number)
        return None if row is None else self._stored(row)

    async def remove(self, numbers: Iterable[int], /) -> int:
        """Remove all letters with these numbers, or none; return how many there were.

        Raises:
            TypeError: ``numbers`` is not an iterable of int.
            ValueError: one is below 0 or above 2**63 - 1.
        """
        return await self._calls.run(self._file.remove, _checked(numbers))

    async def purge(self, *, key: str | None = None, since: datetime | None = None) -> int:
        """Remove the letters that match, and free their room; return how many there were.

        If cancelled, it has removed some of them. See ``letters`` for the filters. Without a filter
        it works even on a full disk.
        """
        return await self._calls.run(self._file.purge, _filter(key, since))

    def _stored(self, row: FoundRow) -> StoredLetter[E] | UnreadableLetter:
        number, key, _, entry_type = row
        try:
            letter = self._rows.letter_of(row)
            return StoredLetter(id=number, entry_type=str(entry_type), letter=letter)
        except UnreadableLetterError as error:
            return UnreadableLetter(
                id=number, key=str(key), reason=error.reason, misfit=error.misfit
            )


# Annotated as object, since callers may pass values that the annotations do not allow.


def _filter(key: object, since: object) -> Filter:
    if key is not None and not isinstance(key, str):
        raise TypeError(f"key must be a str, not {type(key).__name__}")
    if since is not None:
        check_moment("since", since)
    return Filter(
        key=None if key is None else text_of(key),
        since=None if since is None else microseconds_of(cast("datetime", since)),
    )


def _checked(numbers: object) -> list[int]:
    if not isinstance(numbers, Iterable):
        raise TypeError(f"numbers must be an iterable of int, not {type(numbers).__name__}")
    checked = list(cast("Iterable[int]", numbers))
    for number in checked:
        check_int("each of numbers", number, at_least=0)
    return checked
