"""Draws with rich on a terminal, which may block for any time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, TextIO

import trio
from rich.console import Console
from rich.live import Live

from .output import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

# In columns.
_NARROWEST: Final = 20


def terminal_for(file: TextIO) -> Terminal | None:
    """Return a drawer for the terminal ``file``, or None if it is not one, or too simple."""
    console = Console(file=file)
    can_draw = (
        # Asked, as rich obeys FORCE_COLOR even in a pipe.
        file.isatty()
        and not console.is_dumb_terminal
        and not console.no_color
        and console.encoding.startswith("utf")
        and console.width >= _NARROWEST
    )
    return Terminal(file) if can_draw else None


class Terminal:
    """Draws in memory, and writes the result to a terminal.

    Attributes:
        console: rich's console, which writes to memory.
        stream: writes the result to the terminal.
    """

    def __init__(self, file: TextIO) -> None:
        self._memory = io.StringIO()
        self.console = Console(file=self._memory, force_terminal=True, highlight=False)
        self.stream = Stream(file)

    async def show(self, draw: Callable[[], RenderableType], *, pause: float) -> None:
        """Show what ``draw`` returns, until cancelled; then remove it.

        While the terminal blocks, nothing is drawn.

        Args:
            draw: called for each picture.
            pause: seconds between two pictures.
        """
        live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stream.run)
            try:
                with live:
                    while True:
                        if self.stream.is_idle:
                            live.update(draw(), refresh=True)
                            self._send()
                        await trio.sleep(pause)
            finally:
                self._send()

    def print(self, renderable: RenderableType) -> None:
        """Print above what is shown now, or after what was shown."""
        self.console.print(renderable, soft_wrap=True)
        self._send()

    def _send(self) -> None:
        self.stream.add(self._memory.getvalue())
        self._memory.seek(0)
        self._memory.truncate()
