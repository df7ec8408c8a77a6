"""``open_journal``: the file, its owner, and the thread that writes."""

from __future__ import annotations

import logging
import math
import os
from contextlib import suppress
from functools import partial
from typing import (
    TYPE_CHECKING,
    Final,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    cast,
    final,
    overload,
)

import msgspec
import trio

from provcache_trio._disk.documents import check_evolution, name_of, reader_of
from provcache_trio._disk.owner_lock import OwnerLock
from provcache_trio._disk.private_files import absolute, make_directory
from provcache_trio._disk.threads import end_in_thread, in_thread
from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.errors import (
    JournalError,
    StoreMisconfiguredError,
    StoreUnavailableError,
)
from provcache_trio._vocabulary.log import log
from provcache_trio._vocabulary.opening import Opening

from ._disk import Disk
from ._file import JournalFile
from ._records import MOST_PAYLOAD_BYTES
from ._replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from ._scan import Findings

E = TypeVar("E")
T = TypeVar("T")
Durability: TypeAlias = Literal["interval", "always"]

_POLL_SECONDS: Final = 0.05
_MOST_LINES: Final = 5  # of a log, for each page
_FIRST_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 30.0
_MOST_DOUBLINGS: Final = 10
_MOMENT_SECONDS: Final = 0.2  # for which whoever looks whether it is in use holds the lock at most


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
    entry_type: type[E],
    durability: Durability = ...,
    sync_interval_seconds: float = ...,
    lock_timeout_seconds: float = ...,
    upgrade: Callable[[Any], Any] | None = ...,
    aliases: Iterable[str] = ...,
) -> AbstractAsyncContextManager[FileJournal[E]]: ...


def open_journal(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | None = None,
    durability: Durability = "interval",
    sync_interval_seconds: float = 0.05,
    lock_timeout_seconds: float = 0,
    upgrade: Callable[[Any], Any] | None = None,
    aliases: Iterable[str] = (),
) -> AbstractAsyncContextManager[FileJournal[E]]:
    """Open a journal, for the length of an ``async with`` around that of the queue.

    Entering fails at once if the journal can't be used. A file that is not there is made, with
    mode 0600, and a directory that is not there with mode 0700; an empty file is an empty
    journal. Beside it, ``PATH.lock`` says by a lock who owns it, and stays. ``PATH.last`` notes
    which record is the last one. ``PATH.set-aside`` keeps, once, bytes that are no record and
    entries that can't be read; ``count_set_aside`` and ``restore_set_aside`` deal with it.
    ``PATH.new`` is there while the journal is written anew. Symbolic links are refused. A file
    that is no journal is left as it is, and nothing is put beside it.

    Once it is open, a journal that fails does not stop the queue. With ``"interval"``,
    ``metrics().durable`` is False and an error is logged until it works again, which is tried
    less and less often, but at least once a second. With ``"always"``, ``enqueue`` raises
    ``JournalError`` meanwhile. While what a dead process left can't be read, nothing new is
    accepted.

    **A full disk** is such a failure, and no more: what is in the file stays, an attempt that does
    not fit is undone, and the journal goes on as soon as there is room. Once nothing in it is
    open, it is emptied without needing room. To become smaller while something is open it needs
    room for that, so the volume should have twice what waits at most; a warning is logged before
    it gets tight.

    Args:
        path: the file; a relative path is taken from the directory that is current now.
        entry_type: what entries are; any type that msgspec writes as JSON and reads back as
            it was. Fields annotated ``Any`` come back as JSON has them.
        durability: see the top of this module.
        sync_interval_seconds: see there; above 0. With ``"always"``, how long what is settled
            may stay in the file.
        lock_timeout_seconds: how long to wait for another process that has it open, as in a
            rolling restart.
        upgrade: called with the decoded JSON of an entry that can't be read as ``entry_type``,
            such as one that an older program wrote; returns what can be.
        aliases: former names of ``entry_type``, as ``package.module.Class``.

    Raises:
        TypeError: an argument has the wrong type, or ``entry_type`` is none for msgspec.
        ValueError: an argument is out of its range, or ``path`` names no file.
        JournalError: at entry: the journal has another owner, holds entries of another type,
            is one of another version, or can't be opened; the message names the file and says
            what to do.
    """
    if durability not in {"interval", "always"}:
        raise ValueError('durability must be "interval" or "always"')
    _check_seconds("sync_interval_seconds", sync_interval_seconds)
    _check_seconds("lock_timeout_seconds", lock_timeout_seconds)
    if not sync_interval_seconds > 0:
        raise ValueError("sync_interval_seconds must be above 0")
    former = check_evolution(upgrade, aliases)
    packer = Packer(
        cast("type[E]", ProvcacheEntry if entry_type is None else entry_type), upgrade=upgrade
    )
    where = absolute(path)
    file = JournalFile(where, entry_type=packer.name, aliases=former, disk=Disk())
    journal = FileJournal(
        file, packer, always=durability == "always", sync_interval_seconds=sync_interval_seconds
    )
    return _Opening(where, file, journal, lock_timeout_seconds)


def _check_seconds(name: str, value: object) -> None:
    if type(value) is not float and type(value) is not int:
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0")


@final
class _Opening(Opening["FileJournal[E]"], Generic[E]):
    """What ``open_journal`` returns."""

    what = "a journal"
    function = "open_journal"

    def __init__(
        self, path: str, file: JournalFile, journal: FileJournal[E], lock_timeout_seconds: float
    ) -> None:
        self._path = path
        self._file = file
        self._journal = journal
        self._lock = OwnerLock(f"{path}.lock")
        self._lock_timeout_seconds = lock_timeout_seconds

    async def _open(self) -> FileJournal[E]:
        await self._own()
        try:
            findings = await on_disk(self._file.open)
        except BaseException:
            self._end()
            raise
        self._journal.begin(findings)
        _report(self._path, findings)
        return self._journal

    async def _own(self) -> None:
        deadline = trio.current_time() + max(self._lock_timeout_seconds, _MOMENT_SECONDS)
        while True:
            try:
                await in_thread(self._take, _nothing)
            except StoreMisconfiguredError as error:
                message = f"journal {self._path} can't be opened: {error}"
                raise JournalError(message) from None
            except StoreUnavailableError as error:
                if trio.current_time() >= deadline:
                    message = f"journal {self._path} can't be opened: {error}"
                    raise JournalError(message) from None
            else:
                return
            await trio.sleep(_POLL_SECONDS)

    def _take(self) -> None:
        # First: nothing is put beside a file that is somebody else's.
        self._file.raise_if_foreign()
        make_directory(os.path.dirname(self._path))  # noqa: PTH120
        self._lock.take()

    async def _close(self, _error: BaseException | None, /) -> None:
        with trio.CancelScope(shield=True):  # for as long as the disk takes
            await end_in_thread(self._end)

    def _end(self) -> None:
        self._file.close()
        self._lock.release()


async def on_disk(work: Callable[[], T]) -> T:
    """Return what ``work`` returns in a worker thread."""
    try:
        return await in_thread(work, _nothing)
    except StoreUnavailableError as error:  # no thread for it
        raise JournalError(f"the journal can't be used for now: {error}") from None


def _nothing() -> None:
    """A disk call can't be hurried."""


def _report(path: str, findings: Findings) -> None:
    if findings.entries:
        log(logging.INFO, "journal %s holds %d entries to be replayed", path, findings.entries)
    for first, last in findings.missing:
        log(
            logging.ERROR,
            "journal %s: records %d to %d are missing: lost, or cut off by a power cut before "
            "anybody was told that they are safe",
            path,
            first,
            last,
        )
    if findings.damaged_bytes:
        log(
            logging.WARNING if findings.only_unfinished else logging.ERROR,
            "journal %s: %d bytes are no record, %d of them at its end, where a crash leaves "
            "what it cut off; they are kept, once, in %s.set-aside as soon as there is room",
            path,
            findings.damaged_bytes,
            findings.unfinished_bytes,
            path,
        )


@final
class FileJournal(Generic[E]):
    """Returned by ``open_journal``; do not instantiate. See ``Journal``."""

    def __init__(
        self, file: JournalFile, packer: Packer[E], *, always: bool, sync_interval_seconds: float
    ) -> None:
        self.file = file
        self._file = file
        self._packer = packer
        self._always = always
        self._sync_interval_seconds = sync_interval_seconds
        self._attached = False
        self._replay_from: Replay | None = None
        self._served = (0, 0)  # number of the last entry that was returned, and that was read
        self._gone: set[int] = set()  # set aside, so not to be replayed again
        self._unread: set[int] = set()  # can't be used, and there was no room to set them aside
        self._tidy_at = -math.inf  # when to try again to make it smaller
        self._tidy_failures = 0
        self._tight = False  # it was said that room is short
        self.holds_entries: bool = False
        self.entries_to_replay: int = 0  # that are of its type, as far as is known

    def begin(self, findings: Findings) -> None:
        """Go on from what was found when the file was opened."""
        self.holds_entries = findings.entries > 0
        self.entries_to_replay = findings.entries
        self._replay_from = Replay(self._file)

    @property
    def entry_type(self) -> object:
        """Return what entries are."""
        return self._packer.entry_type

    @property
    def always(self) -> bool:
        """Whether an entry is accepted only once it is on disk."""
        return self._always

    @property
    def sync_interval_seconds(self) -> float:
        """How long an accepted entry may wait until it is written, unless ``always``."""
        return self._sync_interval_seconds

    @property
    def overgrown(self) -> bool:
        """Whether ``tidy`` would make it smaller by a good deal, or rid it of damage."""
        return trio.current_time() >= self.tidy_at

    @property
    def tidy_at(self) -> float:
        """Return when to try to make it smaller, on trio's clock; never, if it is small."""
        untidy = bool(self._gone or self._unread) or self._file.damaged or self._file.overgrown
        return self._tidy_at if untidy else math.inf

    @property
    def heals(self) -> bool:
        """Whether ``append`` mends what failed before; if not, only ``rewrite`` does."""
        return self._file.legible

    def attach(self) -> None:
        """Be used by a queue from now on; see ``Journal.attach``."""
        if self._attached:
            raise RuntimeError("a journal serves one queue, once; open it again for another")
        self._attached = True

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        """Have ``entries`` on disk, and that others are settled; see ``Journal.append``."""
        numbers = await self._run(self._append, entries, settled)
        if self._file.short_of_room is not self._tight:
            self._tight = self._file.short_of_room
            self._report_room()
        return numbers

    def _append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int]
    ) -> list[int | None]:
        documents = self._packer.pack_all(entry for entry, _ in entries)
        good = [
            (document, replaces)
            for document, (_, replaces) in zip(documents, entries, strict=True)
            if document is not None
        ]
        first = self._file.append(good, [*settled, *self._gone])
        self._gone.clear()
        return _numbered(documents, first)

    def _report_room(self) -> None:
        if self._tight:
            log(
                logging.WARNING,
                "journal %s: its volume is almost full; it can't become smaller, nor soon grow, "
                "without more room",
                self._file.path,
            )
        else:
            log(logging.INFO, "journal %s: its volume has room again", self._file.path)

    async def tidy(self) -> None:
        """Make it as small as can be, if there is room for that; if not, change nothing."""
        try:
            await self._run(self._tidy)
        except JournalError as error:
            wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**self._tidy_failures)
            self._tidy_at = trio.current_time() + wait
            if not self._tidy_failures:
                log(logging.WARNING, "what is settled stays in the journal for now: %s", error)
            self._tidy_failures = min(self._tidy_failures + 1, _MOST_DOUBLINGS)
        else:
            self._tidy_failures = 0

    def _tidy(self) -> None:
        self._set_unread_aside()
        self._file.forget(self._gone)
        self._file.compact()
        self._gone.clear()

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        """Hold these entries and nothing else; see ``Journal.rewrite``.

        What nobody can read stays, if it could not be set aside yet.
        """
        return await self._run(self._rewrite, entries)

    def _rewrite(self, entries: Sequence[E]) -> list[int | None]:
        self._set_unread_aside()
        documents = self._packer.pack_all(entries)
        good = [document for document in documents if document is not None]
        numbers = _numbered(documents, self._file.rewrite(good, self._unread))
        self._gone.clear()
        return numbers

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        """Return the next entries; see ``Journal.replay``. One that can't be read stops none."""
        return await self._run(self._replay, after, most)

    def _replay(self, after: int, most: int) -> list[tuple[int, E]]:
        replay = self._replay_from
        if replay is None:
            return []
        returned, read = self._served
        if after == returned:  # what could not be read since is not read again
            after = read
        found: list[tuple[int, E]] = []
        while not found and (page := self._file.next_page(replay, after, most)):
            found = self._unpacked(page)
            after = page[-1][0]
        self._served = (found[-1][0] if found else after, after)
        return found

    def _unpacked(self, page: Sequence[tuple[int, bytes]]) -> list[tuple[int, E]]:
        found: list[tuple[int, E]] = []
        unread: dict[int, str] = {}
        for number, document in page:
            try:
                found.append((number, self._packer.unpack(document)))
            except Exception as error:  # noqa: BLE001  # some of it is somebody's type
                unread[number] = type(error).__name__  # not its text, which may quote the entry
        if unread:
            self.entries_to_replay -= len(unread.keys() - self._gone - self._unread)
            self._put_aside(unread.keys())
            self._report_unread(unread)
        return found

    def _report_unread(self, unread: dict[int, str]) -> None:
        path = self._file.path
        for number, error in list(unread.items())[:_MOST_LINES]:
            log(
                logging.ERROR,
                "journal %s: record %d is no entry of its type (%s), and is set aside",
                path,
                number,
                error,
            )
        if len(unread) > _MOST_LINES:
            more = len(unread) - _MOST_LINES
            log(logging.ERROR, "journal %s: the same of %d more records", path, more)

    async def set_aside(self, number: int, /) -> None:
        """Keep an entry for a person; see ``Journal.set_aside``.

        Without room for that it stays where it is meanwhile.
        """
        await self._run(self._put_aside, (number,))

    def _put_aside(self, numbers: Collection[int]) -> None:
        self._unread.update(numbers)
        self._set_unread_aside()

    def _set_unread_aside(self) -> None:
        if self._unread:
            with suppress(JournalError):
                self._file.set_aside(self._unread)
                self._gone |= self._unread
                self._unread.clear()

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await on_disk(partial(call, *args))  # one at a time: see Journal


def _numbered(documents: Sequence[object], first: int) -> list[int | None]:
    numbers: list[int | None] = []
    for document in documents:
        numbers.append(None if document is None else first)
        first += document is not None
    return numbers


class Packer(Generic[E]):
    """Writes entries of one type as JSON, and reads them.

    Raises:
        TypeError: msgspec can't decode that type.
    """

    def __init__(self, entry_type: type[E], *, upgrade: Callable[[Any], Any] | None = None) -> None:
        self.entry_type = entry_type
        self.name: str = name_of(entry_type)
        self._decode = reader_of(entry_type, None)
        self._read = reader_of(entry_type, upgrade)
        self._encode = msgspec.json.Encoder().encode
        # That every one of these comes back as it is, is tested.
        self._trusted = ProvcacheEntry if entry_type is ProvcacheEntry else None

    def pack_all(self, entries: Iterable[E]) -> list[bytes | None]:
        """Return each entry as JSON; None for one that would not come back as it is."""
        return [self.pack(entry) for entry in entries]

    def pack(self, entry: E) -> bytes | None:
        """Return an entry as JSON, or None: it would not come back as it is."""
        try:
            document = self._encode(entry)
            if type(entry) is not self._trusted:
                back = self._decode(document)
                # By the document, too: an entry need not define equality.
                if back != entry and self._encode(back) != document:
                    return None
        except Exception:  # noqa: BLE001  # some of it is somebody's type
            return None
        return document if len(document) < MOST_PAYLOAD_BYTES // 2 else None

    def unpack(self, document: bytes) -> E:
        """Return the entry that a document is, or that ``upgrade`` makes of it.

        Raises:
            Exception: it is none of this type.
        """
        return self._read(document)
