"""The lock of the process that owns a journal or a file of dead letters."""

from __future__ import annotations

import errno
import os
import weakref
from contextlib import suppress
from typing import Final

from provcache_trio._vocabulary.errors import StoreMisconfiguredError, StoreUnavailableError

if os.name == "nt":
    raise ImportError(
        "journals and files of dead letters need POSIX: their owner is known by a lock of flock"
    )
import fcntl

# Another try is needed only if the file was replaced meanwhile.
_MOST_TRIES: Final = 10


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
        return StoreUnavailableError(
            "in use: another process, or another part of this one, owns it"
        )
    name = type(error).__name__
    if error.errno == errno.ELOOP:
        return StoreMisconfiguredError(f"its lock file {path} is a symbolic link", error_class=name)
    reason = os.strerror(error.errno or 0)
    return StoreMisconfiguredError(
        f"its lock file {path} can't be opened: {reason}", error_class=name
    )


_ALL: Final[weakref.WeakSet[OwnerLock]] = weakref.WeakSet()


def _release_in_child() -> None:
    # A child shares the description, so it would hold the lock after its parent has ended.
    for lock in tuple(_ALL):
        lock.forget()


os.register_at_fork(after_in_child=_release_in_child)
