"""How ``provcache ingest`` is watched, on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import trio
from rich.live import Live
from rich.text import Text

from ._ingest import in_one_line
from ._screen import console_for
from ._text import say

if TYPE_CHECKING:
    from rich.console import Console

    from ._ingest import Ingest
    from ._run import Watcher


def make_progress(ingest: Ingest, file: TextIO) -> Watcher:
    """Return one line that changes, for a terminal that can show it, else plain lines."""
    console = console_for(file)
    return PlainProgress(ingest, file) if console is None else LiveProgress(ingest, console)


class PlainProgress:
    """One line a second."""

    def __init__(self, ingest: Ingest, file: TextIO) -> None:
        self._ingest = ingest
        self._file = file

    async def run(self) -> None:
        """Tell once a second where the job is, until cancelled."""
        while True:
            await trio.sleep(1)
            self.notice(in_one_line(self._ingest))

    def notice(self, text: str) -> None:
        """Tell something at once."""
        say(f"provcache: {text}", self._file)


class LiveProgress:
    """One line that changes ten times a second and goes away at the end."""

    def __init__(self, ingest: Ingest, console: Console) -> None:
        self._ingest = ingest
        self._console = console

    async def run(self) -> None:
        """Show where the job is, until cancelled."""
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                line = Text(in_one_line(self._ingest), "dim", no_wrap=True, overflow="ellipsis")
                live.update(line, refresh=True)
                await trio.sleep(0.1)

    def notice(self, text: str) -> None:
        """Tell something at once, above the line."""
        self._console.print(Text(f"provcache: {text}"), soft_wrap=True)
