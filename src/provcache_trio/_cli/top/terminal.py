"""A terminal that is drawn on, whole, and is left as it was found."""

from __future__ import annotations

import io
import os
import signal
import termios
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TextIO

import trio
from rich.console import Console
from rich.live import Live

from provcache_trio._cli.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import RenderableType

_PATIENCE: Final = 1.0  # seconds that a terminal gets to take what puts it back
_USUAL_SIZE: Final = (80, 24)
_CLEAR: Final = "\x1b[2J"
_LFLAG, _CC = 3, 6  # places in what tcgetattr returns


def can_draw(file: TextIO) -> bool:
    """Tell whether ``file`` is a terminal that can show a whole screen of Unicode."""
    console = Console(file=file)
    is_terminal = file.isatty()  # rich believes FORCE_COLOR, in a pipe too
    return is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")


def stop_this_process() -> None:
    """Do what SIGTSTP does by default: stop until continued.

    The kernel decides: where there is no shell that could continue it, nothing happens.
    """
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, before)


class Terminal:
    """The alternate screen of a terminal, without cursor, and its keys, without echo.

    Use it in ``async with``. Leaving puts everything back; that takes a second at most: a
    terminal that takes nothing for so long gets its echo back and no more.

    Args:
        screen: the terminal to draw on.
        keys: where keys come from, or None; a file that is no terminal has no keys.
        stop: stops this process until it is continued.
    """

    def __init__(
        self, screen: TextIO, keys: TextIO | None, stop: Callable[[], None] = stop_this_process
    ) -> None:
        self._screen = screen.fileno()
        self._keys = keys.fileno() if keys is not None and keys.isatty() else None
        self._stop = stop
        self._stream = Stream(screen)
        # rich draws into memory, because its own writing could not be cancelled.
        self._drawn = io.StringIO()
        self._console = Console(file=self._drawn, force_terminal=True, force_interactive=True)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._undo: Callable[[], None] | None = None
        self._size = (0, 0)
        self._turn = trio.Lock()

    async def __aenter__(self) -> Self:
        """Take the terminal over.

        Raises:
            OSError: it is gone.
        """
        await trio.lowlevel.checkpoint()
        self._enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()  # noqa: ASYNC102  # shielded, with a deadline

    async def draw(self, picture: Callable[[int, int], RenderableType]) -> None:
        """Show what ``picture`` makes of the screen's width and height.

        Raises:
            OSError: the terminal is gone.
        """
        async with self._turn:
            size = os.get_terminal_size(self._screen)
            # A terminal that nobody told its size has 0 columns.
            width, height = size if all(size) else _USUAL_SIZE
            if (width, height) != self._size:
                self._drawn.write(_CLEAR)  # a terminal moves lines about when it is resized
            self._size = self._console.size = (width, height)
            self._live.update(picture(width, height), refresh=True)
            await self._send()

    async def next_keys(self) -> bytes:
        """Wait for the next keys and return what the terminal sends for them.

        Raises:
            OSError: the terminal is gone.
        """
        if self._keys is None:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._keys)
        return os.read(self._keys, 1024)

    async def suspend(self) -> None:
        """Put everything back, stop this process, and once it goes on take over again.

        Raises:
            OSError: the terminal is gone.
        """
        async with self._turn:
            await self._leave()
            self._stop()
            self._enter()

    def _enter(self) -> None:
        self._size = (0, 0)
        self._live.start()
        if self._keys is None:
            return
        try:
            before = termios.tcgetattr(self._keys)
            # At once: to wait for what is written already may take for ever.
            self._undo = partial(termios.tcsetattr, self._keys, termios.TCSANOW, before)
            now = termios.tcgetattr(self._keys)
            now[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
            # A read takes what is there: a signal may have discarded what made it readable.
            now[_CC][termios.VMIN] = now[_CC][termios.VTIME] = 0
            termios.tcsetattr(self._keys, termios.TCSANOW, now)
        except termios.error as error:
            raise OSError(*error.args) from None

    async def _leave(self) -> None:
        self._live.stop()
        with trio.move_on_after(_PATIENCE, shield=True):
            await self._send()
        if self._undo is not None:
            with suppress(termios.error):  # it is gone
                self._undo()

    async def _send(self) -> None:
        self._stream.add(self._drawn.getvalue())
        self._drawn.seek(0)
        self._drawn.truncate()
        await self._stream.flush()
