"""The format of a message: one line of envelope, then the entries, one in each line.

In a message of some size the lines are compressed (format 2): names of fields, and hashes in
hexadecimal, take several times the space, on every disk of the stream and between its servers, that their
content needs. Small messages (format 1) stay as they are.
"""

from __future__ import annotations

import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import msgspec
import trio

from provcache_trio._vocabulary.entries import ProvcacheEntry
from provcache_trio._vocabulary.errors import unfit
from provcache_trio._vocabulary.plurals import counted_entries
from provcache_trio._vocabulary.protocols import E
from provcache_trio._vocabulary.type_names import class_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from provcache_trio._vocabulary.table import Table

T = TypeVar("T")

PLAIN: Final = 1
COMPRESSED: Final = 2  # the lines are one or more streams of zlib, each of whole lines
# Entries. In shorter steps, answers are seen earlier, and the next batch is under way earlier.
_ENCODED_IN_A_STEP: Final = 64  # they take a quarter of a millisecond
DECODED_IN_A_STEP: Final = 125  # they take half of one
_LEVEL: Final = 1  # the higher ones take two or three times as long, and save little
_WORTH_IT: Final = 4096  # bytes
_MOST_IN_A_PIECE: Final = 256 * 1024  # bytes, but for a line that is longer
_MOST_BYTES: Final = 64 * 1024 * 1024  # the largest payload that a server can be set to


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a message.

    Attributes:
        provcache: the format of what follows.
        of: the name of the declared table, or of the type, of its entries.
        count: the number of entries.
    """

    provcache: int
    of: str
    count: int


class UnreadableError(Exception):
    """This program can't read a message; the text says why, and quotes nothing."""


class Piece(NamedTuple):
    """Some encoded entries, of which a message holds all or none.

    Attributes:
        first: the index of the first of them in the batch.
        number: how many they are.
        lines: what they are encoded to.
        packed: the same, compressed; empty: that is not worth it.
    """

    first: int
    number: int
    lines: bytes
    packed: bytes


class Encoded(tuple[Piece, ...]):
    """Encoded entries, in their order."""

    __slots__ = ()


def _itself(entry: T) -> T:
    return entry


class Codec(Generic[E]):
    """Encodes entries into messages, and decodes messages into entries.

    Args:
        table: the declared table of the entries; None: they are ``ProvcacheEntry``.
    """

    def __init__(self, table: Table[E] | None) -> None:
        self.entry_type: type[E] = class_of(table)
        self.of: str = name_of(self.entry_type) if table is None else f"table {table.name}"
        self._encode = msgspec.json.Encoder().encode_lines
        self._decode = msgspec.json.Decoder(self.entry_type).decode_lines
        # Not all classes compare by the values of their fields.
        self._values: Callable[[Any], object] = _itself if table is None else table.values

    # Writing

    async def encode(self, entries: Sequence[E]) -> Encoded:
        """Return ``entries`` encoded, in their order.

        Other tasks run between steps of a fraction of a millisecond.

        Raises:
            EntryRejectedError: an entry would not be read back unchanged; ``index`` says which one.
        """
        pieces: list[Piece] = []
        for start in range(0, len(entries), _ENCODED_IN_A_STEP):
            if start:
                await trio.lowlevel.checkpoint()
            some = entries[start : start + _ENCODED_IN_A_STEP]
            lines = self._lines_of(some, start)
            whole = Piece(start, len(some), lines, b"")
            for piece in _cut(whole, _MOST_IN_A_PIECE):
                if piece.first > start:
                    await trio.lowlevel.checkpoint()
                worth_it = len(piece.lines) >= _WORTH_IT
                pieces.append(piece._replace(packed=_compress(piece.lines)) if worth_it else piece)
        return Encoded(pieces)

    def _lines_of(self, entries: Sequence[E], start: int) -> bytes:
        try:
            encoded = self._encode(entries)
            # Here an entry is refused; later, its message would stop every relay.
            if self._are_sure(entries) or self._reads_back(encoded, entries):
                return encoded
        except Exception:  # noqa: BLE001, S110  # whatever an entry's class raises: looked for below
            pass
        return b"".join([self._line_of(entry, start + at) for at, entry in enumerate(entries)])

    def _line_of(self, entry: E, index: int) -> bytes:
        name: str | None = None
        try:
            encoded = self._encode([entry])
            if self._are_sure([entry]) or self._reads_back(encoded, [entry]):
                return encoded
        except Exception as error:  # noqa: BLE001  # whatever an entry's class raises
            name = type(error).__name__
        raise unfit(
            f"the entry would not be read back from the stream as the {self.of} that it is",
            index=index,
            error_class=name,
        ) from None

    def _are_sure(self, entries: Sequence[E]) -> bool:
        """Return whether they are read back unchanged because they could be constructed.

        To decode them would cost more than all the rest of what a producer does.
        """
        return self.entry_type is ProvcacheEntry and {*map(type, entries)} == {ProvcacheEntry}

    def _reads_back(self, encoded: bytes, entries: Sequence[E]) -> bool:
        values = self._values
        same = list(map(values, self._decode(encoded))) == list(map(values, entries))
        return same and all(isinstance(entry, self.entry_type) for entry in entries)

    def messages(self, encoded: Encoded, most_bytes: int) -> list[bytes]:
        """Return what is encoded in messages, each of which has at most that size before compression.

        Raises:
            EntryRejectedError: an entry does not fit into a message.
        """
        # No message has more entries, or a longer beginning.
        longest = len(self._beginning(PLAIN, sum(piece.number for piece in encoded)))
        room = max(most_bytes - longest, 0)
        messages: list[bytes] = []
        together: list[Piece] = []
        size = 0
        for piece in chain.from_iterable(_cut(piece, room) for piece in encoded):
            if len(piece.lines) > room:
                raise unfit(
                    f"the entry is too large for a message of {most_bytes:,} bytes",
                    index=piece.first,
                )
            if size + len(piece.lines) > room:
                messages.append(self._message(together, size))
                together, size = [], 0
            together.append(piece)
            size += len(piece.lines)
        if together:  # no entries are no message
            messages.append(self._message(together, size))
        return messages

    def _message(self, pieces: Sequence[Piece], size: int) -> bytes:
        count = sum(piece.number for piece in pieces)
        if size >= _WORTH_IT:
            packed = [piece.packed or _compress(piece.lines) for piece in pieces]
            if sum(map(len, packed)) < size:
                return b"".join([self._beginning(COMPRESSED, count), *packed])
        return b"".join([self._beginning(PLAIN, count), *(piece.lines for piece in pieces)])

    def _beginning(self, form: int, count: int) -> bytes:
        return msgspec.json.encode(Envelope(provcache=form, of=self.of, count=count)) + b"\n"

    # Reading

    def decode(self, data: bytes) -> Iterator[Sequence[E]]:
        """Yield the entries of a message, some at a time; each step takes about half a millisecond.

        Raises:
            UnreadableError: this program can't read the message.
        """
        head_ends = data.find(b"\n") + 1
        envelope = self._envelope(data[:head_ends])
        is_plain = envelope.provcache == PLAIN
        found = 0
        for lines, start in ((data, head_ends),) if is_plain else _unpacked(data, head_ends):
            for some, count in _parts(lines, start):
                entries = self._entries(some)
                found += len(entries)
                if len(entries) < count:
                    raise UnreadableError("an empty line")
                yield entries
        if found != envelope.count or not found:
            raise UnreadableError(f"{counted_entries(envelope.count)} announced, {found} there")

    def _entries(self, lines: memoryview) -> Sequence[E]:
        try:
            return self._decode(lines)
        except Exception as error:  # noqa: BLE001  # some of it is the check of somebody's type
            name = type(error).__name__
            raise UnreadableError(f"an entry is no {self.of} ({name})") from None

    def _envelope(self, head: bytes) -> Envelope:
        try:
            envelope = msgspec.json.decode(head, type=Envelope)
        except msgspec.MsgspecError:
            raise UnreadableError("no envelope") from None
        if envelope.provcache not in (PLAIN, COMPRESSED):
            raise UnreadableError(f"format {envelope.provcache} is not known here")
        if envelope.of != self.of:
            raise UnreadableError(f"entries of {envelope.of}, not of {self.of}")
        return envelope


def as_lines(data: bytes) -> bytes:
    """Return a message as people and ``provcache ingest`` read it; if it can't be read, as it is."""
    head_ends = data.find(b"\n") + 1
    try:
        envelope = msgspec.json.decode(data[:head_ends], type=Envelope)
        if envelope.provcache != COMPRESSED:
            return data
        lines = b"".join([some for some, _ in _unpacked(data, head_ends)])
    except (msgspec.MsgspecError, UnreadableError):
        return data
    plain = msgspec.structs.replace(envelope, provcache=PLAIN)
    return msgspec.json.encode(plain) + b"\n" + lines


def _compress(lines: bytes) -> bytes:
    return zlib.compress(lines, _LEVEL)


def _unpacked(data: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield what is compressed in ``data`` from ``start`` on, stream by stream, each from 0 on."""
    rest: bytes | memoryview = memoryview(data)[start:]
    while rest:
        stream = zlib.decompressobj()
        try:
            lines = stream.decompress(rest, _MOST_BYTES)
        except zlib.error:
            raise UnreadableError("what is compressed is damaged") from None
        if not stream.eof:
            raise UnreadableError("what is compressed is cut off, or too large")
        yield lines, 0
        rest = stream.unused_data


def _cut(piece: Piece, most: int) -> Iterator[Piece]:
    """Yield ``piece``, or cut it into some that have at most ``most`` bytes; but no line is cut."""
    lines = piece.lines
    start, first = 0, piece.first
    while len(lines) - start > most:
        end = lines.rfind(b"\n", start, start + most) + 1 or lines.find(b"\n", start + most) + 1
        some = lines[start:end]
        number = some.count(b"\n")
        yield Piece(first, number, some, b"")
        start, first = end, first + number
    if start == 0:
        yield piece
    elif start < len(lines):
        yield Piece(first, piece.first + piece.number - first, lines[start:], b"")


def _parts(lines: bytes, start: int) -> Iterator[tuple[memoryview, int]]:
    """Yield the lines from ``start`` on, in parts that are decoded in one step each, and their number.

    To split them line by line would take a tenth as long as decoding them.
    """
    if not lines.endswith(b"\n"):
        lines += b"\n"
    view = memoryview(lines)
    while start < len(lines):
        end, count = start, 0
        while count < DECODED_IN_A_STEP and end < len(lines):
            end = lines.find(b"\n", end) + 1
            count += 1
        yield view[start:end], count
        start = end
