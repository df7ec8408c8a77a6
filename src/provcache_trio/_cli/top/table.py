"""The table of ``provcache top``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    from rich.console import Console, RenderableType

    from .document import QueueStatus
    from .watch import Pace, Watch

_NARROWEST: Final = 80  # columns; with less, numbers would be cut off
_BAD: Final = "bold red"
_STYLES: Final = {"running": "green", "waiting": _BAD, "paused": _BAD}
_NUMBERS: Final = (
    "in line", "in flight", "oldest", "accepted/s", "written/s", "batch", "letters",
)  # fmt: skip


def draw(watch: Watch, console: Console) -> RenderableType:
    """Return a picture that fits the console: queues that are not ready come first."""
    head = Text(f"provcache top  {watch.source.label}  {watch.answered}", "bold", no_wrap=True)
    parts: list[RenderableType] = [head]
    if watch.trouble:
        of = f" (the numbers are of {watch.answered})" if watch.answered else ""
        parts.append(Text(f"{no_answer(watch)}{of}", _BAD))
    queues = sorted(watch.queues, key=lambda pair: pair[0].ready)
    if not watch.answered:
        parts.append(Text("no answer yet", "dim"))
    elif not queues:
        parts.append(Text("no queue is open"))
    elif console.width < _NARROWEST:
        parts += [Text(in_one_line(queue, pace, watch.document.time)) for queue, pace in queues]
    else:
        parts.append(_table(watch, queues))
        parts += [_about(watch, queue, pace) for queue, pace in queues]
    return Group(*parts)


def _table(watch: Watch, queues: list[tuple[QueueStatus, Pace]]) -> Table:
    def ink(style: str) -> str:
        return "dim" if watch.trouble else style  # grey: the numbers are old

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("queue", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True, overflow="ellipsis", max_width=10)
    for title in _NUMBERS:
        table.add_column(title, justify="right", no_wrap=True)
    for queue, pace in queues:
        metrics = queue.metrics
        table.add_row(
            Text(printable(queue.name)),
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


def _about(watch: Watch, queue: QueueStatus, pace: Pace) -> Text:
    """Return what the table has no room for."""
    metrics = queue.metrics
    words = [
        f"{queue.name}: {readiness(queue)}",
        f"{short(metrics.total_retries)} retries",
        f"{short(metrics.producers_waiting)} callers waiting",
        f"dead letters {dead_letters(queue)}",
        f"last error {last_error(queue, watch.document.time)}",
        *about_cache(queue, pace),
        *about_stream(queue),
    ]
    style = "dim" if watch.trouble or queue.ready else ""
    return Text(printable(f"{', '.join(words)}. {queue.summary}"), style)
