"""Counts what was set aside, and restores it once it can be read again."""

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
    """Counts of what a journal could not use, and keeps in ``PATH.set-aside``.

    Attributes:
        entries: the number of entries that were not of their type, or had no key.
        entry_types: the types of these entries, as their journal names them.
        damaged_bytes: the number of bytes that are not records.
    """

    entries: int
    entry_types: tuple[str, ...]
    damaged_bytes: int


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``restore_set_aside``.

    Attributes:
        entries: the number of entries that went back into the journal.
        left: what stays set aside.
    """

    entries: int
    left: SetAside


def count_set_aside(path: str | os.PathLike[str]) -> SetAside:
    """Count what was set aside from the journal at ``path``; change nothing.

    Blocks while it reads. A program may have the journal open meanwhile.

    Raises:
        TypeError: ``path`` is not a path.
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
    """Put entries that can be read again back into the journal, whose next queue replays them.

    Call it while no program has the journal open. An entry may come back after the store has a
    newer version of its key, so the store has to keep the newer one. If the call is cut off, some
    entries are there twice, which does no harm either.

    Args:
        path: the journal.
        entry_type: as for ``open_journal``; or ``msgspec.Raw``, to put back entries of the
            journal's own type unchanged, for a queue whose journal is opened with ``upgrade``;
            entries that it can't read either are set aside once more.
        upgrade: as for ``open_journal``.
        aliases: as for ``open_journal``; with ``msgspec.Raw``, for the journal's own type.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``path`` names no file.
        JournalError: the journal can't be opened or written; or, with ``msgspec.Raw``, it is
            missing or empty.
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
            # It fails without room; then a queue tries again.
            with suppress(JournalError):
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
        """Take intact entries from damage, such as those at a wrong place."""
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
        except Exception:  # noqa: BLE001  # a user's type may raise anything
            return False
        if again is None:
            return False
        self._good.append(again)
        return True
