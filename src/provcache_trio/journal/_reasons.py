"""The reasons why a journal can't be used, in words, and what to do about each."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from provcache_trio._vocabulary.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Generator

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_ADVICE: Final = {
    errno.ENOSPC: "; it goes on by itself once there is room on its volume",
    errno.EDQUOT: "; it goes on by itself once its user's quota has room",
    errno.EFBIG: "; raise the limit on the size of files",
    errno.EACCES: "; give it to the user that runs this program",
    errno.EPERM: "; give it to the user that runs this program",
    errno.EROFS: "; put it on a volume that can be written",
    errno.ELOOP: "; it is a symbolic link, and none is followed: name the file itself",
    errno.EIO: "; look at the disk",
}


class NoRoomError(JournalError):
    """The volume is full, or a quota or limit is reached."""


@contextmanager
def reported(path: str, what: str) -> Generator[None]:
    """Raise ``JournalError`` instead of ``OSError``, with what failed in the message."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = _ADVICE.get(error.errno or 0, "")
        kind = NoRoomError if error.errno in NO_ROOM else JournalError
        raise kind(f"journal {path} {what}: {reason}{advice}") from None
