"""A disk in memory that forgets what was not synced, fails at any operation, and may be small.

And a small one that is real, for those who may mount: ``small_volume``.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from provcache_trio.journal._disk import Disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator
    from pathlib import Path

    from provcache_trio.journal._disk import Identity

DIRECTORY: Final = "/disk"
PATH: Final = f"{DIRECTORY}/journal"
BLOCK_BYTES: Final = 4096


class PowerCut(BaseException):
    """Nothing happens any more."""


def no_fault(_name: str, _number: int) -> None:
    """Let everything work."""


class Inode:
    """A file: what programs see, and what is on the disk."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.data = bytearray()
        self.synced = b""
        self.never: list[tuple[int, int]] = []  # ranges that a failed sync gave up

    def blocks(self) -> int:
        return -(-len(self.data) // BLOCK_BYTES)

    def write(self, data: bytes) -> None:
        self.data += data

    def cut(self, size: int) -> None:
        del self.data[size:]
        # What is written there from now on is on pages that are dirty again.
        self.never = [(start, min(end, size)) for start, end in self.never if start < size]

    def sync(self) -> None:
        kept = bytearray(self.data)
        for start, end in self.never:
            kept[start:end] = bytes(len(kept[start:end]))
        self.synced = bytes(kept)

    def give_up(self) -> None:
        """What a failed sync did not write is never tried again: its pages count as clean."""
        self.never.append((len(self.synced), len(self.data)))


class ModelDisk(Disk):
    """Holds one directory.

    Attributes:
        operations: how many there were that change something.
        fault: called with the name and number of each of those, before it happens; may raise.
        short: a write that fails has written a part.
        capacity: how many bytes fit, in whole blocks; None: there is no end.
        foreign: bytes of them that somebody else takes.
        shows_room: whether it says that there is more room than that.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.foreign = 0
        self.shows_room = False
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.open_files: dict[int, Inode] = {}
        self.operations = 0
        self.fault: Callable[[str, int], None] = no_fault
        self.short = False
        self.home = (1, 1)
        self._next = 100

    def _free_blocks(self) -> int:
        if self.capacity is None:
            return 2**40
        inodes = {id(inode): inode for inode in (*self.names.values(), *self.open_files.values())}
        used = sum(inode.blocks() for inode in inodes.values())
        return max(0, (self.capacity - self.foreign) // BLOCK_BYTES - used)

    def free(self, path: str) -> int:  # noqa: ARG002  # there is one volume
        return 2**40 if self.shows_room else self._free_blocks() * BLOCK_BYTES

    def fill_up(self) -> None:
        """Have somebody else take all the room there is."""
        self.foreign += self._free_blocks() * BLOCK_BYTES

    def _room_in(self, inode: Inode) -> int:
        """Return how much ``inode`` may grow."""
        return (inode.blocks() + self._free_blocks()) * BLOCK_BYTES - len(inode.data)

    def _operate(self, name: str) -> None:
        self.operations += 1
        self.fault(name, self.operations)

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _opened(self, inode: Inode) -> int:
        descriptor = self._new()
        self.open_files[descriptor] = inode
        return descriptor

    def create(self, path: str) -> int:
        self._operate("create")
        inode = self.names[path] = Inode(self._new())
        return self._opened(inode)

    def open(self, path: str, *, read_only: bool) -> int:  # noqa: ARG002  # the disk's
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._opened(self.names[path])

    def open_note(self, path: str) -> int:
        inode = self.names.setdefault(path, Inode(self._new()))
        return self._opened(inode)

    def write_over(self, descriptor: int, data: bytes) -> None:
        inode = self.open_files[descriptor]
        if len(data) - len(inode.data) > self._room_in(inode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode.data[: len(data)] = data

    def read(self, descriptor: int, count: int, at: int) -> bytes:
        return bytes(self.open_files[descriptor].data[at : at + count])

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        inode = self.open_files[descriptor]
        try:
            self._operate("write")
        except OSError:
            if self.short:
                inode.write(bytes(data[: min(len(data) // 2, self._room_in(inode))]))
            raise
        some = max(1, len(data) - 1) if self.short else len(data)
        some = min(some, self._room_in(inode))
        if not some:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode.write(bytes(data[:some]))
        return some

    def truncate(self, descriptor: int, size: int) -> None:
        self._operate("truncate")
        self.open_files[descriptor].cut(size)

    def sync(self, descriptor: int) -> None:
        inode = self.open_files[descriptor]
        try:
            self._operate("sync")
        except OSError:
            inode.give_up()
            raise
        inode.sync()

    def size(self, descriptor: int) -> int:
        return len(self.open_files[descriptor].data)

    def keep_private(self, descriptor: int) -> None:
        """There is nobody else."""

    def give(self, descriptor: int, like: int) -> None:
        """There are no owners."""

    def remove(self, path: str) -> None:
        del self.names[path]

    def rename(self, old: str, new: str) -> None:
        self._operate("rename")
        self.names[new] = self.names.pop(old)

    def sync_directory(self, path: str) -> None:  # noqa: ARG002  # there is one
        self._operate("sync directory")
        self.durable_names = dict(self.names)

    def identity(self, path: str) -> Identity | None:
        if path == DIRECTORY:
            return self.home
        inode = self.names.get(path)
        return None if inode is None else (1, inode.number)

    def identity_of(self, descriptor: int) -> Identity:
        return 1, self.open_files[descriptor].number

    def close(self, descriptor: int) -> None:
        del self.open_files[descriptor]

    def cut_power(self, dice: random.Random) -> ModelDisk:
        """Return what is left: what was synced, and some of what was not."""
        left = ModelDisk(self.capacity)
        left.foreign = self.foreign
        names = dice.choice([self.durable_names, self.names])
        for name, inode in names.items():
            survivor = left.names[name] = Inode(left._new())
            survivor.data = bytearray(_remains(inode, dice))
            survivor.sync()
        left.durable_names = dict(left.names)
        return left

    def crash(self) -> ModelDisk:
        """Return what is left when only the process dies: everything that was written."""
        left = ModelDisk(self.capacity)
        left.foreign = self.foreign
        for name, inode in self.names.items():
            left.names[name] = Inode(left._new())
            left.names[name].data = bytearray(inode.data)
            left.names[name].sync()
        left.durable_names = dict(left.names)
        return left


def _remains(inode: Inode, dice: random.Random) -> bytes:
    written, synced = bytes(inode.data), inode.synced
    if len(written) < len(synced):  # cut off, and that not synced
        return dice.choice([written, synced])
    rest = written[len(synced) :]
    cut = dice.randint(0, len(rest))
    torn = dice.choice([b"", rest[:cut], rest, bytes(len(rest)), bytes(cut) + rest[cut:]])
    return synced + torn


def fail_at(
    at: int, code: int = errno.EIO, *, for_good: bool = False, names: tuple[str, ...] = ()
) -> Callable[[str, int], None]:
    """Return a fault: operation number ``at`` fails, or every one from there on."""

    def fault(name: str, number: int) -> None:
        fails = number >= at if for_good else number == at
        if fails and (not names or name in names):
            raise OSError(code, os.strerror(code))

    return fault


def cut_at(at: int) -> Callable[[str, int], None]:
    """Return a fault: the power is cut before operation number ``at``."""

    def fault(_: str, number: int) -> None:
        if number >= at:
            raise PowerCut

    return fault


def can_mount() -> bool:
    """Whether this program may have a file system of its own."""
    if not sys.platform.startswith("linux"):
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


@contextmanager
def small_volume(directory: Path, kib: int) -> Generator[Path]:
    """Mount a tmpfs of so many KiB on a new directory, for as long as the block takes."""
    where = directory / "volume"
    where.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=700", "none", str(where)]
    subprocess.run(mount, check=True)
    try:
        yield where
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(where)], check=True)


def fill(volume: Path, *, but_kib: int = 0) -> None:
    """Take all the room, or all but some."""
    with suppress(OSError), (volume / "full").open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(volume / "full", (volume / "full").stat().st_size - but_kib * 1024)


def set_read_only(volume: Path) -> None:
    """Let nobody write to a volume that was mounted, root included."""
    subprocess.run(["/bin/mount", "-o", "remount,ro", volume], check=True)
