"""The file beside a journal that keeps, once, what the journal could not use, for a person."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from ._records import Record, RecordKind, pack, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._disk import Disk

Why = Literal["damage", "entry"]

_MOST_IN_A_RECORD: Final = 8 * 1024 * 1024


class About(msgspec.Struct, frozen=True, kw_only=True):
    """Describes something that was set aside.

    Attributes:
        why: "damage": bytes that are not a record. "entry": a sound record, whose entry was not of
            its type or had no key.
        type: the type of that journal's entries.
        salt: the salt of that journal's records.
    """

    why: Why
    type: str
    salt: int


class Kept(NamedTuple):
    """Something that was set aside."""

    # The number of the entry; 0 for damage.
    number: int
    about: About
    # The entry as JSON, or the damage.
    content: bytes
    # All of it as it is in the file.
    raw: bytes


def pack_kept(number: int, about: About, content: bytes) -> list[bytes]:
    """Return the records for something that is set aside."""
    head = msgspec.json.encode(about)
    starts = range(0, len(content), _MOST_IN_A_RECORD)
    return [
        pack(RecordKind.ASIDE, number, b"%b\n%b" % (head, content[at : at + _MOST_IN_A_RECORD]))
        for at in starts
    ]


class AsideFile:
    """The file beside a journal. Every method may raise ``OSError``.

    Args:
        path: its path.
        disk: makes the system calls.
        create: creates a file for the owner of the journal.
        sync_directory: syncs its name to disk.
    """

    def __init__(
        self,
        path: str,
        disk: Disk,
        create: Callable[[str], int],
        sync_directory: Callable[[], None],
    ) -> None:
        self._path = path
        self._disk = disk
        self._create = create
        self._sync_directory = sync_directory

    def read(self) -> Iterator[Kept]:
        """Yield everything that was set aside, if anything was."""
        try:
            descriptor = self._disk.open(self._path, read_only=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            yield from self._read(descriptor)
        finally:
            self._disk.close(descriptor)

    def _read(self, descriptor: int) -> Iterator[Kept]:
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            some = self._disk.read(descriptor, count, position)
            position += len(some)
            return some

        for piece in pieces(read, 0):
            if isinstance(piece, Record) and piece.kind == RecordKind.ASIDE:
                head, _, content = piece.payload.partition(b"\n")
                about = msgspec.json.decode(head, type=About)
                yield Kept(piece.number, about, content, piece.raw)

    def add(self, records: Iterable[bytes]) -> None:
        """Add those of these records that are not there yet; all of them, or none."""
        known = {hashlib.sha256(kept.raw).digest() for kept in self.read()}
        new = (raw for raw in records if hashlib.sha256(raw).digest() not in known)
        first = next(new, None)
        if first is None:
            return
        is_new = self._disk.identity(self._path) is None
        descriptor = self._open_or_create(is_new=is_new)
        try:
            size = self._disk.size(descriptor)
            try:
                for raw in chain((first,), new):
                    write_all(self._disk, descriptor, raw)
                self._disk.sync(descriptor)
            except OSError:
                self._disk.truncate(descriptor, size)
                raise
        finally:
            self._disk.close(descriptor)
        if is_new:
            self._sync_directory()

    def _open_or_create(self, *, is_new: bool) -> int:
        if is_new:
            return self._create(self._path)
        descriptor = self._disk.open(self._path, read_only=False)
        self._disk.keep_private(descriptor)
        return descriptor

    def replace(self, records: Sequence[bytes]) -> None:
        """Replace everything by these records."""
        if not records:
            self._disk.remove(self._path)
            self._sync_directory()
            return
        new = f"{self._path}.new"
        descriptor = self._create(new)
        try:
            write_all(self._disk, descriptor, b"".join(records))
            self._disk.sync(descriptor)
        finally:
            self._disk.close(descriptor)
        self._disk.rename(new, self._path)
        self._sync_directory()


def write_all(disk: Disk, descriptor: int, data: bytes) -> int:
    """Write all of ``data``; a full disk takes a part of it before it fails."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(descriptor, rest) :]
    return len(data)
