"""The note beside a journal: the number of the last record known to be on disk."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ._records import Record, RecordKind, pack, pieces

if TYPE_CHECKING:
    from ._disk import Disk

# No descriptor.
_NONE: Final = -1
# More than the note ever has.
_BYTES: Final = 1024


class LastNote:
    """Shows whether whole records are missing at the end of a journal, which nothing else can.

    It is a hint: an unreadable note counts as 0, and one that can't be written is skipped.
    """

    def __init__(self, path: str, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._descriptor = _NONE

    def read(self, identity: str | None) -> int:
        """Return the number noted for this journal (None: for any), or 0."""
        with suppress(OSError):
            if self._disk.identity(self._path) is not None:
                descriptor = self._disk.open(self._path, read_only=True)
                data = self._disk.read(descriptor, _BYTES, 0)
                self._disk.close(descriptor)
                note = next(pieces(io.BytesIO(data).read, 0), None)
                if isinstance(note, Record) and identity in {None, note.payload.decode()}:
                    return note.number
        return 0

    def write(self, number: int, identity: str) -> None:
        """Note ``number`` without a sync: that costs little, and only a power cut loses it."""
        self._write(pack(RecordKind.LAST, number, identity.encode()))

    def wipe(self) -> None:
        """Note on disk that nothing is known, so that removed records are not reported as missing."""
        self._write(bytes(_BYTES))
        if self._descriptor != _NONE:
            with suppress(OSError):
                self._disk.sync(self._descriptor)

    def _write(self, data: bytes) -> None:
        with suppress(OSError):
            if self._descriptor == _NONE:
                self._descriptor = self._disk.open_note(self._path)
            self._disk.write_over(self._descriptor, data)

    def close(self) -> None:
        """Close the note."""
        if self._descriptor != _NONE:
            with suppress(OSError):
                self._disk.close(self._descriptor)
        self._descriptor = _NONE
