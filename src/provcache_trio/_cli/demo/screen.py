"""How ``provcache demo`` is watched: a panel on a terminal, plain lines in a pipe."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TextIO

import trio
from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from provcache_trio._cli.running import Watcher
from provcache_trio._cli.stream import Stream
from provcache_trio._cli.terminal import canvas_for
from provcache_trio._cli.text import duration, printable, sparkline

from .summary import Line, Tone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from provcache_trio import WriteBehindMetrics
    from provcache_trio._cli.terminal import Canvas

    from .job import Demo

_WIDEST: Final = 78
_STYLES: Final = {
    Tone.TITLE: "bold",
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.BAD: "red",
    Tone.QUIET: "dim",
}


class Screen(Watcher, Protocol):
    """What shows a job and, at the end, its summary.

    Attributes:
        stream: where both go.
    """

    @property
    def stream(self) -> Stream:
        """Where both go."""
        ...

    def summary(self, lines: Iterable[Line]) -> None:
        """Tell how it ended, once ``run`` is over; written when ``stream`` is flushed."""
        ...


def make_screen(demo: Demo, file: TextIO, *, plain: bool) -> Screen:
    """Return a panel for a terminal that can show one, else plain lines."""
    canvas = None if plain else canvas_for(file)
    return PlainLines(demo, file) if canvas is None else LivePanel(demo, canvas)


class PlainLines:
    """One line a second and a summary, without any control character."""

    def __init__(self, demo: Demo, file: TextIO) -> None:
        self.stream = Stream(file)
        self._demo = demo

    async def run(self) -> None:
        """Tell once a second where the job is, until cancelled."""
        target = printable(self._demo.target.label)
        self.notice(f"provcache demo: holding installed files against RECORD, into {target}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stream.run)
            while True:
                await trio.sleep(1)
                self.notice(_in_one_line(self._demo))

    def notice(self, text: str) -> None:
        """Tell something, unless nobody seems to read it."""
        if self.stream.has_room:
            self.stream.add(f"{text}\n")

    def summary(self, lines: Iterable[Line]) -> None:
        """Tell how it ended."""
        for line in lines:
            self.stream.add(f"{'' if line.tone is Tone.TITLE else '  '}{line.text}\n")


def _in_one_line(demo: Demo) -> str:
    words = [f"{demo.phase}: {demo.files_done:,} of {demo.files_total:,} files"]
    metrics = demo.metrics()
    if metrics is not None:
        words += [
            f"{demo.rate:,.0f} files/s",
            f"in line {metrics.current_queue_depth:,}",
            f"in flight {metrics.in_flight:,}",
            f"persisted {metrics.total_persisted:,}",
            f"oldest pending {duration(metrics.oldest_pending_seconds)}",
            metrics.state,
        ]
    return ", ".join(words)


class LivePanel:
    """A panel that is drawn ten times a second, from a task: no thread of rich's."""

    def __init__(self, demo: Demo, canvas: Canvas) -> None:
        self._demo = demo
        self._canvas = canvas
        self._depths: deque[int] = deque(maxlen=_WIDEST)
        self._notice = ""

    @property
    def stream(self) -> Stream:
        """Where it is drawn."""
        return self._canvas.stream

    async def run(self) -> None:
        """Draw until cancelled, and once more then, so that the last numbers stay."""
        await self._canvas.show(self._draw, transient=False)

    def notice(self, text: str) -> None:
        """Tell something at once."""
        self._notice = text

    def summary(self, lines: Iterable[Line]) -> None:
        """Tell how it ended."""
        for line in lines:
            text = Text(line.text, _STYLES[line.tone])
            if line.tone is Tone.TITLE:
                self._canvas.print(text)
                continue
            if line.tone is Tone.QUIET:  # not worth a second line of the screen
                text.truncate(self._canvas.console.width - 2, overflow="ellipsis")
            self._canvas.print(Padding(text, (0, 0, 0, 2), expand=False))

    def _draw(self) -> Panel:
        demo = self._demo
        metrics = demo.metrics()
        # Two columns are left free for the ^C that a terminal shows: on the next line, it
        # would shift the panel.
        width = min(self._canvas.console.width - 2, _WIDEST)
        parts: list[RenderableType] = [
            _columns(
                (Text(demo.phase, "bold"), f"{demo.files_done:,} of {demo.files_total:,} files")
            ),
            _progress(demo),
        ]
        if metrics is not None:
            self._depths.append(metrics.current_queue_depth)
            history = sparkline(tuple(self._depths), width - 24)
            parts += [
                _numbers(demo, metrics),
                _columns(
                    (
                        Text.assemble(("in line  ", "dim"), (history, "cyan")),
                        f"{metrics.current_queue_depth:,}",
                    )
                ),
            ]
            if metrics.next_try_in_seconds is not None:
                parts.append(Text(_trouble(metrics, metrics.next_try_in_seconds), "red"))
        if self._notice:
            parts.append(Text(self._notice, "bold"))
        return Panel(
            Group(*parts),
            title="provcache demo",
            title_align="left",
            subtitle=None if metrics is None else metrics.state,
            subtitle_align="right",
            width=width,
            border_style="dim",
        )


def _columns(*rows: tuple[RenderableType, ...]) -> Table:
    """Lay out cells in columns, left and right aligned by turns."""
    table = Table.grid(expand=True, padding=(0, 1))
    for index in range(len(rows[0])):
        table.add_column(justify="right" if index % 2 else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _progress(demo: Demo) -> Table:
    bar = ProgressBar(
        total=max(demo.files_total, 1),
        completed=demo.files_done,
        style="dim",
        complete_style="cyan",
        finished_style="green",
    )
    return _columns((bar,))  # in a table, because a bar alone does not end its line


def _numbers(demo: Demo, metrics: WriteBehindMetrics) -> Table:
    def named(name: str) -> Text:
        return Text(name, "dim")

    return _columns(
        (
            named("rate"),
            f"{demo.rate:,.0f} files/s",
            named("   in flight"),
            f"{metrics.in_flight:,}",
        ),
        (
            named("elapsed"),
            duration(demo.seconds),
            named("   persisted"),
            f"{metrics.total_persisted:,}",
        ),
        (
            named("oldest pending"),
            duration(metrics.oldest_pending_seconds),
            named("   unchanged"),
            f"{metrics.total_unchanged:,}",
        ),
    )


def _trouble(metrics: WriteBehindMetrics, seconds: float) -> str:
    name = "" if metrics.last_error is None else f": {metrics.last_error.error_class}"
    return f"write failed{name}, next try in {duration(seconds)}"
