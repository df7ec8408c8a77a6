"""How commands write lines, numbers and names."""

from __future__ import annotations

import errno
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

_BARS: Final = "▁▂▃▄▅▆▇█"


class OutputError(Exception):
    """Standard output does not take what a command has found; the message tells why."""

    def __init__(self, error: OSError) -> None:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        super().__init__(f"standard output: {reason}")


def say(text: str, file: TextIO) -> None:
    """Print a line at once; see ``put``."""
    put(f"{text}\n", file)


def put(text: str, file: TextIO) -> None:
    """Print ``text`` at once, whatever the encoding is, and go on when nobody reads it.

    Blocks while the other side takes nothing.

    Raises:
        OutputError: ``file`` is standard output, and fails. Nothing else is worth ending for.
    """
    try:
        write(text, file)
    except OSError as error:
        silence(file)
        if file is sys.stdout and not isinstance(error, BrokenPipeError):
            raise OutputError(error) from None


def write(text: str, file: TextIO) -> None:
    """Write ``text``, with an escape for what the encoding has not. Blocks.

    What has a descriptor is written to without a buffer: a thread that waits in there would
    hold a lock that Python wants at the program's end.

    Raises:
        OSError: it can't be written.
    """
    encoding = file.encoding or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    descriptor = descriptor_of(file)
    if descriptor is None:
        file.write(data.decode(encoding))
        file.flush()
        return
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody we share it with wants it so
            select.select((), (descriptor,), ())


def descriptor_of(file: TextIO) -> int | None:
    """Return the descriptor of ``file``, or None: it is in memory."""
    try:
        return file.fileno()
    except OSError:
        return None


def silence(file: TextIO) -> None:
    """Let whatever is still written to ``file`` vanish, as after ``| head``."""
    descriptor = descriptor_of(file)
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def printable(text: str) -> str:
    """Return ``text`` with an escape for everything that a terminal might obey.

    File names come from RECORD files, that is, from strangers.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def duration(seconds: float) -> str:
    """Return a duration with its unit, about three digits."""
    if seconds < 1e-3:  # noqa: PLR2004
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.1f} s"


def size(count: int) -> str:
    """Return a number of bytes with its unit."""
    return f"{count / 1e6:,.1f} MB"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, such as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def sparkline(values: Sequence[int], width: int) -> str:
    """Return the last ``width`` values as bars; a 0 is blank, the highest is a full one."""
    shown = values[-width:]
    highest = max(shown, default=0)
    bars = (_BARS[(value * len(_BARS) - 1) // highest] if value else " " for value in shown)
    return "".join(bars)
