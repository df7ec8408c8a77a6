"""Shows the progress of a job on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TextIO

import trio
from rich.text import Text

from .output import Stream, complaint
from .terminal import terminal_for

if TYPE_CHECKING:
    from collections.abc import Callable

# In seconds.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_BLINK: Final = 0.1


class Progress:
    """One changing line on a terminal that can show it; elsewhere plain lines.

    Plain lines come after a second, and then less and less often, as logs are read later.

    Args:
        where: returns where the job is, in one line.
        file: the file to show it on.
    """

    def __init__(self, where: Callable[[], str], file: TextIO) -> None:
        self._where = where
        self._terminal = terminal_for(file)
        self._stream = Stream(file) if self._terminal is None else self._terminal.stream

    async def run(self) -> None:
        """Show where the job is, until cancelled."""
        if self._terminal is None:
            await self._print_again_and_again()
        else:
            await self._terminal.show(self._draw, pause=_BLINK)

    def notice(self, text: str) -> None:
        """Print a line, unless its reader seems to be blocked."""
        if self._stream.has_room:
            self.add_line(text)

    def add_line(self, text: str) -> None:
        """Print a line, even if its reader seems to be blocked."""
        if self._terminal is None:
            self._stream.add(f"{complaint(text, quotes=False)}\n")
        else:
            self._terminal.print(Text(complaint(text, quotes=False)))

    async def report(self, text: str) -> None:
        """Print a line as soon as there is room."""
        await self._stream.room()
        self.add_line(text)

    async def finish(self) -> None:
        """Wait until every line is written."""
        await self._stream.flush()

    async def _print_again_and_again(self) -> None:
        pause = _FIRST_PAUSE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stream.run)
            while True:
                await trio.sleep(pause)
                self.notice(self._where())
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _draw(self) -> Text:
        return Text(self._where(), "dim", no_wrap=True, overflow="ellipsis")
