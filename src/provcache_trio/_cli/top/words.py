"""The words, numbers and bars of ``provcache top``, for a screen and for plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from provcache_trio._cli.text import duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .source import Queue
    from .watch import Pace, Watch

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_WINDOW: Final = 120.0  # seconds that a chart shows at least
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def bars(values: Sequence[float | None], height: int) -> list[str]:
    """Return the lines of a bar chart, the top one first; 0 and None are blank.

    The highest bar ends an eighth below the top, so that charts do not run into each other.
    """
    full = 8 * height - 1
    highest = max((value for value in values if value), default=1)
    eighths = [max(1, round(value / highest * full)) if value else 0 for value in values]
    return [
        "".join(_EIGHTHS[min(max(count - 8 * below, 0), 8)] for count in eighths)
        for below in reversed(range(height))
    ]


def step_for(width: int, interval: float) -> int:
    """Return how many seconds a column stands for, in a chart of ``width`` columns.

    Two samples belong to each column, so that none is left out when they come unevenly.
    """
    enough = (step for step in _STEPS if step >= 2 * interval and step * width >= _WINDOW)
    return next(enough, _STEPS[-1])


def short(value: float | None) -> str:
    """Return a number in at most seven characters; a dash for None."""
    if value is None:
        return "-"
    if value < 10 and value != int(value):  # noqa: PLR2004
        return f"{value:.1f}"
    if value < 999_999.5:  # noqa: PLR2004
        return f"{value:,.0f}"
    small = value
    for unit in "kMGTPE":
        small /= 1000
        if small < 999.5:  # noqa: PLR2004
            return f"{small:.3g} {unit}"
    return f"{value:.0e}"


def span(seconds: float) -> str:
    """Return a time in the largest unit that it has two of."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return duration(seconds)


def no_answer(watch: Watch) -> str:
    """Return since when there is no answer, and why."""
    return f"no answer for {span(watch.silent_seconds)}: {printable(watch.trouble)}"


def dead_letters(queue: Queue) -> str:
    """Return how many dead letters there were and, where that is counted, are kept."""
    kept = "" if queue.dead_letters is None else f" ({short(queue.dead_letters)} kept)"
    return f"{short(queue.metrics.total_failed)}{kept}"


def last_error(queue: Queue, now: datetime) -> str:
    """Return the last error, its age, and when the next try is; ``none`` if there was none."""
    metrics = queue.metrics
    words: list[str] = []
    if metrics.last_error is not None:
        error = metrics.last_error
        name = (
            error.error_class
            if error.sqlstate is None
            else f"{error.error_class} ({error.sqlstate})"
        )
        age = max((now - error.at).total_seconds(), 0)
        words.append(f"{printable(name)} {span(age)} ago")
    if metrics.next_try_in_seconds is not None:
        words.append(f"next try in {span(metrics.next_try_in_seconds)}")
    return ", ".join(words) or "none"


def in_one_line(queue: Queue, pace: Pace, now: datetime) -> str:
    """Return the state of a queue."""
    metrics = queue.metrics
    ready = "ready" if queue.ready else f"not ready ({queue.reason or 'no reason given'})"
    words = [
        f"{queue.name}: {metrics.state}",
        ready,
        f"in line {metrics.current_queue_depth:,}",
        f"in flight {metrics.in_flight:,}",
        f"oldest {span(metrics.oldest_pending_seconds)}",
    ]
    if pace.written is not None:  # not at the first answer
        words += [f"accepted {short(pace.accepted)}/s", f"written {short(pace.written)}/s"]
    if pace.batch_size is not None:
        words.append(f"batches of {short(pace.batch_size)}")
    words += [
        f"dead letters {dead_letters(queue)}",
        f"last error {last_error(queue, now)}",
    ]
    return printable(f"{', '.join(words)}. {queue.summary}")
