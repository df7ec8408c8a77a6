"""``open_journal``: the file, its owner, and the thread that writes."""

from __future__ import annotations

import logging
import os
from collections import deque
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
    get_origin,
    overload,
)

import msgspec
import trio

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ._file import Findings

E = TypeVar("E")
T = TypeVar("T")
Durability: TypeAlias = Literal["interval", "always"]

_POLL_SECONDS: Final = 0.05
_MOMENT_SECONDS: Final = 0.2  # for which whoever looks whether it is in use holds the lock at most


@overload
def open_journal(
    path: str | os.PathLike[str],
    *,
    durability: Durability = ...,
    sync_interval_seconds: float = ...,
    lock_timeout_seconds: float = ...,
) -> AbstractAsyncContextManager[FileJournal[ProvcacheEntry]]: ...


@overload
def open_journal(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E],
    durability: Durability = ...,
    sync_interval_seconds: float = ...,
    lock_timeout_seconds: float = ...,
) -> AbstractAsyncContextManager[FileJournal[E]]: ...


def open_journal(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | None = None,
    durability: Durability = "interval",
    sync_interval_seconds: float = 0.05,
    lock_timeout_seconds: float = 0,
) -> AbstractAsyncContextManager[FileJournal[E]]:
    """Open a journal, for the length of an ``async with`` around that of the queue.

    Entering fails at once if the journal can't be used. A file that is not there is made, with
    mode 0600, and a directory that is not there with mode 0700. Beside it, ``PATH.lock`` says
    by a lock who owns it, and stays; a crash ends the lock. ``PATH.last`` notes which record is
    the last one. ``PATH.set-aside`` keeps bytes that are no record, and entries that can't be
    read, for a person. ``PATH.new`` is there while the journal is written anew. Symbolic links
    are refused.

    Once it is open, a journal that fails does not stop the queue. With ``"interval"``,
    ``metrics().durable`` is False and an error is logged until it works again, which is tried
    at each interval: what is not settled is then written to a new file. With ``"always"``,
    ``enqueue`` raises ``JournalError`` meanwhile. While what a dead process left can't be read,
    which is tried at each interval, nothing new is accepted.

    Args:
        path: the file; a relative path is taken from the directory that is current now.
        entry_type: what entries are; any type that msgspec writes as JSON and reads back as
            it was. Fields annotated ``Any`` come back as JSON has them.
        durability: see the top of this module.
        sync_interval_seconds: see there; above 0. With ``"always"``, how long what is settled
            may stay in the file.
        lock_timeout_seconds: how long to wait for another process that has it open, as in a
            rolling restart.

    Raises:
        TypeError: an argument has the wrong type, or ``entry_type`` is none for msgspec.
        ValueError: an argument is out of its range, or ``path`` names no file.
        JournalError: at entry: the journal has another owner, holds entries of another type,
            is one of a newer version, or can't be opened; the message says which.
    """
    if durability not in {"interval", "always"}:
        raise ValueError('durability must be "interval" or "always"')
    _check_seconds("sync_interval_seconds", sync_interval_seconds)
    _check_seconds("lock_timeout_seconds", lock_timeout_seconds)
    if not sync_interval_seconds > 0:
        raise ValueError("sync_interval_seconds must be above 0")
    packer = Packer(cast("type[E]", ProvcacheEntry if entry_type is None else entry_type))
    where = absolute(path)
    file = JournalFile(where, entry_type=packer.name, disk=Disk())
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
            findings = await _on_disk(self._file.open)
        except BaseException:
            self._end()
            raise
        self._journal.holds_entries = findings.entries > 0
        self._journal.entries_to_replay = findings.entries
        _report(self._path, findings)
        return self._journal

    async def _own(self) -> None:
        deadline = trio.current_time() + max(self._lock_timeout_seconds, _MOMENT_SECONDS)
        while True:
            try:
                await in_thread(partial(_take, self._lock, self._path), _nothing)
            except StoreMisconfiguredError as error:
                raise JournalError(f"the journal can't be opened: {error}") from None
            except StoreUnavailableError as error:
                if trio.current_time() >= deadline:
                    raise JournalError(f"the journal can't be opened: {error}") from None
            else:
                return
            await trio.sleep(_POLL_SECONDS)

    async def _close(self, _error: BaseException | None, /) -> None:
        with trio.CancelScope(shield=True):  # for as long as the disk takes
            await end_in_thread(self._end)

    def _end(self) -> None:
        self._file.close()
        self._lock.release()


def _take(lock: OwnerLock, path: str) -> None:
    make_directory(os.path.dirname(path))  # noqa: PTH120
    lock.take()


async def _on_disk(work: Callable[[], T]) -> T:
    try:
        return await in_thread(work, _nothing)
    except StoreUnavailableError as error:  # no thread for it
        raise JournalError(f"the journal can't be used: {error}") from None


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
            "what it cut off; they are kept in %s.set-aside",
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
        self._file = file
        self._packer = packer
        self._always = always
        self._sync_interval_seconds = sync_interval_seconds
        self._attached = False
        self._page: deque[tuple[int, bytes]] = deque()  # of the file, still to be read
        self._served: list[tuple[int, E]] = []  # and perhaps not taken over yet
        self._gone: list[int] = []  # set aside, so not to be replayed again
        self.holds_entries: bool = False
        self.entries_to_replay: int = 0  # that are of its type, as far as is known

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
        """Whether ``rewrite`` would make it smaller by a good deal, or by what was set aside."""
        return bool(self._gone) or self._file.overgrown

    def attach(self) -> None:
        """Be used by a queue from now on; see ``Journal.attach``."""
        if self._attached:
            raise RuntimeError("a journal serves one queue, once; open it again for another")
        self._attached = True

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        """Have ``entries`` on disk, and that others are settled; see ``Journal.append``."""
        return await self._run(self._append, entries, settled)

    def _append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int]
    ) -> list[int | None]:
        documents = self._packer.pack_all(entry for entry, _ in entries)
        good = [
            (document, replaces)
            for document, (_, replaces) in zip(documents, entries, strict=True)
            if document is not None
        ]
        gone, self._gone = self._gone, []
        return _numbered(documents, self._file.append(good, [*settled, *gone]))

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        """Hold these entries and nothing else; see ``Journal.rewrite``."""
        return await self._run(self._rewrite, entries)

    def _rewrite(self, entries: Sequence[E]) -> list[int | None]:
        documents = self._packer.pack_all(entries)
        good = (document for document in documents if document is not None)
        numbers = _numbered(documents, self._file.rewrite(good))
        self._gone = []
        return numbers

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        """Return the next entries; see ``Journal.replay``. One that can't be read stops none."""
        return await self._run(self._replay, after, most)

    def _replay(self, after: int, most: int) -> list[tuple[int, E]]:
        self._served = [found for found in self._served if found[0] > after]
        while not self._served:
            self._page = self._page or deque(self._file.next_page(most))
            if not self._page:
                break
            while self._page:
                # Leaves the page when it is served or set aside, for that may fail.
                found = self._unpacked(self._page[0])
                self._page.popleft()
                if found is not None:
                    self._served.append(found)
        return self._served[:most]

    def _unpacked(self, found: tuple[int, bytes]) -> tuple[int, E] | None:
        number, document = found
        try:
            return number, self._packer.unpack(document)
        except Exception as error:  # noqa: BLE001  # some of it is somebody's type
            self._set_aside(number)
            self.entries_to_replay -= 1
            log(  # the traceback may quote the entry
                logging.ERROR,
                "journal: record %d is no entry of its type (%s), and is set aside",
                number,
                type(error).__name__,
            )
            return None

    async def set_aside(self, number: int, /) -> None:
        """Keep an entry for a person; see ``Journal.set_aside``."""
        await self._run(self._set_aside, number)

    def _set_aside(self, number: int) -> None:
        self._file.set_aside(number)
        self._gone.append(number)

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await _on_disk(partial(call, *args))  # one at a time: see Journal


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

    def __init__(self, entry_type: type[E]) -> None:
        try:
            self._decode = msgspec.json.Decoder(entry_type).decode
        except Exception:  # noqa: BLE001  # whatever looking at somebody's type raises
            raise TypeError("entry_type must be a type that msgspec can decode") from None
        self._encode = msgspec.json.Encoder().encode
        self.name: str = (
            "provcache_trio.ProvcacheEntry"
            if entry_type is ProvcacheEntry
            else f"{entry_type.__module__}.{entry_type.__qualname__}"
            if get_origin(entry_type) is None and hasattr(entry_type, "__qualname__")
            else repr(entry_type)
        )
        # That every one of these comes back as it is, is tested.
        self._trusted = ProvcacheEntry if entry_type is ProvcacheEntry else None

    def pack_all(self, entries: Iterable[E]) -> list[bytes | None]:
        """Return each entry as JSON; None for one that would not come back as it is."""
        return [self._pack(entry) for entry in entries]

    def _pack(self, entry: E) -> bytes | None:
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
        """Return the entry that a document is.

        Raises:
            Exception: it is none of this type.
        """
        return self._decode(document)
