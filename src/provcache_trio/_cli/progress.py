"""How ``provcache ingest`` is watched, on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TextIO

import trio
from rich.text import Text

from .ingest.report import in_one_line
from .running import Watcher
from .stream import Stream
from .terminal import canvas_for

if TYPE_CHECKING:
    from .ingest.job import Ingest
    from .terminal import Canvas

_LONGEST_PAUSE: Final = 60.0  # seconds


class Progress(Watcher, Protocol):
    """What shows a job, and what is wrong with its input."""

    async def report(self, text: str) -> None:
        """Tell something that must not be left out; waits for whoever reads it."""
        ...

    async def finish(self) -> None:
        """Return when everything that was told is written."""
        ...


def make_progress(ingest: Ingest, file: TextIO) -> Progress:
    """Return one line that changes, for a terminal that can show it, else plain lines."""
    canvas = canvas_for(file)
    return PlainProgress(ingest, file) if canvas is None else LiveProgress(ingest, canvas)


class PlainProgress:
    """Lines, one after a second and then less and less often: a log is read later."""

    def __init__(self, ingest: Ingest, file: TextIO) -> None:
        self._ingest = ingest
        self._stream = Stream(file)

    async def run(self) -> None:
        """Tell where the job is, until cancelled."""
        pause = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stream.run)
            while True:
                await trio.sleep(pause)
                self.notice(in_one_line(self._ingest))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def notice(self, text: str) -> None:
        """Tell something, unless nobody seems to read it."""
        if self._stream.has_room:
            self._stream.add(f"provcache: {text}\n")

    async def report(self, text: str) -> None:
        """Tell something as soon as there is room."""
        await self._stream.room()
        self._stream.add(f"provcache: {text}\n")

    async def finish(self) -> None:
        """Return when everything that was told is written."""
        await self._stream.flush()


class LiveProgress:
    """One line that changes ten times a second and goes away at the end."""

    def __init__(self, ingest: Ingest, canvas: Canvas) -> None:
        self._ingest = ingest
        self._canvas = canvas

    async def run(self) -> None:
        """Show where the job is, until cancelled."""
        await self._canvas.show(self._draw, transient=True)

    def notice(self, text: str) -> None:
        """Tell something, above the line, unless nobody seems to read it."""
        if self._canvas.stream.has_room:
            self._canvas.print(Text(f"provcache: {text}"), soft_wrap=True)

    async def report(self, text: str) -> None:
        """Tell something, above the line, as soon as there is room."""
        await self._canvas.stream.room()
        self._canvas.print(Text(f"provcache: {text}"), soft_wrap=True)

    async def finish(self) -> None:
        """Return when everything that was told is written."""
        await self._canvas.stream.flush()

    def _draw(self) -> Text:
        return Text(in_one_line(self._ingest), "dim", no_wrap=True, overflow="ellipsis")
