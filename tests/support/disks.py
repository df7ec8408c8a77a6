"""A disk in memory that forgets what was not synced, and fails at any one of its operations."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from provcache_trio.journal._disk import Disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from provcache_trio.journal._disk import Identity

DIRECTORY: Final = "/disk"
PATH: Final = f"{DIRECTORY}/journal"


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
    """

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.open_files: dict[int, Inode] = {}
        self.operations = 0
        self.fault: Callable[[str, int], None] = no_fault
        self.short = False
        self.home = (1, 1)
        self._next = 100

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
        self.open_files[descriptor].data[: len(data)] = data

    def read(self, descriptor: int, count: int, at: int) -> bytes:
        return bytes(self.open_files[descriptor].data[at : at + count])

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        inode = self.open_files[descriptor]
        try:
            self._operate("write")
        except OSError:
            if self.short:
                inode.data += bytes(data[: len(data) // 2])
            raise
        some = max(1, len(data) - 1) if self.short else len(data)
        inode.data += bytes(data[:some])
        return some

    def truncate(self, descriptor: int, size: int) -> None:
        self._operate("truncate")
        del self.open_files[descriptor].data[size:]

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
        left = ModelDisk()
        names = dice.choice([self.durable_names, self.names])
        for name, inode in names.items():
            survivor = left.names[name] = Inode(left._new())
            survivor.data = bytearray(_remains(inode, dice))
            survivor.sync()
        left.durable_names = dict(left.names)
        return left

    def crash(self) -> ModelDisk:
        """Return what is left when only the process dies: everything that was written."""
        left = ModelDisk()
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
