"""Files and directories that only their owner may use, and that are not links."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import cast

from provcache_trio._vocabulary.errors import StoreMisconfiguredError


def make_directory(path: str) -> None:
    """Create a directory and its parents where they are missing, for their owner only.

    Raises:
        StoreMisconfiguredError: it can't be created.
    """
    if os.path.isdir(path):  # noqa: PTH112
        return
    parent = os.path.dirname(path)  # noqa: PTH120
    make_directory(parent)
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)  # noqa: PTH102
            os.chmod(path, 0o700)  # noqa: PTH101  # whatever the umask is
            sync_directory(parent)
    except OSError as error:
        raise translated("the directory can't be made", error) from None


def sync_directory(path: str) -> None:
    """Sync the names in a directory to disk; SQLite does that for the files it creates."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular_file(path: str) -> tuple[int, int]:
    """Return the identity of the file at ``path``, without following a link.

    Raises:
        StoreMisconfiguredError: there is none, or it is not a regular file.
    """
    try:
        status = os.lstat(path)
    except OSError:
        raise StoreMisconfiguredError("there is no such file") from None
    if stat.S_ISLNK(status.st_mode):
        raise StoreMisconfiguredError("it is a symbolic link, and none is followed")
    if not stat.S_ISREG(status.st_mode):
        raise StoreMisconfiguredError("it is no regular file")
    return status.st_dev, status.st_ino


def translated(what: str, error: OSError) -> StoreMisconfiguredError:
    """Return the error to raise for an error of the operating system."""
    reason = os.strerror(error.errno or 0)
    return StoreMisconfiguredError(f"{what}: {reason}", error_class=type(error).__name__)


# Annotated as object, since callers may pass values that the annotations do not allow.


def absolute(path: object) -> str:
    """Return the absolute form of ``path``.

    Raises:
        TypeError: it is neither a str nor a path-like object for one.
        ValueError: it is empty, ``":memory:"``, or holds NUL.
    """
    name = path
    if isinstance(path, os.PathLike):
        name = os.fspath(cast("os.PathLike[str]", path))
    if not isinstance(name, str):
        raise TypeError(f"path must be str or os.PathLike[str], not {type(name).__name__}")
    if name in {"", ":memory:"} or "\0" in name:
        raise ValueError("path must name a file")
    return os.path.abspath(name)  # noqa: PTH100
