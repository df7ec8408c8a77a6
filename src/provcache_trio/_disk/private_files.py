"""Files and directories that are their owner's alone, and that no link leads elsewhere."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import cast

from provcache_trio._vocabulary.errors import StoreMisconfiguredError


def make_directory(path: str) -> None:
    """Make a directory, and those it is in, for their owner only, unless they are there.

    Raises:
        StoreMisconfiguredError: it can't be made.
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
    """Have the names in a directory on disk; SQLite does that for the files it makes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def regular_file(path: str) -> tuple[int, int]:
    """Return what tells the file at ``path`` from every other one; no link is followed.

    Raises:
        StoreMisconfiguredError: there is none, or something else.
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
    """Return what an error of the operating system means."""
    reason = os.strerror(error.errno or 0)
    return StoreMisconfiguredError(f"{what}: {reason}", error_class=type(error).__name__)


# Annotated as object: callers may give what their annotations do not allow.


def absolute(path: object) -> str:
    """Return the absolute form of ``path``.

    Raises:
        TypeError: it is neither str nor a path-like object that stands for one.
        ValueError: it is empty, ``":memory:"``, or holds NUL.
    """
    name = path
    if isinstance(path, os.PathLike):
        name = os.fspath(cast("os.PathLike[str]", path))
    if not isinstance(name, str):
        raise TypeError(f"path must be str or os.PathLike[str], not of {type(name).__name__}")
    if name in {"", ":memory:"} or "\0" in name:
        raise ValueError("path must name a file")
    return os.path.abspath(name)  # noqa: PTH100
