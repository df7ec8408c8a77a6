"""How ``provcache demo`` is watched: a panel on a terminal, plain lines in a pipe."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TextIO

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ._report import Line, Tone
from ._run import Watcher
from ._text import duration, printable, say, sparkline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from provcache_trio import WriteBehindMetrics

    from ._demo import Demo

_WIDEST: Final = 78
_STYLES: Final = {
    Tone.TITLE: "bold",
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.BAD: "red",
    Tone.QUIET: "dim",
}


class Screen(Watcher, Protocol):
    """What shows a job and, at the end, its summary."""

    def summary(self, lines: Iterable[Line]) -> None:
        """Tell how it ended."""
        ...


def make_screen(demo: Demo, file: TextIO, *, plain: bool) -> Screen:
    """Return a panel for a terminal that can show one, else plain lines."""
    console = None if plain else console_for(file)
    return PlainLines(demo, file) if console is None else LivePanel(demo, console)


def console_for(file: TextIO) -> Console | None:
    """Return what draws on the terminal that ``file`` is, or None: it is none, or too simple."""
    console = Console(file=file, highlight=False)
    can_draw = (
        file.isatty()  # rich believes FORCE_COLOR, in a pipe too
        and not console.is_dumb_terminal
        and not console.no_color
        and console.encoding.startswith("utf")
    )
    return console if can_draw else None


class PlainLines:
    """One line a second and a summary, without any control character."""

    def __init__(self, demo: Demo, file: TextIO) -> None:
        self._demo = demo
        self._file = file

    async def run(self) -> None:
        """Tell once a second where the job is, until cancelled."""
        target = printable(self._demo.target.label)
        say(f"provcache demo: holding installed files against RECORD, into {target}", self._file)
        while True:
            await trio.sleep(1)
            say(_in_one_line(self._demo), self._file)

    def notice(self, text: str) -> None:
        """Tell something at once."""
        say(text, self._file)

    def summary(self, lines: Iterable[Line]) -> None:
        """Tell how it ended."""
        for line in lines:
            say(line.text if line.tone is Tone.TITLE else f"  {line.text}", self._file)


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

    def __init__(self, demo: Demo, console: Console) -> None:
        self._demo = demo
        self._console = console
        self._depths: deque[int] = deque(maxlen=_WIDEST)
        self._notice = ""

    async def run(self) -> None:
        """Draw until cancelled, and once more then, so that the last numbers stay."""
        with Live(console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self._draw(), refresh=True)
                    await trio.sleep(0.1)
            finally:
                live.update(self._draw(), refresh=True)

    def notice(self, text: str) -> None:
        """Tell something at once."""
        self._notice = text

    def summary(self, lines: Iterable[Line]) -> None:
        """Tell how it ended."""
        for line in lines:
            text = Text(line.text, _STYLES[line.tone])
            if line.tone is Tone.TITLE:
                self._console.print(text)
                continue
            if line.tone is Tone.QUIET:  # not worth a second line of the screen
                text.truncate(self._console.width - 2, overflow="ellipsis")
            self._console.print(Padding(text, (0, 0, 0, 2), expand=False))

    def _draw(self) -> Panel:
        demo = self._demo
        metrics = demo.metrics()
        # Two columns are left free for the ^C that a terminal shows: on the next line, it
        # would shift the panel.
        width = min(self._console.width - 2, _WIDEST)
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
