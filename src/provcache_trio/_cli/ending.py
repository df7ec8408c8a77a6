"""What commands end with: exit statuses, and what is wrong, on standard error."""

from __future__ import annotations

import enum
import errno
import logging
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from .stream import Stream
from .text import OutputError, printable, say
from .urls import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .running import Ending


class Status(enum.IntEnum):
    """The exit statuses of every command; 128 + n: it was ended by signal n.

    Attributes:
        DONE: it did what it was asked for.
        NOT_ALL: it did, but there is something to look at: no such entry, bad lines,
            entries that the store refused.
        MISUSED: it was called wrongly.
        FAILED: it could not, or not to the end, because of the store, the input or the
            output.
    """

    DONE = 0
    NOT_ALL = 1
    MISUSED = 2
    FAILED = 3


def complaint(text: str, label: str = "", *, quotes: bool = True) -> str:
    """Return what is wrong, in a line.

    Args:
        text: what is wrong.
        label: what it is about, if that holds no secret, such as a target's.
        quotes: whether ``text`` may quote arguments, which may hold a password.
    """
    about = f"{label}: " if label else ""
    return printable(f"provcache: {about}{without_secrets(text) if quotes else text}")


def complain(text: str, label: str = "", *, quotes: bool = True) -> None:
    """Tell what is wrong; see ``complaint``."""
    say(complaint(text, label, quotes=quotes), sys.stderr)


async def finish(results: Stream, complaints: list[str]) -> None:
    """Return when both have been read, results first."""
    await results.flush()
    told = Stream(sys.stderr)
    for line in complaints:
        told.add(f"{line}\n")
    await told.flush()


def check_output(results: Stream) -> None:
    """Return if what a job had to tell was written, or nobody wanted it.

    Raises:
        OutputError: it could not be.
    """
    trouble = results.trouble
    if trouble is not None and trouble.errno not in {errno.EPIPE, errno.EBADF}:
        raise OutputError(trouble)


def status_of(ending: Ending) -> int:
    """Return the exit status, as far as the ending decides it; else 0."""
    if ending.failure:
        return Status.FAILED
    return Status.DONE if ending.stopped_by is None else 128 + ending.stopped_by


@contextmanager
def warnings_told_by(tell: Callable[[str], None]) -> Generator[None]:
    """Have what the library warns of told by ``tell``, in trio's thread.

    Otherwise logging would write it to standard error, and wait there for its reader.
    """
    token = trio.lowlevel.current_trio_token()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(tell, self.format(record))

    logger, handler = logging.getLogger("provcache_trio"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
