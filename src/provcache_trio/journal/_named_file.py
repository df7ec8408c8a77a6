"""The file with a journal's name: appended to, cut off, and replaced by a new one.

The order matters: ``extend`` returns only after a sync; a new file is synced, then replaces the old
one, then its name is synced. After a failed sync, the file is not trusted again. A failed write is
cut back, so that the file is as before.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from provcache_trio._vocabulary.errors import JournalError

from ._aside import write_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._disk import Disk, Identity

T = TypeVar("T")

# No descriptor.
_NONE: Final = -1


class NamedFile:
    """A file under its name; every method except ``close`` may raise ``OSError``.

    Attributes:
        path: its path.
        end: where the next record goes.
        trusted: whether records can be appended without a repair.
    """

    def __init__(self, path: str, disk: Disk) -> None:
        self.path = path
        self.end: int = 0
        self.trusted: bool = False
        self._directory = os.path.dirname(path)  # noqa: PTH120
        self._disk = disk
        self._descriptor = _NONE
        self._identity: Identity | None = None
        # The identity of its directory.
        self._home: Identity | None = None

    def open(self, *, read_only: bool) -> bool:
        """Open the file, and change nothing; return whether it exists.

        Raises:
            JournalError: the file was replaced meanwhile.
        """
        self._home = self._disk.identity(self._directory)
        self._identity = self._disk.identity(self.path)
        if self._identity is None:
            return False
        self._descriptor = self._disk.open(self.path, read_only=read_only)
        if self._disk.identity_of(self._descriptor) != self._identity:
            raise JournalError(f"journal {self.path} was replaced while it was opened; try again")
        return True

    def size(self) -> int:
        """Return how many bytes it has."""
        return self._disk.size(self._descriptor)

    def keep_private(self) -> None:
        """Make the file readable for its owner only."""
        self._disk.keep_private(self._descriptor)

    def read(self, count: int, at: int) -> bytes:
        """Return some of the bytes at offset ``at``; none at the end."""
        return self._disk.read(self._descriptor, count, at)

    def is_in_place(self) -> bool:
        """Return whether the open file is still the one with the name."""
        return self._descriptor != _NONE and self._disk.identity(self.path) == self._identity

    def free(self) -> int:
        """Return how many bytes may still be written to its volume."""
        return self._disk.free(self._directory)

    def extend(self, data: bytes) -> None:
        """Write ``data`` at the end and sync it, or leave the file as it was.

        Raises:
            JournalError: the file was removed or replaced.
        """
        self._raise_if_replaced()
        try:
            write_all(self._disk, self._descriptor, data)
        except BaseException:
            self.trusted = False
            self._disk.truncate(self._descriptor, self.end)
            self.trusted = True
            raise
        # Until the sync has succeeded.
        self.trusted = False
        self._disk.sync(self._descriptor)
        self.trusted = True
        self.end += len(data)

    def _raise_if_replaced(self) -> None:
        if not self.is_in_place():
            self.trusted = False
            raise JournalError(f"journal {self.path} was removed or replaced; it is made anew")

    def cut(self, size: int) -> None:
        """Cut the file off at ``size``, which needs no room."""
        self.trusted = False
        self._disk.truncate(self._descriptor, size)
        self.end = size
        self._disk.sync(self._descriptor)
        self.trusted = True

    def create(self, path: str) -> int:
        """Create another file with the owner of this one, even when running as root."""
        descriptor = self._disk.create(path)
        if self._descriptor != _NONE:
            self._disk.give(descriptor, self._descriptor)
        return descriptor

    def replace(self, fill: Callable[[int], T]) -> T:
        """Replace the file by a new one, which is safe once ``sync_name`` has returned.

        Args:
            fill: fills and syncs a new file, by its descriptor.

        Returns:
            What ``fill`` returned.

        Raises:
            JournalError: the directory was removed.
        """
        if self._home is None or self._disk.identity(self._directory) != self._home:
            raise JournalError(
                f"the directory of journal {self.path} is gone, or is another one; mount it again"
            )
        path = f"{self.path}.new"
        descriptor = self.create(path)
        try:
            filled = fill(descriptor)
            identity = self._disk.identity_of(descriptor)
            # Until the name is synced.
            self.trusted = False
            self._disk.rename(path, self.path)
        except BaseException:
            self._disk.close(descriptor)
            with suppress(OSError):
                self._disk.remove(path)
            raise
        self._let_go()
        self._descriptor, self._identity = descriptor, identity
        return filled

    def sync_name(self) -> None:
        """Sync the file's name to disk."""
        self._disk.sync_directory(self._directory)
        self.trusted = True

    def close(self) -> None:
        """Close the file."""
        self._let_go()
        self.trusted = False
        # The next owner has the directory to itself.
        self._home = None

    def _let_go(self) -> None:
        if self._descriptor != _NONE:
            with suppress(OSError):
                self._disk.close(self._descriptor)
        self._descriptor = _NONE
