"""The bytes of a journal: independent records.

A file is ``MAGIC_LINE``, its beginning twice, and records. A record is a head of 28 bytes and a
payload. A journal's payloads are text, and the mark that begins every head is not UTF-8, so no
payload can look like a record. The checksums cover number, kind, length and payload, and are salted
with the file's identity, so bytes of another file are not records here. Numbers rise by one from
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
# The format of version 0.1.
FIRST_FORMAT: Final = 1
MOST_BEGINNING_BYTES: Final = 64 * 1024

_MARK: Final = b"\xf7pvj"
# Mark, kind, length, number, two checksums.
_HEAD: Final = struct.Struct("<4sIIQII")
# The beginning of what the first checksum covers.
_COVERED: Final = struct.Struct("<IIQ")
_CHUNK_BYTES: Final = 1024 * 1024
_RANGES_IN_A_RECORD: Final = 100_000


class RecordKind(enum.IntEnum):
    """The kind of a record.

    Attributes:
        BEGINNING: the format and the type of entries. Comes first, twice, with number 0 and no
            salt.
        ENTRY: an entry.
        NEWER: an entry that replaces the records named before it.
        SETTLED: which entries are settled. Always written twice, so that a flipped bit does not
            revive them.
        LAST: in a separate file, the number of the last record known to be on disk.
        HELD: which numbers the file began with. Other numbers up to its own are not missing.
        ASIDE: in a separate file, what was set aside.
    """

    BEGINNING = 0
    ENTRY = 1
    NEWER = 2
    SETTLED = 3
    LAST = 4
    HELD = 5
    ASIDE = 6


class Record(NamedTuple):
    """An intact record."""

    number: int
    kind: int
    payload: bytes
    # Offset in the file.
    at: int
    raw: bytes


class Damage(NamedTuple):
    """Bytes that are not a record."""

    raw: bytes
    at: int
    # Whether no record comes after them.
    at_end: bool


Piece: TypeAlias = Record | Damage


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the first record.

    Attributes:
        format: ``FORMAT`` of the program that created the file.
        identity: random; no other file has it.
        type: the name of the entries' class.
        table: the name of their table, if they are for a declared one.
        version: the version of that declaration.
    """

    format: int
    identity: str
    type: str
    table: str | None = None
    version: int = 0

    @property
    def salt(self) -> int:
        """The start value of the checksums of the file's records."""
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
        Its payload, the offset of the records after it, and whether all of it is intact; or None
        if there is no beginning.
    """
    found: Record | None = None
    times = 0
    for piece in pieces(io.BytesIO(data).read, 0):
        if isinstance(piece, Record) and piece.kind == RecordKind.BEGINNING:
            found = piece
            times += 1
        elif found is not None:
            break
    # At another place it is part of another file, such as an archive of journals.
    if found is None or found.at not in _places_of(found, times):
        return None
    sound = data.startswith(MAGIC_LINE + 2 * found.raw) and times > 1
    return found.payload, found.at + len(found.raw), sound


def _places_of(last: Record, times: int) -> tuple[int, ...]:
    """Return where the last copy of a beginning that was found ``times`` times may be."""
    second = len(MAGIC_LINE) + len(last.raw)
    return (second,) if times > 1 else (len(MAGIC_LINE), second)


def pack_held(last: int, numbers: Iterable[int], salt: int) -> bytes:
    """Return the records that state which numbers up to ``last`` a file begins with."""
    ranges = ranges_of(numbers)
    starts = range(0, max(1, len(ranges)), _RANGES_IN_A_RECORD)
    some = (msgspec.json.encode(ranges[at : at + _RANGES_IN_A_RECORD]) for at in starts)
    return b"".join(pack(RecordKind.HELD, last, payload, salt) for payload in some)


def pack_settled(number: int, settled: Iterable[int], salt: int) -> bytes:
    """Return the two records, ``number`` and the next one, that state what is settled."""
    payload = msgspec.json.encode(ranges_of(settled))
    first = pack(RecordKind.SETTLED, number, payload, salt)
    return first + pack(RecordKind.SETTLED, number + 1, payload, salt)


def pack_entry(number: int, document: bytes, replaces: Sequence[int], salt: int) -> bytes:
    """Return the record of an entry, which may replace others."""
    if not replaces:
        return pack(RecordKind.ENTRY, number, document, salt)
    named = msgspec.json.encode(ranges_of(replaces))
    return pack(RecordKind.NEWER, number, b"%b\n%b" % (named, document), salt)


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return ``numbers`` as ranges of first and last number."""
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
        ValueError: its payload is malformed.
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
    """Yield everything that ``read`` returns, in order, with at most one record in memory.

    Args:
        read: returns the next bytes, at most as many as asked for, and none at the end.
        at: the offset of the first byte.
        salt: the salt of the file, so that records of other files are not found.
    """
    window = _Window(read, at, salt)
    # Bytes before the window's position that are not part of a record.
    damaged = 0
    while window.fill(_HEAD.size):
        record = window.record()
        if record is None:
            step = window.to_next_mark()
            damaged += step
            window.skip(step)
            if damaged >= MOST_PAYLOAD_BYTES:
                # We never hold more than that of anything.
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
    """The part of a file that is in memory."""

    def __init__(self, read: Callable[[int], bytes], at: int, salt: int) -> None:
        self._read = read
        self._salt = salt
        self._bytes = b""
        # The position in the bytes.
        self._position = 0
        # The offset of the bytes in the file.
        self._at = at

    def left(self) -> int:
        return len(self._bytes) - self._position

    def fill(self, wanted: int) -> bool:
        """Read on; return whether ``wanted`` bytes follow the position."""
        while self.left() < wanted:
            more = self._read(max(_CHUNK_BYTES, wanted))
            if not more:
                return False
            self._bytes += more
        return True

    def skip(self, count: int) -> None:
        """Move on, but keep the bytes before the position."""
        self._position += count

    def drop(self, count: int) -> None:
        """Move on, and drop the bytes before the position once they are many."""
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
        """Return the distance to where the next record may begin, at least 1."""
        found = self._bytes.find(_MARK, self._position + 1)
        if found < 0:
            # The mark may begin in the last bytes.
            found = max(self._position + 1, len(self._bytes) - len(_MARK) + 1)
        return found - self._position

    def record(self) -> Record | None:
        """Return the record at the position, if there is one."""
        start = self._position
        mark, kind, length, number, checksum, heads = _HEAD.unpack_from(self._bytes, start)
        if (
            mark != _MARK
            # Checked before any of it is read.
            or length > MOST_PAYLOAD_BYTES
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
