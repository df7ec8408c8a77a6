"""The format of a message: one line of envelope, then one line for each entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
import trio

from provcache_trio._vocabulary.errors import EntryRejectedError
from provcache_trio._vocabulary.plurals import counted_entries
from provcache_trio._vocabulary.protocols import E
from provcache_trio._vocabulary.type_names import class_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from provcache_trio._vocabulary.table import Table

T = TypeVar("T")

FORMAT: Final = 1
_IN_A_STEP: Final = 250  # entries; they take a millisecond or two


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a message.

    Attributes:
        provcache: ``FORMAT`` of the program that sent it.
        of: the name of the declared table, or of the type, of its entries.
        count: the number of entries.
    """

    provcache: int
    of: str
    count: int


class UnreadableError(Exception):
    """This program can't read a message; the text says why, and quotes nothing."""


class Lines(tuple[bytes, ...]):
    """Encoded entries, one in each item."""

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

    async def encode(self, entries: Sequence[E]) -> Lines:
        """Return ``entries`` encoded, in their order.

        Other tasks run between steps of a millisecond or two.

        Raises:
            EntryRejectedError: an entry would not be read back unchanged; ``index`` says which one.
        """
        lines: list[bytes] = []
        for start in range(0, len(entries), _IN_A_STEP):
            if start:
                await trio.lowlevel.checkpoint()
            lines += self._lines_of(entries[start : start + _IN_A_STEP], start)
        return Lines(lines)

    def _lines_of(self, entries: Sequence[E], start: int) -> list[bytes]:
        try:
            encoded = self._encode(entries)
            # Here an entry is refused; later, its message would stop every relay.
            if self._reads_back(encoded, entries):
                return encoded.splitlines()
        except Exception:  # noqa: BLE001, S110  # whatever an entry's class raises: looked for below
            pass
        return [self._line_of(entry, start + at) for at, entry in enumerate(entries)]

    def _line_of(self, entry: E, index: int) -> bytes:
        name: str | None = None
        try:
            encoded = self._encode([entry])
            if self._reads_back(encoded, [entry]):
                return encoded[:-1]
        except Exception as error:  # noqa: BLE001  # whatever an entry's class raises
            name = type(error).__name__
        raise EntryRejectedError(
            f"the entry would not be read back from the stream as the {self.of} that it is",
            index=index,
            error_class=name,
        ) from None

    def _reads_back(self, encoded: bytes, entries: Sequence[E]) -> bool:
        values = self._values
        same = list(map(values, self._decode(encoded))) == list(map(values, entries))
        return same and all(isinstance(entry, self.entry_type) for entry in entries)

    def messages(self, lines: Lines, most_bytes: int) -> list[bytes]:
        """Return ``lines`` in as few messages as possible.

        Raises:
            EntryRejectedError: an entry does not fit into a message.
        """
        beginning = len(self._beginning(len(lines)))
        messages: list[bytes] = []
        first, size = 0, beginning
        for at, line in enumerate(lines):
            needs = len(line) + 1
            if beginning + needs > most_bytes:
                raise EntryRejectedError(
                    f"the entry is too large for a message of {most_bytes:,} bytes", index=at
                )
            if size + needs > most_bytes:
                messages.append(self._message(lines[first:at]))
                first, size = at, beginning
            size += needs
        messages.append(self._message(lines[first:]))
        return messages

    def _beginning(self, count: int) -> bytes:
        return msgspec.json.encode(Envelope(provcache=FORMAT, of=self.of, count=count)) + b"\n"

    def _message(self, lines: Sequence[bytes]) -> bytes:
        return self._beginning(len(lines)) + b"\n".join(lines) + b"\n"

    # Reading

    def decode(self, data: bytes) -> Iterator[Sequence[E]]:
        """Yield the entries of a message, some at a time; each step takes a millisecond or two.

        Raises:
            UnreadableError: this program can't read the message.
        """
        if not data.endswith(b"\n"):
            data += b"\n"
        head_ends = data.find(b"\n") + 1
        announced = self._envelope(data[:head_ends]).count
        # Counted before anything is decoded, which may take long.
        found = data.count(b"\n", head_ends)
        if found == announced:
            found = 0
            for some in _parts(data, head_ends):
                entries = self._entries(some)
                found += len(entries)
                yield entries
        if found != announced or not found:
            raise UnreadableError(f"{counted_entries(announced)} announced, {found} there")

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
        if envelope.provcache != FORMAT:
            raise UnreadableError(f"format {envelope.provcache} is not known here")
        if envelope.of != self.of:
            raise UnreadableError(f"entries of {envelope.of}, not of {self.of}")
        return envelope


def _parts(data: bytes, start: int) -> Iterator[memoryview]:
    """Yield the lines from ``start`` on, in parts that are decoded in one step each.

    To split them line by line would take a tenth as long as decoding them.
    """
    view = memoryview(data)
    while start < len(data):
        end = start
        for _ in range(_IN_A_STEP):
            end = data.find(b"\n", end) + 1
            if end == len(data):
                break
        yield view[start:end]
        start = end
