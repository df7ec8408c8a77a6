"""A new file for a journal, before it replaces the old one."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from ._aside import write_all
from ._numbers import Live
from ._records import FORMAT, Beginning, pack_beginning, pack_entry, pack_held

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._disk import Disk

_WRITE_BYTES: Final = 1024 * 1024


class NewFile:
    """A file that is filled from front to back; every method may raise ``OSError``.

    Attributes:
        beginning: its first record.
        begins_with: how many bytes precede the record that states which numbers it holds.
        size: its length in bytes once it is finished.
        live: its entries.
    """

    def __init__(self, disk: Disk, descriptor: int, entry_type: str) -> None:
        self._disk = disk
        self._descriptor = descriptor
        self._buffer: list[bytes] = []
        self._buffered = 0
        self.beginning = Beginning(format=FORMAT, identity=secrets.token_hex(8), type=entry_type)
        self.begins_with: int = 0
        self.size: int = 0
        self.live = Live()

    def begin(self, last: int, numbers: Iterable[int]) -> None:
        """Write which numbers up to ``last`` the file will hold."""
        self._add(pack_beginning(self.beginning))
        self.begins_with = self.size
        self._add(pack_held(last, numbers, self.beginning.salt))

    def put(self, number: int, document: bytes) -> None:
        """Add an entry; numbers must ascend."""
        packed = pack_entry(number, document, (), self.beginning.salt)
        self.live.add(number, len(packed))
        self._add(packed)

    def _add(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered += len(data)
        self.size += len(data)
        if self._buffered >= _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        write_all(self._disk, self._descriptor, b"".join(self._buffer))
        self._buffer.clear()
        self._buffered = 0

    def finish(self) -> None:
        """Sync all of it to disk."""
        self._write()
        self._disk.sync(self._descriptor)
