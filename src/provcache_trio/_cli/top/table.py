"""The table of ``provcache top``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from provcache_trio._cli.text import printable

from .words import (
    about_cache,
    about_stream,
    dead_letters,
    in_one_line,
    last_error,
    no_answer,
    readiness,
    short,
    span,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType

    from .document import QueueStatus
    from .watch import Pace, Watch

_NARROWEST: Final = 80  # columns; with less, numbers would be cut off
_INSTANCE: Final = 22  # columns that host and port take besides
_BAD: Final = "bold red"
_STYLES: Final = {"running": "green", "waiting": _BAD, "paused": _BAD}
_NUMBERS: Final = (
    "in line", "in flight", "oldest", "accepted/s", "written/s", "batch", "letters",
)  # fmt: skip


def draw(watches: Sequence[Watch], console: Console) -> RenderableType:
    """Return a picture that fits the console: queues that are not ready come first."""
    several = len(watches) > 1
    what = f"{len(watches)} programs" if several else watches[0].source.label
    answered = max(watch.answered for watch in watches)
    parts: list[RenderableType] = [
        Text(f"provcache top  {what}  {answered}", "bold", no_wrap=True),
        *(Text(_trouble(watch, several=several), _BAD) for watch in watches if watch.trouble),
    ]
    rows = [_Row(watch, queue, pace) for watch in watches for queue, pace in watch.queues]
    rows.sort(key=lambda row: row.queue.ready)
    if not answered:
        parts.append(Text("no answer yet", "dim"))
    elif not rows:
        parts.append(Text("no queue is open"))
    elif console.width < _NARROWEST + several * _INSTANCE:
        parts += [Text(row.in_one_line(several=several)) for row in rows]
    else:
        parts.append(_table(rows, several=several))
        parts += [text for row in rows for text in _about(row, several=several)]
    return Group(*parts)


class _Row(NamedTuple):
    """A queue, and the program that has it."""

    watch: Watch
    queue: QueueStatus
    pace: Pace

    def ink(self, style: str) -> str:
        """Return ``style``, or grey: the numbers are old."""
        return "dim" if self.watch.trouble else style

    def name(self, *, several: bool) -> str:
        """Return the queue's name, after its program's where there are several programs."""
        return f"{self.watch.source.instance} {self.queue.name}" if several else self.queue.name

    def in_one_line(self, *, several: bool) -> str:
        """Return the state of the queue."""
        instance = f"{self.watch.source.instance} " if several else ""
        return instance + in_one_line(self.queue, self.pace, self.watch.document.time)


def _trouble(watch: Watch, *, several: bool) -> str:
    instance = f"{watch.source.instance}: " if several else ""
    old = f" (the numbers are of {watch.answered})" if watch.answered else ""
    return f"{instance}{no_answer(watch)}{old}"


def _table(rows: Sequence[_Row], *, several: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    if several:
        table.add_column("instance", no_wrap=True, overflow="ellipsis")
    table.add_column("queue", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True, overflow="ellipsis", max_width=10)
    for title in _NUMBERS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        metrics, pace, ink = row.queue.metrics, row.pace, row.ink
        table.add_row(
            *([row.watch.source.instance] if several else []),
            Text(printable(row.queue.name)),
            Text(printable(metrics.state), ink(_STYLES.get(metrics.state, "yellow"))),
            short(metrics.current_queue_depth),
            short(metrics.in_flight),
            span(metrics.oldest_pending_seconds),
            short(pace.accepted),
            short(pace.written),
            short(pace.batch_size),
            Text(short(metrics.total_failed), ink(_BAD if metrics.total_failed else "")),
            style=ink(""),
        )
    return table


def _about(row: _Row, *, several: bool) -> Iterator[Text]:
    """Yield what the table has no room for."""
    queue, metrics = row.queue, row.queue.metrics
    words = [
        readiness(queue),
        f"{short(metrics.total_retries)} retries",
        f"{short(metrics.producers_waiting)} callers waiting",
        f"dead letters {dead_letters(queue)}",
        f"last error {last_error(queue, row.watch.document.time)}",
    ]
    style = "dim" if row.watch.trouble or queue.ready else ""
    name = row.name(several=several)
    yield Text(printable(f"{name}: {', '.join(words)}. {queue.summary}"), style)
    for more in (about_cache(queue, row.pace), about_stream(queue)):
        if more:
            yield Text(printable(f"{name}: {', '.join(more)}"), row.ink(""))
