"""One journal, as a worker thread reads and writes it: which records it holds, and their numbers.

A new file that does not fit changes nothing. What is settled goes away without any room once
nothing is live.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.errors import JournalError

from ._aside import About, AsideFile, pack_kept
from ._beginning import checked_beginning
from ._damage import FoundDamage
from ._named_file import NamedFile
from ._new_file import NewFile
from ._note import LastNote
from ._numbers import Live
from ._reasons import NO_ROOM, NoRoomError, reported
from ._records import (
    FORMAT,
    MAGIC_LINE,
    MOST_BEGINNING_BYTES,
    Beginning,
    Record,
    RecordKind,
    document_in,
    pack_entry,
    pack_held,
    pack_settled,
    pieces,
    ranges_of,
)
from ._scan import Findings, Scan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ._aside import Kept, Why
    from ._disk import Disk
    from ._records import Damage

_GROWTH_BYTES: Final = 3 * 1024 * 1024
_ALMOST_FULL_BYTES: Final = 4 * 1024 * 1024


class JournalFile:
    """The file of one name; one caller at a time.

    Every method but ``close`` raises:
        JournalError: it could not be done; names the file.

    Attributes:
        entry_type: name of the type of its entries.
        last: the highest number that was ever given.
        generation: rises whenever offsets change their meaning.
        legible: whether all that is live could be read back, when that was last tried.
        short_of_room: whether the volume has hardly room for a new file.
    """

    def __init__(
        self,
        path: str,
        *,
        entry_type: str | None,
        disk: Disk,
        aliases: Collection[str] = (),
        read_only: bool = False,
    ) -> None:
        self.path: str = path
        self.entry_type: str = entry_type or ""  # if it is not given: that of the file
        self._any_type = entry_type is None
        self._aliases = aliases
        self._disk = disk
        self._read_only = read_only
        self._file = NamedFile(path, disk)
        self._note = LastNote(f"{path}.last", disk)
        self._aside = AsideFile(
            f"{path}.set-aside",
            disk,
            self._file.create,
            lambda: disk.sync_directory(os.path.dirname(path)),  # noqa: PTH120
        )
        self._live = Live()
        self._beginning = Beginning(format=FORMAT, identity="", type=self.entry_type)
        self._begins_with = 0  # how many bytes
        self._good_until = 0  # where its last good record ended when it was opened
        self._sound = False  # whether its beginning is as it should be
        self._flawed = False  # something of it should go away
        self._bare = False  # the next record has to say what is held
        self._damage = FoundDamage(self._aside, self._file.read)
        self.last: int = 0
        self.generation: int = 0
        self.legible: bool = True
        self.short_of_room: bool = False

    @property
    def overgrown(self) -> bool:
        """Whether most of it is settled, and a new file would be a good deal smaller."""
        return self._flawed or self._file.end >= _GROWTH_BYTES + 3 * self._live.bytes

    @property
    def size(self) -> int:
        """How many bytes it has, as far as it was looked at."""
        return self._file.end

    @property
    def damaged(self) -> bool:
        """Whether there is damage that could not be set aside yet."""
        return bool(self._damage)

    # Opening

    def raise_if_foreign(self) -> None:
        """Look whether the file is a journal, empty, or not there; change nothing."""
        with self.reported("can't be opened"):
            if self._disk.identity(self.path) is None:
                self._raise_if_of_any_type()
                return
            descriptor = self._disk.open(self.path, read_only=True)
            try:
                data = self._disk.read(descriptor, MOST_BEGINNING_BYTES, 0)
            finally:
                self._disk.close(descriptor)
        if data:
            checked_beginning(self.path, data)
        else:
            self._raise_if_of_any_type()

    def open(self) -> Findings:
        """Open the file, or make it, and look at all of it.

        A file that is there is not changed unless there is room, nor if it can't be used.
        """
        with self.reported("can't be opened"):
            if not self._file.open(read_only=self._read_only):
                if self._read_only:
                    raise JournalError(f"there is no journal {self.path}")
                return self._make()
            if self._file.size() == 0:
                return self._open_empty()
            self._read_beginning()
            if self._read_only:
                return self._look()
            self._file.keep_private()
            self._remove_leftover()
            findings = self._scan()
            self._file.trusted = True
            self._flawed = not (self._sound and findings.flawless)
            self._mend(findings)
        if not (self._live.sizes or self.damaged) and self._file.end > self._begins_with:
            # All of it was settled before a crash: room that nobody needs.
            with suppress(JournalError):
                self._empty()
        return findings

    def _open_empty(self) -> Findings:
        """Begin anew; if it was not always empty, what is gone is missing."""
        self.last = self._note.read(None)
        missing = [(1, self.last)] if self.last else []
        if not self._read_only:
            self._make()
        return Findings(0, missing, 0, 0)

    def _make(self) -> Findings:
        """Make the file; on a full disk it is made later."""
        self._raise_if_of_any_type()
        with suppress(NoRoomError):
            self.rewrite(())
        return Findings(0, [], 0, 0)

    def _raise_if_of_any_type(self) -> None:
        """Raise if nobody says what entries of a new file are."""
        if self._any_type:
            raise JournalError(
                f"there is no journal {self.path}, or it is an empty file, which does not say what "
                "its entries are"
            )

    def _read_beginning(self) -> None:
        data = self._file.read(MOST_BEGINNING_BYTES, 0)
        beginning, self._begins_with, sound = checked_beginning(self.path, data)
        if self._any_type:
            self.entry_type = beginning.type
        self._sound = sound and beginning.type == self.entry_type
        if beginning.type != self.entry_type and beginning.type not in self._aliases:
            raise JournalError(
                f"journal {self.path} holds entries of type {beginning.type}, not "
                f"{self.entry_type}. If the type was renamed, give its former name in aliases="
            )
        self._beginning = beginning

    def _look(self) -> Findings:
        """Scan a file that somebody else may be writing, or cutting off."""
        findings = self._scan()
        if not findings.flawless and self._file.size() < self._file.end:
            findings = self._scan()  # its owner has just emptied it
        return findings

    def _scan(self) -> Findings:
        # In this order, as whoever only looks does so while it grows: what is noted is in the
        # file, and what is written from now on is not looked at.
        noted = self._note.read(self._beginning.identity)
        self._file.end = self._file.size()
        scan = Scan(self._begins_with)
        findings = scan.run(self._pieces(), noted)
        self._live, self.last, self._damage.in_file = scan.live, scan.last, scan.damage
        self._good_until = scan.good_until
        return findings

    def _remove_leftover(self) -> None:
        """Remove what a crash left of a new file: on a full disk it takes the last room."""
        new = f"{self.path}.new"
        with suppress(OSError):
            if self._disk.identity(new) is None:
                return
            descriptor = self._disk.open(new, read_only=True)
            data = self._disk.read(descriptor, len(MAGIC_LINE), 0)
            self._disk.close(descriptor)
            if MAGIC_LINE.startswith(data):
                self._disk.remove(new)

    def _mend(self, findings: Findings) -> None:
        """Set damage aside, and cut it off at the end; if there is no room, leave it there."""
        if not findings.damaged_bytes:
            return
        with suppress(OSError):
            self._damage.set_aside(self._about("damage"))
            if findings.unfinished_bytes:
                self._file.cut(self._good_until)

    # What is set aside

    def set_aside(self, numbers: Collection[int]) -> None:
        """Keep a copy of entries that nobody can use; ``forget`` is another step."""
        about = self._about("entry")
        with self.reported("can't set a record aside"):
            self._aside.add(
                raw
                for number, document in self.live_entries()
                if number in numbers
                for raw in pack_kept(number, about, document)
            )

    def forget(self, numbers: Iterable[int]) -> None:
        """Leave these entries out of every file to come."""
        self._live.settle(ranges_of(numbers), self.last + 1)

    def what_was_set_aside(self) -> Iterator[Kept]:
        """Yield what was ever set aside."""
        with self.reported("can't be restored from"):
            yield from self._aside.read()

    def keep_aside(self, records: Sequence[bytes]) -> None:
        """Keep these of what was set aside, and nothing else."""
        with self.reported("can't be restored from"):
            self._aside.replace(records)

    def _about(self, why: Why) -> About:
        # The same entry is the same whatever file it is in.
        salt = 0 if why == "entry" else self._beginning.salt
        return About(why=why, type=self._beginning.type, salt=salt)

    # Reading

    def live_entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield the entries that are live, in order, and their numbers."""
        sizes, last = self._live.sizes, 0
        for piece in self._pieces():
            if not isinstance(piece, Record) or piece.kind not in _ENTRIES:
                continue
            # A number that comes once more is damage.
            if piece.number in sizes and piece.number > last:
                last = piece.number
                yield last, document_in(piece)

    def _pieces(self) -> Iterator[Record | Damage]:
        position, end = self._begins_with, self._file.end

        def read(count: int) -> bytes:
            nonlocal position
            # Not beyond the end, and nothing of a file that is not there yet.
            some = self._file.read(min(count, end - position), position) if position < end else b""
            position += len(some)
            return some

        return pieces(read, position, self._beginning.salt)

    # Writing

    def append(self, entries: Sequence[tuple[bytes, Sequence[int]]], settled: Iterable[int]) -> int:
        """Have entries, and that others are settled, on disk; return the first one's number.

        A file that failed before is made good first.
        """
        settled = tuple(settled)
        if not self._file.trusted:
            self.compact()
        salt = self._beginning.salt
        first = number = self.last + 1
        data = [pack_held(self.last, (), salt)] if self._bare and (entries or settled) else []
        added: list[tuple[int, int]] = []
        for document, replaces in entries:
            packed = pack_entry(number, document, replaces, salt)
            added.append((number, len(packed)))
            data.append(packed)
            number += 1
        if settled:
            data.append(pack_settled(number, settled, salt))
            number += 2
        with self.reported("can't be written"):
            self._file.extend(b"".join(data))
        if not data:  # it was only to be seen whether it works
            return first
        self._bare = False
        self.last = number - 1
        for (new, size), (_, replaces) in zip(added, entries, strict=True):
            self._live.settle(ranges_of(replaces), new)
            self._live.add(new, size)
        self._live.settle(ranges_of(settled), number)
        self._note.write(self.last, self._beginning.identity)
        self._look_at_room()
        return first

    def _look_at_room(self) -> None:
        with suppress(OSError):
            free = self._file.free()
            self.short_of_room = free < 2 * self._live.bytes + _ALMOST_FULL_BYTES

    def compact(self) -> None:
        """Hold what is live and nothing else; numbers stay.

        With nothing live that needs no room. Else, if there is none, nothing is changed.
        """
        if not self._live.sizes:
            self._empty()
            return
        with self.reported("can't be written anew"):
            if self._file.free() < self._live.bytes:
                raise OSError(errno.ENOSPC, "")  # without taking what room there is from others
            self._damage.set_aside(self._about("damage"))
            self._renew((), self._live.sizes.keys())

    def rewrite(self, documents: Sequence[bytes], keeping: Collection[int] = ()) -> int:
        """Begin anew with these entries; return the first one's number.

        Whatever else the journal held is forgotten, in the moment in which the new file takes
        the old one's place.

        Args:
            documents: the entries.
            keeping: numbers of entries that stay as they are.
        """
        if not documents and not keeping:
            self._empty()
            return self.last + 1
        with self.reported("can't be written anew"):
            self._damage.set_aside(self._about("damage"))
            return self._renew(documents, keeping)

    def _empty(self) -> None:
        """Hold nothing. It needs no room, unless the file is not there or failed before."""
        with self.reported("can't be emptied"):
            damage = self._damage.copied(self._about("damage"))
            try:
                if self._file.trusted and self._sound and self._file.is_in_place():
                    self._cut_off()
                else:
                    self._renew((), ())
            except OSError as error:
                can_be_cut = self._begins_with > 0 and self._file.is_in_place()
                if error.errno not in NO_ROOM or not can_be_cut:
                    raise
                self._cut_off()  # that makes room
            self._damage.take_from_memory(damage)
        with suppress(OSError):
            self._damage.set_aside(self._about("damage"))

    def _cut_off(self) -> None:
        """Cut off everything behind the beginning."""
        self._note.wipe()  # else what is gone would be missed
        self._file.cut(self._begins_with)
        self._live = Live()
        self._bare, self._flawed = True, False
        self.generation += 1

    def _renew(self, documents: Iterable[bytes], keeping: Collection[int]) -> int:
        """Put a new file in the place of the old one; raise ``OSError`` if that can't be."""
        new, last = self._file.replace(partial(self._fill, documents, keeping))
        first = self.last + 1
        self._take(new, last)
        self._file.sync_name()
        self._note.write(self.last, self._beginning.identity)
        return first

    def _fill(
        self, documents: Iterable[bytes], keeping: Collection[int], descriptor: int
    ) -> tuple[NewFile, int]:
        """Fill and sync a new file; return it, and the highest number."""
        new = NewFile(self._disk, descriptor, self.entry_type)
        number = self.last
        new.begin(number, keeping)
        for kept, document in self._kept(keeping):
            new.put(kept, document)
        for document in documents:
            number += 1
            new.put(number, document)
        new.finish()
        return new, number

    def _kept(self, numbers: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield these entries from the old file, if they are all there."""
        count = 0
        for number, document in self.live_entries() if numbers else ():
            if number in numbers:
                count += 1
                yield number, document
        self.legible = count == len(numbers)
        if not self.legible:
            raise JournalError(
                f"journal {self.path} can't be written anew: some of what it holds can't be read "
                "back; look at the disk"
            )

    def _take(self, new: NewFile, last: int) -> None:
        self._beginning, self._begins_with = new.beginning, new.begins_with
        self._live, self._file.end, self.last = new.live, new.size, last
        self._sound, self._flawed, self._bare = True, False, False
        self.generation += 1

    def close(self) -> None:
        """Let go of the file."""
        self._note.close()
        self._file.close()

    def reported(self, what: str) -> AbstractContextManager[None]:
        """Raise ``JournalError`` instead of ``OSError``, and say what of the journal failed."""
        return reported(self.path, what)


_ENTRIES: Final = frozenset({RecordKind.ENTRY, RecordKind.NEWER})
