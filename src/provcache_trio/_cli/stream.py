"""Text for a stream whose other side may take nothing for as long as it likes, or be gone."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from .text import descriptor_of, silence, write

if TYPE_CHECKING:
    from typing import TextIO

_ROOM: Final = 100


class Stream:
    """Writes in a thread, in the order in which things were added.

    A pipe that nobody reads, or a terminal after Ctrl-S, takes nothing; whoever waits for it
    may be cancelled, which leaves the thread behind. It keeps no program from ending. Once the
    stream has failed, all that is added vanishes.

    Args:
        file: where to write; nothing else should meanwhile.

    Attributes:
        trouble: the first error, or None.
    """

    def __init__(self, file: TextIO) -> None:
        self.trouble: OSError | None = None
        self._file = file
        self._waiting: deque[str] = deque()
        self._turn = threading.Lock()  # what a cancelled call began is still written first
        self._added = trio.Event()
        self._written = trio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    @property
    def has_room(self) -> bool:
        """Whether it is worth adding what may as well be left out."""
        return len(self._waiting) < _ROOM

    def add(self, text: str) -> None:
        """Have ``text`` written in its turn, whether there is room or not."""
        self._waiting.append(text)
        self._added.set()

    async def room(self) -> None:
        """Return when there is room, which ``run`` has to make."""
        await trio.lowlevel.checkpoint()
        while not self.has_room:
            self._written = trio.Event()
            await self._written.wait()

    async def run(self) -> None:
        """Write what is added, until cancelled; what waits then is left for ``flush``."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Return when everything was written, or has failed to be."""
        while True:
            try:
                if descriptor_of(self._file) is None:
                    await trio.lowlevel.checkpoint()
                    self._write_all()
                else:
                    await trio.to_thread.run_sync(self._write_all, abandon_on_cancel=True)
            except OSError as error:
                self.trouble = self.trouble or error
                silence(self._file)
            self._written.set()
            if self.is_idle:
                return

    def _write_all(self) -> None:
        with self._turn:
            texts: list[str] = []
            while self._waiting:
                texts.append(self._waiting.popleft())
            write("".join(texts), self._file)
