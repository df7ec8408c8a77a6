"""What rich draws, on a terminal that may take nothing for as long as it likes."""

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

_NARROWEST: Final = 20  # columns


def terminal_for(file: TextIO) -> Terminal | None:
    """Return what draws on the terminal that ``file`` is, or None: it is none, or too simple."""
    console = Console(file=file)
    can_draw = (
        file.isatty()  # rich believes FORCE_COLOR, in a pipe too
        and not console.is_dumb_terminal
        and not console.no_color
        and console.encoding.startswith("utf")
        and console.width >= _NARROWEST
    )
    return Terminal(file) if can_draw else None


class Terminal:
    """Draws into memory, and writes that to a terminal.

    Attributes:
        console: rich's, whose file is that memory.
        stream: what is drawn, on its way to the terminal.
    """

    def __init__(self, file: TextIO) -> None:
        self._memory = io.StringIO()
        self.console = Console(file=self._memory, force_terminal=True, highlight=False)
        self.stream = Stream(file)

    async def show(self, draw: Callable[[], RenderableType], *, pause: float) -> None:
        """Show what ``draw`` returns, until cancelled; then remove it.

        While the terminal takes nothing, nothing is drawn.

        Args:
            draw: called each time.
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
        """Print above what is shown, or after it."""
        self.console.print(renderable, soft_wrap=True)
        self._send()

    def _send(self) -> None:
        self.stream.add(self._memory.getvalue())
        self._memory.seek(0)
        self._memory.truncate()
