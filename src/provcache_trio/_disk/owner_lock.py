"""The lock of the process that owns a journal or a file of dead letters, and waiting for it."""

from __future__ import annotations

import errno
import logging
import os
import weakref
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from provcache_trio._vocabulary.errors import StoreMisconfiguredError, StoreUnavailableError
from provcache_trio._vocabulary.log import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

if os.name == "nt":
    raise ImportError(
        "journals and files of dead letters need POSIX: their owner is known by a lock of flock"
    )
import fcntl

# Another try is needed only if the file was replaced meanwhile.
_MOST_TRIES: Final = 10
_POLL_SECONDS: Final = 0.05
# Linux lists all locks there, with the processes that took them.
_LOCKS: Final = Path("/proc/locks")
_LOOKS: Final = 3
# The ``error_class`` of an error that is raised because another owner holds the lock.
_IN_USE: Final = BlockingIOError.__name__
_WAITS: Final = (
    "%s: %s; waiting for it, at most %g s: it should be the predecessor in a restart, and not one of"
    " several workers, each of which needs files of its own"
)


async def owned(
    own: Callable[[], Awaitable[None]], name: str, seconds: float, *, moment: float = 0
) -> None:
    """Call ``own`` until there is no other owner, or the time is up.

    Args:
        own: takes the lock.
        name: the name of the owned file in the log.
        seconds: how long to wait for another owner.
        moment: how long to wait in any case, without a word.

    Raises:
        StoreUnavailableError: there is still another owner.
        Exception: what else ``own`` raises.
    """
    deadline = trio.current_time() + max(seconds, moment)
    is_logged = seconds <= moment
    while True:
        try:
            return await own()
        except StoreUnavailableError as error:
            if error.error_class != _IN_USE or trio.current_time() >= deadline:
                raise
            if not is_logged:
                is_logged = True
                log(logging.WARNING, _WAITS, name, error, seconds)
        await trio.sleep(_POLL_SECONDS)


class OwnerLock:
    """A lock on a separate file beside the owned one.

    An open file description holds it, so a second owner is refused within one process, too, and the
    kernel releases it however the process ends. It is not on the owned file itself, since closing
    any descriptor of that would release SQLite's own locks, which a process has only once. SQLite's
    exclusive mode would not allow others to read.

    The file stays, as removing it would let two owners each lock a file of that name.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        _ALL.add(self)

    def take(self) -> None:
        """Take the lock without waiting; do nothing if it is held already.

        Raises:
            StoreUnavailableError: another owner holds it.
            StoreMisconfiguredError: the lock file can't be made or opened.
        """
        for _ in range(_MOST_TRIES):
            if self._is_held():
                return
            self.release()
            try:
                self._take()
            except OSError as error:
                self.release()
                raise _translated(self._path, error) from None
        self.release()
        raise StoreMisconfiguredError(f"its lock file {self._path} is replaced again and again")

    def is_at(self, path: str) -> bool:
        """Return whether this is the lock at ``path``, and we hold it."""
        return self._path == path and self._is_held()

    def _is_held(self) -> bool:
        """Return whether we hold the lock on the file that has the name now."""
        if self._descriptor is None:
            return False
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.lstat(self._path))
        return False

    def _take(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Independent of the umask.
        os.fchmod(self._descriptor, 0o600)

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            # Releases the lock for copies in child processes, too.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Drop the lock in this process alone."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def is_owned(path: str) -> bool:
    """Return whether any process holds the lock at ``path``; nothing is created or changed.

    Raises:
        StoreMisconfiguredError: that can't be found out.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _translated(path, error) from None
    try:
        # Shared, so that several who look at once do not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _translated(path: str, error: OSError) -> StoreUnavailableError:
    if isinstance(error, BlockingIOError):
        return StoreUnavailableError(f"in use: {_owner_of(path)} owns it", error_class=_IN_USE)
    name = type(error).__name__
    if error.errno == errno.ELOOP:
        return StoreMisconfiguredError(f"its lock file {path} is a symbolic link", error_class=name)
    reason = os.strerror(error.errno or 0)
    return StoreMisconfiguredError(
        f"its lock file {path} can't be opened: {reason}", error_class=name
    )


def _owner_of(path: str) -> str:
    """Return who owns the lock at ``path``, as far as that is known for certain."""
    if any(lock.is_at(path) for lock in tuple(_ALL)):
        return "another part of this process"
    with suppress(OSError):
        status = os.lstat(path)
        device = status.st_dev
        file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
        # Several times, as a long list may change while it is read.
        lines = chain.from_iterable(_LOCKS.read_text("ascii").splitlines() for _ in range(_LOOKS))
        for line in lines:
            # Such as "1: FLOCK  ADVISORY  WRITE 4711 fe:00:2149065 0 EOF".
            _, kind, _, mode, number, place, *_ = line.split()
            if (kind, mode, place) == ("FLOCK", "WRITE", file):
                return f"process {number}"
    return "another process, or another part of this one,"


_ALL: Final[weakref.WeakSet[OwnerLock]] = weakref.WeakSet()


def _release_in_child() -> None:
    # A child shares the description, so it would hold the lock after its parent has ended.
    for lock in tuple(_ALL):
        lock.forget()


os.register_at_fork(after_in_child=_release_in_child)
