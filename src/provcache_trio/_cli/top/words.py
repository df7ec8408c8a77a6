"""The words and numbers of ``provcache top``, for a table and for plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from provcache_trio._cli.text import counted, duration, printable

if TYPE_CHECKING:
    from datetime import datetime

    from .document import QueueStatus, StreamLook
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
    """Return a time in the largest unit of which it has at least two."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return duration(seconds)


def no_answer(watch: Watch) -> str:
    """Return for how long there has been no answer, and why."""
    return f"no answer for {span(trio.current_time() - watch.since)}: {printable(watch.trouble)}"


def readiness(queue: QueueStatus) -> str:
    """Return whether a queue is ready and, if not, why."""
    return "ready" if queue.ready else f"not ready ({queue.reason or 'no reason given'})"


def dead_letters(queue: QueueStatus) -> str:
    """Return how many dead letters there were and, if anybody counts them, how many are kept."""
    kept = "" if queue.dead_letters is None else f" ({short(queue.dead_letters)} kept)"
    return f"{short(queue.metrics.total_failed)}{kept}"


def last_error(queue: QueueStatus, now: datetime) -> str:
    """Return the last error, its age, and the time to the next try; ``none`` if there was none."""
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


def about_cache(queue: QueueStatus, pace: Pace) -> list[str]:
    """Return how the cache of a queue is doing; nothing if it has none."""
    cache = queue.cache
    if cache is None:
        return []
    hits, lookups = cache.hits, cache.lookups
    found = share(pace.hit_share if pace.hit_share is not None or not lookups else hits / lookups)
    asked = "" if pace.lookups is None else f" of {short(pace.lookups)} keys/s"
    return [
        f"cache: {found} found{asked}",
        f"{short(cache.computations)} computed",
        f"{short(cache.errors)} failed",
        f"{short(cache.entries)} in memory",
    ]


def about_stream(queue: QueueStatus) -> list[str]:
    """Return what the stream of a queue holds; nothing if it has none."""
    if queue.stream is None:
        return []
    look = queue.stream.look
    name = f"stream {queue.stream.stream}"
    if look is None:
        return [f"{name}: not known"]
    seen = "" if look.current else f"not seen for {span(look.age_seconds)}, then "
    return [
        f"{name}: {seen}{counted(look.messages, 'message')}",
        _filled(look),
        f"oldest {span(look.oldest_seconds)}",
        f"{short(look.ack_pending)} held by relays",
        f"{short(look.redelivered)} redelivered",
    ]


def _filled(look: StreamLook) -> str:
    if not look.max_bytes:
        return volume(look.bytes)
    full = share(look.bytes / look.max_bytes)
    return f"{volume(look.bytes)} of {volume(look.max_bytes)} ({full})"


def volume(count: float) -> str:
    """Return a number of bytes in the unit that fits it, about three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # noqa: PLR2004
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{short(count)} TB"


def share(value: float | None) -> str:
    """Return a share in percent; a dash for None."""
    return f"{short(None if value is None else 100 * value)} %"


def in_one_line(queue: QueueStatus, pace: Pace, now: datetime) -> str:
    """Return the state of a queue, of its cache and of its stream."""
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
    words += [*about_cache(queue, pace), *about_stream(queue)]
    return printable(f"{', '.join(words)}. {queue.summary}")
