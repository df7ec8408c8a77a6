"""What was set aside: counted, and brought back once it can be read again."""

from __future__ import annotations

import io
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from provcache_trio._disk.documents import check_evolution
from provcache_trio._disk.private_files import absolute
from provcache_trio._vocabulary.errors import JournalError
from provcache_trio._vocabulary.type_names import class_of

from ._aside import pack_kept
from ._disk import Disk
from ._documents import Documents
from ._file import JournalFile
from ._journal import FileJournal, on_disk
from ._opening import JournalOpening
from ._records import Record, RecordKind, document_in, pieces

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from provcache_trio._vocabulary.table import Table

    from ._aside import Kept

E = TypeVar("E")

_MOST_AT_ONCE = 1000


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal could not use, and keeps in ``PATH.set-aside``.

    Attributes:
        entries: how many entries: none of their type, or without a key.
        entry_types: what they are of, as their journal names it.
        damaged_bytes: how many bytes that are no record.
    """

    entries: int
    entry_types: tuple[str, ...]
    damaged_bytes: int


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What ``restore_set_aside`` did.

    Attributes:
        entries: how many went back into the journal.
        left: what stays set aside.
    """

    entries: int
    left: SetAside


def count_set_aside(path: str | os.PathLike[str]) -> SetAside:
    """Count what was set aside from the journal at ``path``; change nothing.

    Blocks while it reads. A program may have the journal open meanwhile.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it names no file.
        JournalError: what was set aside can't be read.
    """
    file = JournalFile(absolute(path), entry_type=None, disk=Disk(), read_only=True)
    return _counted(file.what_was_set_aside())


def _counted(found: Iterable[Kept]) -> SetAside:
    entries = damaged = 0
    types = set[str]()
    for kept in found:
        if kept.about.why == "entry":
            entries += 1
            types.add(kept.about.type)
        else:
            damaged += len(kept.content)
    return SetAside(entries=entries, entry_types=tuple(sorted(types)), damaged_bytes=damaged)


async def restore_set_aside(
    path: str | os.PathLike[str],
    *,
    entry_type: type[E] | Table[E] | None = None,
    upgrade: Callable[[Any], Any] | None = None,
    aliases: Iterable[str] = (),
) -> Restored:
    """Put what can be read again back into the journal, whose next queue replays it.

    To be called while no program has the journal open. An entry may come back after the store
    has a newer version of its key, so the store has to keep the newer one. Cut off, some of it
    is there twice, which does no harm either.

    Args:
        path: the journal.
        entry_type: as for ``open_journal``. Or ``msgspec.Raw``: entries of the journal's own
            type go back as they are, for a queue whose journal is opened with ``upgrade``; what
            that can't read either is set aside once more.
        upgrade: likewise.
        aliases: likewise; with ``msgspec.Raw``, of the journal's own type.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``path`` names no file.
        JournalError: the journal can't be opened or written; with ``msgspec.Raw`` also: there is
            none, or it is an empty file.
    """
    kind = class_of(entry_type)
    former = check_evolution(upgrade, aliases)
    documents = Documents(kind, upgrade=upgrade)
    name = None if kind is msgspec.Raw else documents.type_name
    file = JournalFile(absolute(path), entry_type=name, aliases=former, disk=Disk())
    journal = FileJournal(file, documents, always=True, sync_interval_seconds=1)
    async with JournalOpening(file, journal, 0):
        job = _Restoring(documents, {file.entry_type, *former})
        return await on_disk(file.path, partial(job.run, file))


class _Restoring(Generic[E]):
    def __init__(self, documents: Documents[E], names: set[str]) -> None:
        self._documents = documents
        self._names = names
        self._good: list[bytes] = []
        self._left: list[bytes] = []

    def run(self, file: JournalFile) -> Restored:
        for kept in file.what_was_set_aside():
            self._judge(kept)
        for at in range(0, len(self._good), _MOST_AT_ONCE):
            file.append([(document, ()) for document in self._good[at : at + _MOST_AT_ONCE]], ())
        if self._good:
            file.keep_aside(self._left)
        if file.overgrown:
            with suppress(JournalError):  # no room; a queue tries again
                file.compact()
        return Restored(entries=len(self._good), left=_counted(file.what_was_set_aside()))

    def _judge(self, kept: Kept) -> None:
        if kept.about.type not in self._names:
            self._left.append(kept.raw)
        elif kept.about.why == "entry":
            if not self._take(kept.content):
                self._left.append(kept.raw)
        else:
            self._judge_damage(kept)

    def _judge_damage(self, kept: Kept) -> None:
        """Take sound entries that were where they could not be."""
        for piece in pieces(io.BytesIO(kept.content).read, 0, kept.about.salt):
            is_entry = isinstance(piece, Record) and piece.kind in {
                RecordKind.ENTRY,
                RecordKind.NEWER,
            }
            if not (is_entry and self._take(document_in(cast("Record", piece)))):
                self._left += pack_kept(0, kept.about, piece.raw)

    def _take(self, document: bytes) -> bool:
        try:
            again = self._documents.document_of(self._documents.entry_of(document))
        except Exception:  # noqa: BLE001  # some of it is somebody's type
            return False
        if again is None:
            return False
        self._good.append(again)
        return True
