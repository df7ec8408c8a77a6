"""The report about a queue: whether it is ready, and in plain words what it does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from provcache_trio._vocabulary.metrics import (
    CacheMetrics,
    QueueState,
    StreamMetrics,
    WriteBehindMetrics,
)
from provcache_trio._vocabulary.observed import cache_of, stream_of
from provcache_trio._vocabulary.plurals import counted_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provcache_trio._vocabulary.protocols import ObservedQueue

_MINUTE: Final = 60
_SLOW_CALL: Final = 30.0
_HOUR: Final = 3600


class Observed(NamedTuple):
    """A queue, and the function that counts its dead letters."""

    queue: ObservedQueue
    dead_letters: Callable[[], int | None] | None = None

    def count_dead_letters(self) -> int | None:
        """Return how many letters are kept, or None if nobody knows."""
        if self.dead_letters is None:
            return None
        try:
            return self.dead_letters()
        except Exception:  # noqa: BLE001  # a user's function must not spoil the report
            return None


class QueueReport(msgspec.Struct, frozen=True, kw_only=True):
    """One queue in ``status.json``; ``cache`` and ``stream`` are null where it has none."""

    name: str
    state: QueueState
    summary: str
    ready: bool
    reason: str | None
    metrics: WriteBehindMetrics
    dead_letters: int | None
    cache: CacheMetrics | None
    stream: StreamMetrics | None


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of ``status.json``."""

    version: int
    time: datetime
    queues: list[QueueReport]


def report_on(observed: Iterable[Observed]) -> StatusReport:
    """Report on every queue as it is now."""
    queues = [_report_on_one(one) for one in observed]
    return StatusReport(version=1, time=datetime.now(UTC), queues=queues)


def _report_on_one(observed: Observed) -> QueueReport:
    metrics = observed.queue.metrics()
    reason = why_not_ready(metrics)
    return QueueReport(
        name=observed.queue.name,
        state=metrics.state,
        summary=_summarize(metrics),
        ready=reason is None,
        reason=reason,
        metrics=metrics,
        dead_letters=observed.count_dead_letters(),
        cache=cache_of(observed.queue),
        stream=stream_of(observed.queue),
    )


_WHY_NOT_READY: Final = {
    QueueState.WAITING: "the store can't be reached, or needs a person",
    QueueState.PAUSED: (
        "nothing is written: a background task crashed, or the dead letter sink fails"
    ),
    QueueState.DRAINING: "it is draining and takes no more entries",
    QueueState.CLOSED: "it is closed and takes no more entries",
}


def why_not_ready(metrics: WriteBehindMetrics) -> str | None:
    """Return why the queue should get no new work, or None if it should."""
    if metrics.state in _WHY_NOT_READY:
        return _WHY_NOT_READY[metrics.state]
    if metrics.durable is False:
        return "the journal can't be written: accepted entries would not survive a crash"
    return None


def _summarize(metrics: WriteBehindMetrics) -> str:
    """Say in one sentence what the queue does."""
    left = metrics.current_queue_depth + metrics.in_flight
    match metrics.state:
        case QueueState.RUNNING:
            return _summarize_running(metrics, left)
        case QueueState.WAITING:
            return (
                "The store can't be reached, or needs a person; "
                f"{counted_entries(left)} wait{_s(left)} for it, and it is tried again without end."
            )
        case QueueState.PAUSED:
            return (
                "Nothing is written, because a background task crashed or the dead letter sink "
                f"fails; {counted_entries(left)} {_are(left)} kept until that is over."
            )
        case QueueState.DRAINING:
            return (
                f"No more entries are accepted; {counted_entries(left)} {_are(left)} left to write."
            )
        case QueueState.CLOSED:  # pragma: no branch  # there is no other
            return _summarize_end(metrics)


def _summarize_end(metrics: WriteBehindMetrics) -> str:
    left = metrics.total_abandoned
    if left == 0:
        return "The queue has ended, and nothing was left behind."
    is_safe = metrics.total_kept == left
    where = (
        "stayed in the journal, or went back to the stream"
        if is_safe
        else "went back to the program"
    )
    return f"The queue has ended; {counted_entries(left)} that {_are(left)} not known to be stored {where}."


def _summarize_running(metrics: WriteBehindMetrics, left: int) -> str:
    doing = "A journal is replayed" if metrics.recovering else "Entries are accepted and written"
    if left == 0:
        return f"{doing}; none is waiting."
    age = _duration(metrics.oldest_pending_seconds)
    summary = f"{doing}; {counted_entries(left)} {_are(left)} on the way, the oldest for {age}."
    if metrics.call_seconds < _SLOW_CALL:
        return summary
    return f"{summary} A call of the store has not returned for {_duration(metrics.call_seconds)}."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _s(count: int) -> str:
    return "s" if count == 1 else ""


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
