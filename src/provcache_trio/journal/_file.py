"""One journal, as a worker thread reads and writes it: which records it holds, and their numbers.

If a new file does not fit, nothing changes. Once nothing is live, settled records are removed
without needing any room.
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
    """The journal file of one name, for one caller at a time.

    Every method except ``close`` raises:
        JournalError: the call failed; the message names the file.

    Attributes:
        entry_type: the name of its entries' type.
        last: the highest number that was ever given.
        generation: rises whenever offsets change their meaning.
        legible: whether all live entries could be read back at the last attempt.
        short_of_room: whether the volume has hardly any room for a new file.
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
        # If not given, set from the file.
        self.entry_type: str = entry_type or ""
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
        # The length of its beginning in bytes.
        self._begins_with = 0
        # Where its last good record ended when it was opened.
        self._good_until = 0
        # Whether its beginning is intact.
        self._sound = False
        # Whether something in it has to be removed.
        self._flawed = False
        # Whether the next record has to state which numbers are held.
        self._bare = False
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
        """How many of its bytes are known."""
        return self._file.end

    @property
    def damaged(self) -> bool:
        """Whether there is damage that could not be set aside yet."""
        return bool(self._damage)

    # Opening

    def raise_if_foreign(self) -> None:
        """Raise unless the file is a journal, empty, or missing; change nothing."""
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
        """Open or create the file, and read all of it.

        An existing file is not changed without room, nor if it can't be used.
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
            # All of it was settled before a crash, so its room is not needed.
            with suppress(JournalError):
                self._empty()
        return findings

    def _open_empty(self) -> Findings:
        """Begin anew; if the file was not always empty, report its lost records as missing."""
        self.last = self._note.read(None)
        missing = [(1, self.last)] if self.last else []
        if not self._read_only:
            self._make()
        return Findings(0, missing, 0, 0)

    def _make(self) -> Findings:
        """Create the file; on a full disk that is done later."""
        self._raise_if_of_any_type()
        with suppress(NoRoomError):
            self.rewrite(())
        return Findings(0, [], 0, 0)

    def _raise_if_of_any_type(self) -> None:
        """Raise if a new file is needed, and no entry type was given."""
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
        """Scan a file that its owner may be writing or cutting off."""
        findings = self._scan()
        if not findings.flawless and self._file.size() < self._file.end:
            # Its owner has just emptied it.
            findings = self._scan()
        return findings

    def _scan(self) -> Findings:
        # In this order, as a reader may scan the file while it grows: every noted record is in the
        # file, and records written from now on are ignored.
        noted = self._note.read(self._beginning.identity)
        self._file.end = self._file.size()
        scan = Scan(self._begins_with)
        findings = scan.run(self._pieces(), noted)
        self._live, self.last, self._damage.in_file = scan.live, scan.last, scan.damage
        self._good_until = scan.good_until
        return findings

    def _remove_leftover(self) -> None:
        """Remove a new file that a crash left; on a full disk it takes the last room."""
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
        """Set damage aside, and cut it off at the end; without room, leave it there."""
        if not findings.damaged_bytes:
            return
        with suppress(OSError):
            self._damage.set_aside(self._about("damage"))
            if findings.unfinished_bytes:
                self._file.cut(self._good_until)

    # What is set aside

    def set_aside(self, numbers: Collection[int]) -> None:
        """Copy entries that can't be used to the file beside it; ``forget`` is a separate step."""
        about = self._about("entry")
        with self.reported("can't set a record aside"):
            self._aside.add(
                raw
                for number, document in self.live_entries()
                if number in numbers
                for raw in pack_kept(number, about, document)
            )

    def forget(self, numbers: Iterable[int]) -> None:
        """Leave these entries out of every later file."""
        self._live.settle(ranges_of(numbers), self.last + 1)

    def what_was_set_aside(self) -> Iterator[Kept]:
        """Yield everything that was ever set aside."""
        with self.reported("can't be restored from"):
            yield from self._aside.read()

    def keep_aside(self, records: Sequence[bytes]) -> None:
        """Keep only these records of what was set aside."""
        with self.reported("can't be restored from"):
            self._aside.replace(records)

    def _about(self, why: Why) -> About:
        # An entry counts as the same in whatever file it is.
        salt = 0 if why == "entry" else self._beginning.salt
        return About(why=why, type=self._beginning.type, salt=salt)

    # Reading

    def live_entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield the live entries with their numbers, in order."""
        sizes, last = self._live.sizes, 0
        for piece in self._pieces():
            if not isinstance(piece, Record) or piece.kind not in _ENTRIES:
                continue
            # A number that occurs twice is damage.
            if piece.number in sizes and piece.number > last:
                last = piece.number
                yield last, document_in(piece)

    def _pieces(self) -> Iterator[Record | Damage]:
        position, end = self._begins_with, self._file.end

        def read(count: int) -> bytes:
            nonlocal position
            # Not beyond the end, and nothing from a file that does not exist yet.
            some = self._file.read(min(count, end - position), position) if position < end else b""
            position += len(some)
            return some

        return pieces(read, position, self._beginning.salt)

    # Writing

    def append(self, entries: Sequence[tuple[bytes, Sequence[int]]], settled: Iterable[int]) -> int:
        """Write entries, and that others are settled, to disk; return the first entry's number.

        A file that failed before is repaired first.
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
        if not data:
            # The call only had to find out whether the journal works.
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
        """Reduce the file to its live entries, which keep their numbers.

        With nothing live, that needs no room. Otherwise, without room, nothing changes.
        """
        if not self._live.sizes:
            self._empty()
            return
        with self.reported("can't be written anew"):
            if self._file.free() < self._live.bytes:
                # Raised before the new file takes the room that others need.
                raise OSError(errno.ENOSPC, "")
            self._damage.set_aside(self._about("damage"))
            self._renew((), self._live.sizes.keys())

    def rewrite(self, documents: Sequence[bytes], keeping: Collection[int] = ()) -> int:
        """Replace the file by one with these entries; return the first entry's number.

        Everything else in the journal is dropped in the moment in which the new file replaces the
        old one.

        Args:
            documents: the entries.
            keeping: the numbers of entries that stay unchanged.
        """
        if not documents and not keeping:
            self._empty()
            return self.last + 1
        with self.reported("can't be written anew"):
            self._damage.set_aside(self._about("damage"))
            return self._renew(documents, keeping)

    def _empty(self) -> None:
        """Empty the file, which needs no room unless it is missing or failed before."""
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
                # Cutting off makes room.
                self._cut_off()
            self._damage.take_from_memory(damage)
        with suppress(OSError):
            self._damage.set_aside(self._about("damage"))

    def _cut_off(self) -> None:
        """Cut off everything behind the beginning."""
        # An old note would report the removed records as missing.
        self._note.wipe()
        self._file.cut(self._begins_with)
        self._live = Live()
        self._bare, self._flawed = True, False
        self.generation += 1

    def _renew(self, documents: Iterable[bytes], keeping: Collection[int]) -> int:
        """Replace the file by a new one; raise ``OSError`` if that fails."""
        new, last = self._file.replace(partial(self._fill, documents, keeping))
        first = self.last + 1
        self._take(new, last)
        self._file.sync_name()
        self._note.write(self.last, self._beginning.identity)
        return first

    def _fill(
        self, documents: Iterable[bytes], keeping: Collection[int], descriptor: int
    ) -> tuple[NewFile, int]:
        """Fill and sync a new file; return it and the highest number."""
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
        """Yield these entries from the old file, provided that all are there."""
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
        """Close the file."""
        self._note.close()
        self._file.close()

    def reported(self, what: str) -> AbstractContextManager[None]:
        """Raise ``JournalError`` instead of ``OSError``, with what failed in the message."""
        return reported(self.path, what)


_ENTRIES: Final = frozenset({RecordKind.ENTRY, RecordKind.NEWER})
