"""The journal that ``open_journal`` opens: the calls of a queue's recorder, in a worker thread."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeAlias, TypeVar, final

import trio

from provcache_trio._disk.threads import in_thread
from provcache_trio._vocabulary.errors import JournalError, StoreUnavailableError
from provcache_trio._vocabulary.log import log
from provcache_trio._vocabulary.plurals import counted

from ._replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ._documents import Documents
    from ._file import JournalFile
    from ._scan import Findings

E = TypeVar("E")
T = TypeVar("T")
Durability: TypeAlias = Literal["interval", "always"]

# Most log lines for each page.
_MOST_LINES: Final = 5
_FIRST_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 30.0
_NOT_TIDIED: Final = "settled entries stay in the journal, and take room, for now: %s"
_MOST_DOUBLINGS: Final = 10


async def on_disk(path: str, work: Callable[[], T]) -> T:
    """Return what ``work``, on the journal at ``path``, returns in a worker thread."""
    try:
        return await in_thread(work, _nothing)
    except StoreUnavailableError as error:
        # No thread can be started.
        raise JournalError(f"journal {path} can't be used for now: {error}") from None


def _nothing() -> None:
    """Do nothing, as a disk call can't be interrupted."""


@final
class FileJournal(Generic[E]):
    """Returned by ``open_journal``; do not instantiate. See ``Journal``."""

    def __init__(
        self,
        file: JournalFile,
        documents: Documents[E],
        *,
        always: bool,
        sync_interval_seconds: float,
    ) -> None:
        self._file = file
        self._documents = documents
        self._always = always
        self._sync_interval_seconds = sync_interval_seconds
        self._attached = False
        # Set by ``begin``.
        self._replay_from: Replay
        # The numbers of the last entry returned, and of the last one read.
        self._served = (0, 0)
        # Numbers that were set aside, and are not replayed again.
        self._gone: set[int] = set()
        # Numbers of unusable entries, while there is no room to set them aside.
        self._unread: set[int] = set()
        # When to try again to make the file smaller.
        self._tidy_at = -math.inf
        self._tidy_failures = 0
        # Whether a shortage of room was logged.
        self._tight = False
        self.holds_entries: bool = False
        # The entries to replay that are of its type, as far as is known.
        self.entries_to_replay: int = 0

    def begin(self, findings: Findings) -> None:
        """Continue from what was found when the file was opened."""
        self.holds_entries = findings.entries > 0
        self.entries_to_replay = findings.entries
        self._replay_from = Replay(self._file)

    @property
    def entry_type(self) -> object:
        """The type of the entries."""
        return self._documents.entry_type

    def fault_of(self, entry: object) -> str:
        """Return why the journal can't hold ``entry``, without any of its values."""
        return self._documents.fault_of(entry)

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
        """Whether ``tidy`` would make it a good deal smaller, or remove damage."""
        return trio.current_time() >= self.tidy_at

    @property
    def tidy_at(self) -> float:
        """When to try to make it smaller, on trio's clock; infinity if it is small."""
        untidy = bool(self._gone or self._unread) or self._file.damaged or self._file.overgrown
        return self._tidy_at if untidy else math.inf

    @property
    def heals(self) -> bool:
        """Whether ``append`` repairs an earlier failure; if not, only ``rewrite`` does."""
        return self._file.legible

    def attach(self) -> None:
        """Reserve the journal for one queue; see ``Journal.attach``."""
        if self._attached:
            raise RuntimeError(
                f"journal {self._file.path} serves one queue, once; open it again for another"
            )
        self._attached = True

    async def append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int], /
    ) -> Sequence[int | None]:
        """Write ``entries``, and that others are settled, to disk; see ``Journal.append``."""
        numbers = await self._run(self._append, entries, settled)
        if self._file.short_of_room is not self._tight:
            self._tight = self._file.short_of_room
            self._report_room()
        return numbers

    def _append(
        self, entries: Sequence[tuple[E, Sequence[int]]], settled: Sequence[int]
    ) -> list[int | None]:
        documents = self._documents.documents_of(entry for entry, _ in entries)
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
        """Make it as small as possible; without room for that, change nothing."""
        try:
            await self._run(self._tidy)
        except JournalError as error:
            wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**self._tidy_failures)
            self._tidy_at = trio.current_time() + wait
            if not self._tidy_failures:
                log(logging.WARNING, _NOT_TIDIED, error)
            self._tidy_failures = min(self._tidy_failures + 1, _MOST_DOUBLINGS)
        else:
            self._tidy_failures = 0

    def _tidy(self) -> None:
        self._set_unread_aside()
        self._file.forget(self._gone)
        self._file.compact()
        self._gone.clear()

    async def rewrite(self, entries: Sequence[E], /) -> Sequence[int | None]:
        """Replace everything by these entries; see ``Journal.rewrite``.

        Entries that can't be read stay until they are set aside.
        """
        return await self._run(self._rewrite, entries)

    def _rewrite(self, entries: Sequence[E]) -> list[int | None]:
        self._set_unread_aside()
        documents = self._documents.documents_of(entries)
        good = [document for document in documents if document is not None]
        numbers = _numbered(documents, self._file.rewrite(good, self._unread))
        self._gone.clear()
        return numbers

    async def replay(self, after: int, most: int, /) -> Sequence[tuple[int, E]]:
        """Return the next entries, except those that can't be read; see ``Journal.replay``."""
        return await self._run(self._replay, after, most)

    def _replay(self, after: int, most: int) -> list[tuple[int, E]]:
        replay = self._replay_from
        returned, read = self._served
        if after == returned:
            # Entries that could not be read are not read again.
            after = read
        found: list[tuple[int, E]] = []
        with self._file.reported("can't be read"):
            while not found and (page := replay.next(after, most)):
                found = self._unpacked(page)
                after = page[-1][0]
        self._served = (found[-1][0] if found else after, after)
        return found

    def _unpacked(self, page: Sequence[tuple[int, bytes]]) -> list[tuple[int, E]]:
        found: list[tuple[int, E]] = []
        unread: dict[int, str] = {}
        for number, document in page:
            try:
                found.append((number, self._documents.entry_of(document)))
            except Exception as error:  # noqa: BLE001  # a user's type may raise anything
                # The class only, as the message may quote the entry.
                unread[number] = type(error).__name__
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
                "journal %s: record %d is no entry of its type (%s), and is set aside; mend the type, "
                "or open it with upgrade=, then restore it",
                path,
                number,
                error,
            )
        if len(unread) > _MOST_LINES:
            more = len(unread) - _MOST_LINES
            log(logging.ERROR, "journal %s: the same of %s", path, counted(more, "more record"))

    async def set_aside(self, number: int, /) -> None:
        """Set an entry aside for a person; see ``Journal.set_aside``.

        Without room for that, it stays in the journal meanwhile.
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
        # One at a time; see ``Journal``.
        return await on_disk(self._file.path, partial(call, *args))


def _numbered(documents: Sequence[object], first: int) -> list[int | None]:
    numbers: list[int | None] = []
    for document in documents:
        numbers.append(None if document is None else first)
        first += document is not None
    return numbers
