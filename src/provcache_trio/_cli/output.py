"""Text for standard output and standard error, whose reader may be slow or closed."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from collections import deque
from typing import Final, TextIO

import trio

from .text import printable
from .urls import without_secrets

# The number of texts that may wait.
_ROOM: Final = 100


class OutputError(Exception):
    """Standard output can't be written; the message gives the reason."""

    def __init__(self, error: OSError) -> None:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        super().__init__(f"standard output: {reason}")


# At once


def put_line(text: str, file: TextIO) -> None:
    """Print a line at once; see ``put``."""
    put(f"{text}\n", file)


def put(text: str, file: TextIO) -> None:
    """Print ``text`` at once in any encoding, and continue if its reader has closed.

    Blocks while the reader reads nothing.

    Raises:
        OutputError: ``file`` is standard output, and fails. Other errors are ignored.
    """
    try:
        _write(text, file)
    except OSError as error:
        _silence(file)
        if file is sys.stdout and not isinstance(error, BrokenPipeError):
            raise OutputError(error) from None


def complaint(text: str, label: str = "", *, quotes: bool = True) -> str:
    """Return the line that reports a problem.

    Args:
        text: the problem.
        label: what it is about, without any secret, such as a target's label.
        quotes: whether ``text`` may quote arguments, which may hold a password.
    """
    about = f"{label}: " if label else ""
    return printable(f"provcache: {about}{without_secrets(text) if quotes else text}")


def complain(text: str, label: str = "", *, quotes: bool = True) -> None:
    """Report a problem on standard error at once; see ``complaint``."""
    put_line(complaint(text, label, quotes=quotes), sys.stderr)


# In order


class Stream:
    """Writes texts in a thread, in the order in which they were added.

    A pipe that nobody reads, or a terminal after Ctrl-S, blocks. A task that waits for it may be
    cancelled, which leaves the thread behind; that does not keep the program from ending. Once the
    stream has failed, added texts are dropped.

    Args:
        file: the file to write to; nothing else should write to it meanwhile.

    Attributes:
        trouble: the first error, or None.
    """

    def __init__(self, file: TextIO) -> None:
        self.trouble: OSError | None = None
        self._file = file
        self._waiting: deque[str] = deque()
        # Texts that a cancelled call began are still written first.
        self._turn = threading.Lock()
        self._added = trio.Event()
        self._written = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no text waits."""
        return not self._waiting

    @property
    def has_room(self) -> bool:
        """Whether there is room for texts that may be left out."""
        return len(self._waiting) < _ROOM

    def add(self, text: str) -> None:
        """Add ``text``, whether there is room or not."""
        self._waiting.append(text)
        self._added.set()

    async def room(self) -> None:
        """Wait until ``run`` has made room."""
        await trio.lowlevel.checkpoint()
        while not self.has_room:
            self._written = trio.Event()
            await self._written.wait()

    async def run(self) -> None:
        """Write added texts until cancelled; those that wait then are left for ``flush``."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Wait until everything was written, or the stream has failed."""
        while True:
            try:
                if _descriptor_of(self._file) is None:
                    await trio.lowlevel.checkpoint()
                    self._write_all()
                else:
                    await trio.to_thread.run_sync(self._write_all, abandon_on_cancel=True)
            except OSError as error:
                self.trouble = self.trouble or error
                _silence(self._file)
            self._written.set()
            if self.is_idle:
                return

    def check(self) -> None:
        """Raise OutputError unless all output was written or its reader left."""
        if self.trouble is not None and self.trouble.errno != errno.EPIPE:
            raise OutputError(self.trouble)

    def _write_all(self) -> None:
        with self._turn:
            texts: list[str] = []
            while self._waiting:
                texts.append(self._waiting.popleft())
            _write("".join(texts), self._file)


def _write(text: str, file: TextIO) -> None:
    """Write ``text``, with escapes for characters that the encoding lacks. Blocks.

    A file with a descriptor is written to without its buffer, as a thread that waits in there would
    hold a lock that Python needs at the program's end.
    """
    encoding = file.encoding or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    descriptor = _descriptor_of(file)
    if descriptor is None:
        file.write(data.decode(encoding))
        file.flush()
        return
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # Another process that shares it has made it non-blocking.
            select.select((), (descriptor,), ())


def _descriptor_of(file: TextIO) -> int | None:
    """Return the descriptor of ``file``, or None if it is in memory."""
    try:
        return file.fileno()
    except OSError:
        return None


def _silence(file: TextIO) -> None:
    """Drop everything that is still written to ``file``, as after ``| head``."""
    descriptor = _descriptor_of(file)
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
