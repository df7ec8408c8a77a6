"""The words and numbers of ``provcache top``, for a table and for plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from provcache_trio._cli.text import duration, printable

if TYPE_CHECKING:
    from datetime import datetime

    from .document import QueueStatus
    from .watch import Pace, Watch

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


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
    return f"no answer for {span(trio.current_time() - watch.since)}: {printable(watch.trouble)}"


def readiness(queue: QueueStatus) -> str:
    """Return whether a queue is ready and, if not, why."""
    return "ready" if queue.ready else f"not ready ({queue.reason or 'no reason given'})"


def dead_letters(queue: QueueStatus) -> str:
    """Return how many dead letters there were and, where that is counted, are kept."""
    kept = "" if queue.dead_letters is None else f" ({short(queue.dead_letters)} kept)"
    return f"{short(queue.metrics.total_failed)}{kept}"


def last_error(queue: QueueStatus, now: datetime) -> str:
    """Return the last error, its age, and when the next try is; ``none`` if there was none."""
    metrics = queue.metrics
    words: list[str] = []
    if metrics.last_error is not None:
        error = metrics.last_error
        sqlstate = "" if error.sqlstate is None else f" ({error.sqlstate})"
        age = max((now - error.at).total_seconds(), 0)
        words.append(f"{error.error_class}{sqlstate} {span(age)} ago")
    if metrics.next_try_in_seconds is not None:
        words.append(f"next try in {span(metrics.next_try_in_seconds)}")
    return ", ".join(words) or "none"


def in_one_line(queue: QueueStatus, pace: Pace, now: datetime) -> str:
    """Return the state of a queue."""
    metrics = queue.metrics
    words = [
        f"{queue.name}: {metrics.state}",
        readiness(queue),
        f"in line {metrics.current_queue_depth:,}",
        f"in flight {metrics.in_flight:,}",
        f"oldest {span(metrics.oldest_pending_seconds)}",
    ]
    if pace.written is not None:  # not at the first answer
        words += [f"accepted {short(pace.accepted)}/s", f"written {short(pace.written)}/s"]
    if pace.batch_size is not None:
        words.append(f"batches of {short(pace.batch_size)}")
    words += [f"dead letters {dead_letters(queue)}", f"last error {last_error(queue, now)}"]
    return printable(f"{', '.join(words)}. {queue.summary}")
