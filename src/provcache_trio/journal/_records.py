"""The bytes of a journal: records that stand alone, so that none depends on another.

A file is ``MAGIC_LINE``, its beginning twice, and records. A record is a head of 28 bytes and a
payload. A journal's payloads are text: the mark that begins every head is no UTF-8, so none of
them can look like a record. The checksums cover number, kind, length and payload, and are salted
with the file's identity: bytes of another file are no records here. Numbers go up by one from
record to record, so that a missing one is noticed.
"""

from __future__ import annotations

import enum
import io
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAGIC_LINE: Final = b"provcache journal\n"
MOST_PAYLOAD_BYTES: Final = 16 * 1024 * 1024
FORMAT: Final = 2
FIRST_FORMAT: Final = 1  # of version 0.1
MOST_BEGINNING_BYTES: Final = 64 * 1024

_MARK: Final = b"\xf7pvj"
_HEAD: Final = struct.Struct("<4sIIQII")  # mark, kind, length, number, two checksums
_COVERED: Final = struct.Struct("<IIQ")  # what the first checksum begins with
_CHUNK_BYTES: Final = 1024 * 1024
_RANGES_IN_A_RECORD: Final = 100_000


class RecordKind(enum.IntEnum):
    """What a record says.

    Attributes:
        BEGINNING: format, and what the entries are. Comes first, twice, with number 0 and no salt.
        ENTRY: an entry.
        NEWER: an entry that takes the place of records which are named before it.
        SETTLED: which entries are settled. Always there twice, so that a flipped bit does
            not bring them back.
        LAST: in a file of its own, the number of the last record that was known to be on disk.
        HELD: which numbers the file began with. The others up to its own are not missing.
        ASIDE: in a file of its own, what was set aside.
    """

    BEGINNING = 0
    ENTRY = 1
    NEWER = 2
    SETTLED = 3
    LAST = 4
    HELD = 5
    ASIDE = 6


class Record(NamedTuple):
    """A record that is as it was written."""

    number: int
    kind: int
    payload: bytes
    at: int  # offset in the file
    raw: bytes


class Damage(NamedTuple):
    """Bytes that are no record."""

    raw: bytes
    at: int
    at_end: bool  # no record comes after them


Piece: TypeAlias = Record | Damage


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the first record.

    Attributes:
        format: ``FORMAT`` of the program that made the file.
        identity: random; no other file has it.
        type: name of the entries' class.
        table: name of the table that they are for, if they are for a declared one.
        version: of that declaration.
    """

    format: int
    identity: str
    type: str
    table: str | None = None
    version: int = 0

    @property
    def salt(self) -> int:
        """Return what the checksums of the file's records begin with."""
        return crc32(self.identity.encode())


def pack(kind: RecordKind, number: int, payload: bytes, salt: int = 0) -> bytes:
    """Return a record."""
    length = len(payload)
    checksum = crc32(payload, crc32(_COVERED.pack(kind, length, number), salt))
    head = _HEAD.pack(_MARK, kind, length, number, checksum, 0)[:-4]
    return b"%b%b%b" % (head, crc32(head, salt).to_bytes(4, "little"), payload)


def pack_beginning(beginning: Beginning) -> bytes:
    """Return the first bytes of a file."""
    return MAGIC_LINE + 2 * pack(RecordKind.BEGINNING, 0, msgspec.json.encode(beginning))


def read_beginning(data: bytes) -> tuple[bytes, int, bool] | None:
    """Look for a beginning in the first bytes of a file.

    Returns:
        Its payload, where the records after it begin, and whether all of it is as it was written.
        None if there is no beginning.
    """
    found: Record | None = None
    times = 0
    for piece in pieces(io.BytesIO(data).read, 0):
        if isinstance(piece, Record) and piece.kind == RecordKind.BEGINNING:
            found = piece
            times += 1
        elif found is not None:
            break
    # Elsewhere it is a part of something else, such as an archive of journals.
    if found is None or found.at not in _places_of(found, times):
        return None
    sound = data.startswith(MAGIC_LINE + 2 * found.raw) and times > 1
    return found.payload, found.at + len(found.raw), sound


def _places_of(last: Record, times: int) -> tuple[int, ...]:
    """Return where the last one of a beginning may be that was found so many times."""
    second = len(MAGIC_LINE) + len(last.raw)
    return (second,) if times > 1 else (len(MAGIC_LINE), second)


def pack_held(last: int, numbers: Iterable[int], salt: int) -> bytes:
    """Return the records that say which numbers up to ``last`` a file begins with."""
    ranges = ranges_of(numbers)
    starts = range(0, max(1, len(ranges)), _RANGES_IN_A_RECORD)
    some = (msgspec.json.encode(ranges[at : at + _RANGES_IN_A_RECORD]) for at in starts)
    return b"".join(pack(RecordKind.HELD, last, payload, salt) for payload in some)


def pack_settled(number: int, settled: Iterable[int], salt: int) -> bytes:
    """Return the two records, ``number`` and the next, that say what is settled."""
    payload = msgspec.json.encode(ranges_of(settled))
    first = pack(RecordKind.SETTLED, number, payload, salt)
    return first + pack(RecordKind.SETTLED, number + 1, payload, salt)


def pack_entry(number: int, document: bytes, replaces: Sequence[int], salt: int) -> bytes:
    """Return the record of an entry, which may take the place of others."""
    if not replaces:
        return pack(RecordKind.ENTRY, number, document, salt)
    named = msgspec.json.encode(ranges_of(replaces))
    return pack(RecordKind.NEWER, number, b"%b\n%b" % (named, document), salt)


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return ``numbers`` as ranges, first and last."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and number <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


_ranges_in: Final = msgspec.json.Decoder(list[tuple[int, int]]).decode


def ranges_in(record: Record) -> list[tuple[int, int]]:
    """Return the ranges of numbers that ``record`` names: settled, replaced, or held.

    Raises:
        ValueError: its payload is none of ours.
    """
    if record.kind in {RecordKind.SETTLED, RecordKind.HELD}:
        return _ranges_in(record.payload)
    if record.kind == RecordKind.NEWER:
        return _ranges_in(record.payload.partition(b"\n")[0])
    return []


def document_in(record: Record) -> bytes:
    """Return the entry of a record that holds one, as JSON."""
    if record.kind == RecordKind.NEWER:
        return record.payload.partition(b"\n")[2]
    return record.payload


def pieces(read: Callable[[int], bytes], at: int, salt: int = 0) -> Iterator[Piece]:
    """Yield everything that ``read`` gives, in order; never more than a record in memory.

    Args:
        read: returns at most so many of the next bytes, and none at the end.
        at: offset of the first of them.
        salt: that of the file; no record of another one is found.
    """
    window = _Window(read, at, salt)
    damaged = 0  # how many bytes before the window's position are no record
    while window.fill(_HEAD.size):
        record = window.record()
        if record is None:
            step = window.to_next_mark()
            damaged += step
            window.skip(step)
            if damaged >= MOST_PAYLOAD_BYTES:  # as much as we hold of anything
                yield window.damage(damaged, at_end=False)
                window.drop(0)
                damaged = 0
            continue
        if damaged:
            yield window.damage(damaged, at_end=False)
            damaged = 0
        yield record
        window.drop(len(record.raw))
    damaged += window.left()
    if damaged:
        window.skip(window.left())
        yield window.damage(damaged, at_end=True)


class _Window:
    """The part of a file that is looked at."""

    def __init__(self, read: Callable[[int], bytes], at: int, salt: int) -> None:
        self._read = read
        self._salt = salt
        self._bytes = b""
        self._position = 0  # in the bytes
        self._at = at  # offset of the bytes in the file

    def left(self) -> int:
        return len(self._bytes) - self._position

    def fill(self, wanted: int) -> bool:
        """Whether ``wanted`` bytes are here from the position on."""
        while self.left() < wanted:
            more = self._read(max(_CHUNK_BYTES, wanted))
            if not more:
                return False
            self._bytes += more
        return True

    def skip(self, count: int) -> None:
        """Go on, but keep what was passed."""
        self._position += count

    def drop(self, count: int) -> None:
        """Go on, and forget what was passed, once that is much."""
        self._position += count
        if self._position >= _CHUNK_BYTES:
            self._at += self._position
            self._bytes = self._bytes[self._position :]
            self._position = 0

    def damage(self, count: int, *, at_end: bool) -> Damage:
        """Return the bytes before the position."""
        start = self._position - count
        raw = self._bytes[start : self._position]
        return Damage(raw, self._at + start, at_end)

    def to_next_mark(self) -> int:
        """Return how far it is to where a record may begin, at least 1."""
        found = self._bytes.find(_MARK, self._position + 1)
        if found < 0:  # but the mark may begin in the last bytes
            found = max(self._position + 1, len(self._bytes) - len(_MARK) + 1)
        return found - self._position

    def record(self) -> Record | None:
        """Return the record at the position, if there is one."""
        start = self._position
        mark, kind, length, number, checksum, heads = _HEAD.unpack_from(self._bytes, start)
        if (
            mark != _MARK
            or length > MOST_PAYLOAD_BYTES  # before any of it is read
            or crc32(self._bytes[start : start + _HEAD.size - 4], self._salt) != heads
            or not self.fill(_HEAD.size + length)
        ):
            return None
        start = self._position
        end = start + _HEAD.size + length
        payload = self._bytes[start + _HEAD.size : end]
        if crc32(payload, crc32(_COVERED.pack(kind, length, number), self._salt)) != checksum:
            return None
        return Record(number, kind, payload, self._at + start, self._bytes[start:end])
