"""One journal, as a worker thread reads and writes it.

Order is all: what is appended was synced before ``append`` returns; a new file is synced, then
takes the place of the old one, then its name is synced. After anything failed, the file is not
trusted again: only ``rewrite``, into a new one, is left.
"""

from __future__ import annotations

import io
import os
import secrets
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from provcache_trio._vocabulary.errors import JournalError

from ._records import (
    MAGIC_LINE,
    Beginning,
    Damage,
    Kind,
    Record,
    document_in,
    pack,
    pack_entry,
    pack_settled,
    pieces,
    settled_by,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from ._disk import Disk, Identity

FORMAT: Final = 1
_WRITE_BYTES: Final = 1024 * 1024
_LONGEST_GAP: Final = 2**24  # numbers; each takes a byte while the file is read
_NONE: Final = -1  # no descriptor
_GROWTH_BYTES: Final = 16 * 1024 * 1024


class Findings(NamedTuple):
    """What was found in a file when it was opened."""

    entries: int  # to be replayed
    missing: list[tuple[int, int]]  # numbers, first and last, of records that are not there
    damaged_bytes: int
    unfinished_bytes: int  # of them, at the end, where a crash cuts a record off

    @property
    def only_unfinished(self) -> bool:
        """Whether nothing is wrong but what a crash does to the last record."""
        return not self.missing and self.damaged_bytes == self.unfinished_bytes

    @property
    def flawless(self) -> bool:
        """Whether nothing is wrong."""
        return not self.missing and not self.damaged_bytes


class JournalFile:
    """The file of one name; one caller at a time.

    Every method but ``close`` raises:
        JournalError: it could not be done.
    """

    def __init__(
        self, path: str, *, entry_type: str | None, disk: Disk, read_only: bool = False
    ) -> None:
        self._path = path
        self._directory = os.path.dirname(path)  # noqa: PTH120
        self.entry_type: str = entry_type or ""  # if it is not given: that of the file
        self._any_type = entry_type is None
        self._disk = disk
        self._read_only = read_only
        self._descriptor = _NONE
        self._identity: Identity | None = None
        self._home: Identity | None = None  # the directory
        self._trusted = False
        self._name = ""  # of what the file holds, so that no note is taken for another's
        self._note_descriptor = _NONE
        self._size = 0
        self._grown_at = 0  # the size from which on it should be rewritten
        self._last = 0  # number of the last record
        self._entries_at = 0  # where the first entry may be
        # By number, from ``_base`` on: whether it is an entry that is to be replayed.
        self._base = 1
        self._live = bytearray()
        self._replayer: Iterator[tuple[int, bytes]] = iter(())
        self._replay_end = 0  # as far as the file was read when it was opened
        self._replayed = 0  # number of the last entry that was returned
        self._page: list[tuple[int, bytes]] = []
        self._damaged_at: set[int] = set()  # offsets of what is no record, or can't be there

    @property
    def overgrown(self) -> bool:
        """Whether most of it is settled, and a new file would be a good deal smaller."""
        return self._size >= self._grown_at

    def open(self) -> Findings:
        """Open the file, or make it, and look at all of it."""
        with _reported("the journal can't be opened"):
            self._home = self._disk.identity(self._directory)
            self._identity = self._disk.identity(self._path)
            if self._identity is None:
                if self._read_only:
                    raise JournalError("there is no such journal")
                self.rewrite(())
                return Findings(0, [], 0, 0)
            self._descriptor = self._disk.open(self._path, read_only=self._read_only)
            if self._disk.identity_of(self._descriptor) != self._identity:
                raise JournalError("the journal was replaced while it was opened")
            findings = self._scan()
            self._trusted = not self._read_only
            # What is damaged goes away once everything else has been taken over.
            self._grown_at = _GROWTH_BYTES if findings.flawless else 0
            self._replay_end = self._size
            self._replayer = self._unsettled()
            if findings.damaged_bytes and not self._read_only:
                self._mend(findings)
        return findings

    def _scan(self) -> Findings:
        beginning = self._pieces(len(MAGIC_LINE))
        self._base = expected = self._read_beginning(beginning)
        # In this order, as whoever only looks does so while it grows: what is noted is in the
        # file, and what is written from now on is not looked at.
        noted = self._noted_last()
        records = self._pieces(self._entries_at, self._disk.size(self._descriptor))
        missing: list[tuple[int, int]] = []
        damaged = unfinished = 0
        for piece in records:
            if isinstance(piece, Damage) or not self._note(piece, expected):
                damaged += len(piece.raw)
                self._damaged_at.add(piece.at)
                unfinished = len(piece.raw) if isinstance(piece, Damage) and piece.at_end else 0
                continue
            if piece.number > expected:
                missing.append((expected, piece.number - 1))
            expected = piece.number + 1
        if noted >= expected:
            missing.append((expected, noted))
        self._last = max(expected - 1, noted)
        return Findings(sum(self._live), missing, damaged, unfinished)

    def _read_beginning(self, records: Iterator[Record | Damage]) -> int:
        if self._read(len(MAGIC_LINE), 0) != MAGIC_LINE:
            raise JournalError("the file is no journal, or its beginning is damaged")
        first = next(records, None)
        if not isinstance(first, Record) or first.kind != Kind.BEGINNING:
            raise JournalError("the beginning of the journal is damaged")
        self._entries_at = self._size = first.at + len(first.raw)
        try:
            number: int = msgspec.json.decode(first.payload)["format"]
        except Exception:  # noqa: BLE001  # whatever is in there
            raise JournalError("the beginning of the journal can't be read") from None
        if number != FORMAT:
            raise JournalError(
                f"the journal has format version {number}, and this program knows {FORMAT} only"
            )
        beginning = msgspec.json.decode(first.payload, type=Beginning)
        self._name = beginning.identity
        if self._any_type:
            self.entry_type = beginning.entry_type
        if beginning.entry_type != self.entry_type:
            raise JournalError(
                f"the journal holds entries of type {beginning.entry_type}, not {self.entry_type}"
            )
        return first.number + 1

    def _note(self, record: Record, expected: int) -> bool:
        """Note what ``record`` says; return whether it is one that can be here."""
        if not expected <= record.number < expected + _LONGEST_GAP or record.kind not in _KNOWN:
            return False
        try:
            ranges = settled_by(record)
        except (ValueError, msgspec.MsgspecError):
            return False
        live = self._live
        live.extend(bytes(record.number - self._base - len(live)))
        live.append(record.kind != Kind.SETTLED)
        for first, last in ranges:
            start = max(first - self._base, 0)
            count = min(last + 1 - self._base, record.number - self._base) - start
            if count > 0:
                live[start : start + count] = bytes(count)
        self._size = record.at + len(record.raw)
        return True

    def _noted_last(self) -> int:
        """Return the number of the last record that was known to be on disk, or 0.

        Nothing else could tell that whole records are gone from the end.
        """
        path = f"{self._path}.last"
        with suppress(OSError):
            if self._disk.identity(path) is not None:
                descriptor = self._disk.open(path, read_only=True)
                data = self._disk.read(descriptor, 1024, 0)
                self._disk.close(descriptor)
                note = next(pieces(io.BytesIO(data).read, 0), None)
                if isinstance(note, Record) and note.payload == self._name.encode():
                    return note.number
        return 0

    def _note_last(self) -> None:
        """Note it, unsynced: it costs next to nothing, and is there after all but a power cut."""
        with suppress(OSError):
            if self._note_descriptor == _NONE:
                self._note_descriptor = self._disk.open_note(f"{self._path}.last")
            data = pack(Kind.LAST, self._last, self._name.encode())
            self._disk.write_over(self._note_descriptor, data)

    def _mend(self, findings: Findings) -> None:
        """Keep a copy of what is no record, and cut it off where it is at the end."""
        for piece in self._pieces(self._entries_at):
            if piece.at in self._damaged_at:
                self._set_aside(piece.raw)
        if findings.unfinished_bytes:
            self._disk.truncate(self._descriptor, self._size)
            self._disk.sync(self._descriptor)

    def set_aside(self, number: int) -> None:
        """Keep a copy of an entry of the last page that is none of this type."""
        with _reported("a record can't be set aside"):
            for known, document in self._page:
                if known == number:
                    self._set_aside(pack_entry(number, document, ()))

    def _set_aside(self, raw: bytes) -> None:
        path = f"{self._path}.set-aside"
        is_new = self._disk.identity(path) is None
        descriptor = self._create(path) if is_new else self._disk.open(path, read_only=False)
        try:
            self._write(descriptor, raw)
            self._disk.sync(descriptor)
            if is_new:
                self._disk.sync_directory(self._directory)
        finally:
            self._disk.close(descriptor)

    def next_page(self, most: int) -> list[tuple[int, bytes]]:
        """Return the next entries that were not settled at the beginning, and their numbers."""
        with _reported("the journal can't be read"):
            try:
                self._page = list(islice(self._replayer, most))
            except BaseException:  # it has ended; the next try begins where this one did
                self._replayer = self._unsettled()
                raise
        if self._page:
            self._replayed = self._page[-1][0]
        return self._page

    def _unsettled(self) -> Iterator[tuple[int, bytes]]:
        last = max(self._replayed, self._base - 1)
        for piece in self._pieces(self._entries_at):
            if piece.at >= self._replay_end:
                return
            if isinstance(piece, Record) and last < piece.number < self._base + len(self._live):
                last = piece.number
                if self._live[last - self._base]:
                    yield last, document_in(piece)

    def append(self, entries: Sequence[tuple[bytes, Sequence[int]]], settled: Iterable[int]) -> int:
        """Have entries, and that others are settled, on disk; return the first one's number."""
        first = self._last + 1
        data = [
            pack_entry(first + index, document, replaces)
            for index, (document, replaces) in enumerate(entries)
        ]
        self._last += len(data)
        settled = tuple(settled)
        if settled:
            data.append(pack_settled(self._last + 1, settled))
            self._last += 2
        descriptor = self._usable()
        try:
            with _reported("the journal can't be written"):
                self._raise_if_replaced()
                self._size += self._write(descriptor, b"".join(data))
                self._disk.sync(descriptor)
        except BaseException:
            self._trusted = False
            raise
        self._note_last()
        return first

    def _raise_if_replaced(self) -> None:
        if self._disk.identity(self._path) != self._identity:
            raise JournalError("the journal was removed or replaced")

    def _usable(self) -> int:
        if not self._trusted:
            raise JournalError("the journal failed before and has to be written anew")
        return self._descriptor

    def rewrite(self, documents: Iterable[bytes]) -> int:
        """Begin anew with these entries; return the first one's number.

        Whatever else the journal held is forgotten, in the moment in which the new file takes
        the old one's place.
        """
        self._grown_at = max(self._grown_at, 2 * self._size)  # should this one fail
        with _reported("the journal can't be written anew"):
            if self._home is None or self._disk.identity(self._directory) != self._home:
                raise JournalError("the journal's directory is gone, or is another one")
            new = f"{self._path}.new"
            descriptor = self._create(new)
            try:
                filled = self._fill(descriptor, documents)
                self._disk.sync(descriptor)
                identity = self._disk.identity_of(descriptor)
                self._trusted = False  # until the name is safe
                self._disk.rename(new, self._path)
            except BaseException:
                self._disk.close(descriptor)
                with suppress(OSError):
                    self._disk.remove(new)
                raise
            old, self._descriptor, self._identity = self._descriptor, descriptor, identity
            self._take(filled)
            if old != _NONE:
                self._disk.close(old)
            self._disk.sync_directory(self._directory)
            self._trusted = True
            self._note_last()
            self._grown_at = _GROWTH_BYTES + 2 * filled.size
        return filled.first

    def _create(self, path: str) -> int:
        """Make a file for whoever owns the journal, though root may be at work."""
        descriptor = self._disk.create(path)
        if self._descriptor != _NONE:
            self._disk.give(descriptor, self._descriptor)
        return descriptor

    def _fill(self, descriptor: int, documents: Iterable[bytes]) -> _Filled:
        name = secrets.token_hex(8)
        beginning = Beginning(format=FORMAT, entry_type=self.entry_type, identity=name)
        number = self._last + 1
        buffer = [MAGIC_LINE, pack(Kind.BEGINNING, number, msgspec.json.encode(beginning))]
        buffered = begins_with = sum(map(len, buffer))
        size = 0
        for document in documents:
            number += 1
            packed = pack_entry(number, document, ())
            buffer.append(packed)
            buffered += len(packed)
            if buffered >= _WRITE_BYTES:
                size += self._write(descriptor, b"".join(buffer))
                buffer.clear()
                buffered = 0
        size += self._write(descriptor, b"".join(buffer))
        return _Filled(self._last + 2, number, size, begins_with, name)

    def _take(self, filled: _Filled) -> None:
        self._base, self._last = filled.first, filled.last
        self._size, self._entries_at, self._name = filled.size, filled.entries_at, filled.name
        self._live = bytearray()
        self._replayer, self._page = iter(()), []

    def close(self) -> None:
        """Let go of the file."""
        for descriptor in (self._descriptor, self._note_descriptor):
            if descriptor != _NONE:
                with suppress(OSError):
                    self._disk.close(descriptor)
        self._descriptor = self._note_descriptor = _NONE
        self._trusted = False
        self._home = None  # whoever owns it next has it to itself

    def _pieces(self, at: int, end: int | None = None) -> Iterator[Record | Damage]:
        position = at

        def read(count: int) -> bytes:
            nonlocal position
            some = self._read(count if end is None else min(count, end - position), position)
            position += len(some)
            return some

        return pieces(read, at)

    def _read(self, count: int, at: int) -> bytes:
        return self._disk.read(self._descriptor, count, at)

    def _write(self, descriptor: int, data: bytes) -> int:
        """Write all of ``data``; a disk that is full takes a part of it before it says so."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._disk.write(descriptor, rest) :]
        return len(data)


class _Filled(NamedTuple):
    """What a new file holds."""

    first: int  # number of the first entry
    last: int
    size: int
    entries_at: int
    name: str


_KNOWN: Final = frozenset({Kind.ENTRY, Kind.NEWER, Kind.SETTLED})


@contextmanager
def _reported(what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise JournalError(f"{what}: {reason}") from None
