"""The note beside a journal: the number of the last record that was known to be on disk."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ._records import Record, RecordKind, pack, pieces

if TYPE_CHECKING:
    from ._disk import Disk

_NONE: Final = -1  # no descriptor
_BYTES: Final = 1024  # more than it ever has


class LastNote:
    """Nothing else could tell that whole records are gone from the end of a journal.

    It is a hint: what can't be read is 0, and what can't be written is not.
    """

    def __init__(self, path: str, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._descriptor = _NONE

    def read(self, identity: str | None) -> int:
        """Return the number that was noted for this journal (None: for any), or 0."""
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
        """Note it, unsynced: it costs next to nothing, and is there after all but a power cut."""
        self._write(pack(RecordKind.LAST, number, identity.encode()))

    def wipe(self) -> None:
        """Note that nothing is known, on disk: an old note would be missing what is gone."""
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
        """Let go of it."""
        if self._descriptor != _NONE:
            with suppress(OSError):
                self._disk.close(self._descriptor)
        self._descriptor = _NONE
