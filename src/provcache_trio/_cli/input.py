"""Reads lines from a file or a pipe, which may be endless, in constant memory."""

from __future__ import annotations

import io
import sys
import threading
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# In bytes; the capacity of a pipe in Linux.
_CHUNK: Final = 64 * 1024
# In bytes; the longest entry takes less than half, with everything escaped.
LONGEST_LINE: Final = 1024 * 1024


class InputError(Exception):
    """The input can't be opened or read; the message names it and the reason."""


class Input:
    """The bytes of a file, or of standard input if the name is ``-``.

    It is opened and read in a worker thread, since either may wait without end for the other side
    of a pipe. Nothing interrupts such a wait, so a cancelled call leaves its thread behind. That
    thread finishes its one call and closes the file; it does not keep the program from ending.
    """

    def __init__(self, name: str) -> None:
        self.label = "standard input" if name == "-" else name
        self._name = name
        self._file: io.FileIO | None = None
        # Guards the next two; never held while waiting.
        self._turn = threading.Lock()
        self._in_use = False
        self._closed = False

    async def open(self) -> None:
        """Open the input; call it before ``read``.

        Raises:
            InputError: the input can't be opened.
        """
        await self._in_thread(self._open)

    async def read(self) -> bytes:
        """Return the next bytes, at most 64 KiB, and none at the end.

        Raises:
            InputError: the input can't be read.
        """
        chunk = await self._in_thread(self._read)
        if chunk is None:
            # Nothing to read now; treating that as the end would lose the rest.
            raise InputError(f"{self.label}: it is in non-blocking mode")
        return chunk

    def close(self) -> None:
        """Close the input, or leave that to the thread that was left behind."""
        with self._turn:
            self._closed = True
            if not self._in_use:
                self._close_file()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        def use() -> T:
            with self._turn:
                if self._closed:
                    # The call was cancelled before this thread began.
                    raise OSError(0, "it is closed")
                self._in_use = True
            try:
                return call()
            finally:
                self._leave()

        try:
            return await trio.to_thread.run_sync(use, abandon_on_cancel=True)
        except OSError as error:
            raise InputError(f"{self.label}: {error.strerror}") from None

    def _leave(self) -> None:
        with self._turn:
            self._in_use = False
            if self._closed:
                self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        if self._name != "-":
            self._file = io.FileIO(self._name)
        elif sys.stdin is None:
            # Python sets stdin to None for `<&-`.
            raise OSError(0, "it is closed")
        else:
            # Without a buffer, whose lock a thread that was left behind would hold at the program's end.
            self._file = io.FileIO(sys.stdin.fileno(), closefd=False)

    def _read(self) -> bytes | None:
        if self._file is None:
            raise AssertionError("unreachable")
        return self._file.read(_CHUNK)


class LineSplitter:
    """Splits chunks into lines; holds one line at most, and none that is too long."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._held = bytearray()
        self._length = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield the lines that end in ``chunk``, without line feeds, and None for each too long one.

        Take every line before the next call.
        """
        *ends, beginning = chunk.split(b"\n")
        for end in ends:
            self._hold(end)
            yield self._take()
        self._hold(beginning)

    def finish(self) -> Iterator[bytes | None]:
        """Yield the last line, if it does not end in a line feed."""
        if self._length:
            yield self._take()

    def _hold(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length <= self._longest:
            self._held += piece
        else:
            self._held.clear()

    def _take(self) -> bytes | None:
        line = bytes(self._held) if self._length <= self._longest else None
        self._held.clear()
        self._length = 0
        return line
