"""The screen of ``provcache top``: a panel for each queue or, where they don't fit, a line."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from provcache_trio._cli.text import printable

from .words import bars, dead_letters, last_error, no_answer, short, span, step_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from .source import Queue
    from .watch import History, Watch

_TALLEST: Final = 4  # lines of a chart
_LABEL: Final = 11  # columns before a chart
_CLOSE: Final = 2  # lines of charts that are not set off
_LOWEST: Final = 9  # lines of a panel
_MOST_LINES: Final = 4  # of a sentence
_SENTENCE: Final = 90  # columns of a usual one
_STATE: Final = 10  # columns of a state in the table
_WORTHWHILE: Final = 10  # columns of a chart in the table
_NARROWEST: Final = 24  # columns of a screen
_WIDE: Final = 60  # columns of a screen whose charts tell their peak, too
_BAD: Final = "bold red"
_MARKS: Final = {  # the word tells a state; mark and colour are for finding it
    "running": ("●", "green"),
    "waiting": ("▲", _BAD),
    "paused": ("▲", _BAD),
    "draining": ("▼", "yellow"),
    "closed": ("■", "yellow"),
}
_EXPLAINED: Final = _MARKS.keys() - {"running"}
_CHARTS: Final = (  # name, field of a Pace, colour
    ("in line", "depth", "blue"),
    ("accepted/s", "accepted", "cyan"),
    ("written/s", "written", "green"),
    ("batch size", "batch_size", "magenta"),
)
_COLUMNS: Final = (  # of the table, after name and state: title and width; those that fit
    ("in line", 7),
    ("oldest", 7),
    ("written/s", 9),
    ("letters", 7),
)


class _Page(NamedTuple):
    """What everything on a screen needs.

    Attributes:
        watch: what is shown.
        width: columns of the screen.
        chart: columns of a chart.
        step: seconds that one of them stands for.
    """

    watch: Watch
    width: int
    chart: int
    step: int

    @property
    def inner(self) -> int:
        """Columns in a panel."""
        return self.width - 4

    def ink(self, style: str) -> str:
        """Return ``style``, or grey when the numbers are old."""
        return "dim" if self.watch.trouble else style


def draw(watch: Watch, width: int, height: int) -> RenderableType:
    """Return what a screen of this size shows."""
    if width < _NARROWEST:
        return _fitted(Text("too narrow"), width)
    chart = width - 4 - _LABEL - (13 if width >= _WIDE else 8)
    page = _Page(watch, width, chart, step_for(chart, watch.interval))
    head = [_headline(page), *_trouble(page)]
    room = max(height - len(head) - 1, 1)
    body: list[RenderableType] = []
    if panels := _panels(page, room):
        body += [_boxed(page, title, lines) for title, lines in panels]
        used = sum(len(lines) + 2 for _, lines in panels)
    else:
        body += (table := _table(page, room))
        used = len(table)
    filling = [Text() for _ in range(room - used)]
    return Group(*head, *body, *filling, _footline(page, with_charts=bool(panels)))


# Around the queues


def _headline(page: _Page) -> Text:
    time = page.watch.answered
    line = Text.assemble((" provcache top  ", "bold"), printable(page.watch.source.label))
    line = _fitted(line, page.width - len(time) - 2, pad=True)
    return _fitted(line.append(f" {time} ", page.ink("")), page.width)


def _trouble(page: _Page) -> list[Text]:
    watch = page.watch
    if not watch.trouble:
        return []
    text = f"▲ {no_answer(watch)}"
    if watch.answered:
        text += f" (the numbers are of {watch.answered})"
    lines = _wrapped(text, page.width - 2)
    return [_fitted(Text(f" {line}", _BAD), page.width) for line in lines]


def _footline(page: _Page, *, with_charts: bool) -> Text:
    text = " q quits"
    if with_charts:
        text += f"   charts: the last {span(page.step * page.chart)}, {page.step} s a column"
    return _fitted(Text(text, "dim"), page.width)


# A panel for each queue


def _panels(page: _Page, room: int) -> list[tuple[Text, list[Text]]]:
    """Return title and lines of every panel, with the tallest charts that fit, or nothing."""
    rows = page.watch.rows
    if _LOWEST * len(rows) > room:
        return []
    for height in range(_TALLEST, 0, -1):
        panels = [
            (_title(page, queue), _lines(page, queue, history, height)) for queue, history in rows
        ]
        if sum(len(lines) + 2 for _, lines in panels) <= room:
            return panels
    return []


def _boxed(page: _Page, title: Text, lines: Iterable[Text]) -> Panel:
    content = Text("\n").join(_fitted(line, page.inner) for line in lines)
    return Panel(content, title=title, title_align="left", width=page.width, border_style="dim")


def _title(page: _Page, queue: Queue) -> Text:
    name = _fitted(Text(printable(queue.name), page.ink("bold")), page.width // 2)
    title = Text.assemble(name, "  ", _state(page, queue))
    if not queue.ready:
        title.append(", not ready", page.ink(_BAD))
    title.stylize(page.ink("not dim"))  # as the border is
    return title


def _state(page: _Page, queue: Queue) -> Text:
    mark, style = _MARKS.get(queue.metrics.state, ("?", "yellow"))
    return Text(f"{mark} {printable(queue.metrics.state)}", page.ink(style))


def _lines(page: _Page, queue: Queue, history: History, height: int) -> list[Text]:
    lines = [Text(line, page.ink("")) for line in _wrapped(queue.summary, page.inner)]
    # A number in the sentence that gets a digit more shall not move everything below.
    lines += [Text() for _ in range(math.ceil(_SENTENCE / page.inner) - len(lines))]
    # The other states are explained by the sentence.
    if not queue.ready and queue.reason and queue.metrics.state not in _EXPLAINED:
        reason = _wrapped(f"not ready: {queue.reason}", page.inner)
        lines += [Text(line, page.ink(_BAD)) for line in reason]
    space = [Text()] if height > _CLOSE else []
    return [
        *lines,
        *_charts(page, history, height),
        *space,
        *_numbers(page, queue),
        *_last_error(page, queue),
    ]


def _charts(page: _Page, history: History, height: int) -> list[Text]:
    now, columns = history.pace(), history.columns(page.chart, page.step)
    room = page.inner - _LABEL - page.chart - 1
    lines: list[Text] = []
    for name, field, style in _CHARTS:
        values: list[float | None] = [getattr(column, field) for column in columns]
        peak = f"peak {short(max(filter(None, values), default=None))}"
        notes = [short(getattr(now, field)), peak if page.width >= _WIDE else ""]
        for number, line in enumerate(bars(values, height)):
            label = "" if number else name
            note = notes[number] if number < len(notes) else ""
            lines.append(
                Text.assemble(
                    (f"{label:<{_LABEL}}", "dim"),
                    (line, page.ink(style)),
                    (f" {note:>{room}}", "dim" if number else page.ink("bold")),
                )
            )
    return lines


def _numbers(page: _Page, queue: Queue) -> list[Text]:
    """Return what has no chart, as many in a line as fit."""
    metrics = queue.metrics
    items = [
        ("in flight", short(metrics.in_flight), "bold"),
        ("oldest", span(metrics.oldest_pending_seconds), "bold"),
        ("retries", short(metrics.total_retries), "bold"),
        ("dead letters", dead_letters(queue), _BAD if metrics.total_failed else "bold"),
        ("callers waiting", short(metrics.producers_waiting), "bold"),
    ]
    lines = [Text()]
    for name, value, style in items:
        item = Text.assemble((f"{name} ", "dim"), (f"{value:<7}", page.ink(style)))
        if lines[-1] and lines[-1].cell_len + 2 + item.cell_len > page.inner:
            lines.append(Text())
        lines[-1].append("  " if lines[-1] else "").append_text(item)
    return lines


def _last_error(page: _Page, queue: Queue) -> list[Text]:
    style = "" if queue.metrics.next_try_in_seconds is None else _BAD
    lines = _wrapped(f"last error {last_error(queue, page.watch.now)}", page.inner)
    return [Text(line, page.ink(style)) for line in lines]


# A line for each


def _table(page: _Page, room: int) -> list[Text]:
    """Return a line for each queue, and more about those not ready if there is room."""
    if page.watch.document is None:
        return [Text(" no answer yet", "dim")]
    rows = page.watch.rows
    if not rows:
        return [Text(" no queue is open", page.ink(""))]
    left_out = 0
    if len(rows) >= room:
        rows = sorted(rows, key=lambda row: row[0].ready)[: max(room - 2, 0)]
        left_out = len(page.watch.rows) - len(rows)
    head = _row(page, Text("queue"), Text("state"), [title for title, _ in _COLUMNS])
    head.stylize("dim")
    lines = [[head], *(_about(page, queue, history) for queue, history in rows)]
    if left_out:
        lines.append([_fitted(Text(f" and {left_out} more", "dim"), page.width)])
    most = None if sum(map(len, lines)) <= room else 1
    return [line for some in lines for line in some[:most]][:room]


def _about(page: _Page, queue: Queue, history: History) -> list[Text]:
    values = [
        short(queue.metrics.current_queue_depth),
        span(queue.metrics.oldest_pending_seconds),
        short(history.pace().written),
        short(queue.metrics.total_failed),
    ]
    name = Text(printable(queue.name), page.ink("bold" if queue.ready else _BAD))
    row = _row(page, name, _state(page, queue), values, history)
    if queue.ready:
        return [row]
    sentence = Text(f"   {printable(queue.reason or queue.summary)}", page.ink(""))
    error = Text(f"   {last_error(queue, page.watch.now)}", page.ink(_BAD))
    return [row, _fitted(sentence, page.width), _fitted(error, page.width)]


def _row(
    page: _Page, name: Text, state: Text, values: Sequence[str], history: History | None = None
) -> Text:
    named = max(page.width // 6, 8)
    row = Text(" ").append_text(_fitted(name, named, pad=True)).append("  ")
    row.append_text(_fitted(state, _STATE, pad=True))
    rest = page.width - row.cell_len
    widths = [2 + width for _, width in _COLUMNS]
    while sum(widths) > rest:
        widths.pop()
    for number, width in enumerate(widths):
        row.append(f"{values[number]:>{width}}", page.ink(""))
        if number == 0 and (chart := rest - sum(widths) - 3) >= _WORTHWHILE:
            line = _depths(page, history, chart) if history else ""
            row.append("  ").append(f"{line:<{chart}}", page.ink("blue"))
    return _fitted(row, page.width)


def _depths(page: _Page, history: History, width: int) -> str:
    columns = history.columns(width, step_for(width, page.watch.interval))
    return bars([each.depth for each in columns], 1)[0]


def _wrapped(text: str, width: int) -> list[str]:
    """Return the first lines of a stranger's text."""
    return textwrap.wrap(printable(text), width, max_lines=_MOST_LINES, placeholder=" …")


def _fitted(text: Text, width: int, *, pad: bool = False) -> Text:
    text.truncate(width, overflow="ellipsis", pad=pad)
    return text
