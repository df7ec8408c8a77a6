"""The system calls of a journal, behind one class so that tests can make each of them fail."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from provcache_trio._disk.private_files import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable

# Device and number, which identify a file.
Identity = tuple[int, int]


# Not every system has fdatasync, which is cheaper because it does not sync times.
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Disk:
    """The real disk. Every method may raise ``OSError``."""

    def create(self, path: str) -> int:
        """Create a file that only its owner may read, replacing a leftover; open it."""
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        # Independent of the umask.
        os.fchmod(descriptor, 0o600)
        return descriptor

    def open(self, path: str, *, read_only: bool) -> int:
        """Open an existing file, and change nothing; no link is followed."""
        access = os.O_RDONLY if read_only else os.O_RDWR | os.O_APPEND
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError("it is no regular file")
        return descriptor

    def keep_private(self, descriptor: int) -> None:
        """Make an open file readable for its owner only."""
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)

    def open_note(self, path: str) -> int:
        """Open a file that is overwritten again and again; create it if it is missing."""
        # It is not truncated: on a full disk, only a file that has a block can be written.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(path, flags, 0o600)

    def write_over(self, descriptor: int, data: bytes) -> None:
        """Write ``data`` at the beginning."""
        os.pwrite(descriptor, data, 0)

    def read(self, descriptor: int, count: int, at: int) -> bytes:
        """Return some of the bytes at offset ``at``; none at the end."""
        return os.pread(descriptor, count, at)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write some of ``data`` at the end; return how much."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file off at ``size``."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Return once everything written is on the disk."""
        _sync(descriptor)

    def size(self, descriptor: int) -> int:
        """Return how many bytes an open file has."""
        return os.fstat(descriptor).st_size

    def free(self, path: str) -> int:
        """Return how many bytes may still be written to the volume that ``path`` is on."""
        volume = os.statvfs(path)
        return volume.f_bavail * volume.f_frsize

    def give(self, descriptor: int, like: int) -> None:
        """Give a new file to the owner of an open one, who has to use it later."""
        owner, ours = os.fstat(like), os.fstat(descriptor)
        if (owner.st_uid, owner.st_gid) != (ours.st_uid, ours.st_gid):
            # Only root may do that; others keep the file as it is.
            with suppress(PermissionError):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)  # noqa: PTH108

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing another one."""
        os.rename(old, new)  # noqa: PTH104

    def sync_directory(self, path: str) -> None:
        """Return once the names in a directory are on the disk."""
        sync_directory(path)

    def identity(self, path: str) -> Identity | None:
        """Return the identity of the file of this name, or None if there is none."""
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_dev, status.st_ino

    def identity_of(self, descriptor: int) -> Identity:
        """Return the identity of an open file."""
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)
